package iptables

import (
	"slices"
	"strings"
	"testing"
	"time"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// labState has something in every one of our chains.
func labState(family proxier.Family) *proxier.State {
	return goldenState(family, func(st *proxier.State, s *proxier.Service) {
		addFrontends(st, s, externalLocal(proxier.ToLocal)...)
		allow(st, s)
		s.HealthPort = 32100
	})
}

// What others do to our chains is noticed and repaired; the same State then stands
// as before.
func TestDriftIsRepaired(t *testing.T) {
	for _, c := range []struct {
		name string
		says string // part of what Drifted tells
		do   func(realKernel)
	}{
		{"nat flushed", "nat KUBE-", func(k realKernel) { k.run("-t", "nat", "-F") }},
		{"everything flushed", "KUBE-", func(k realKernel) {
			for _, table := range []string{"nat", "filter"} {
				k.run("-t", table, "-F")
				k.run("-t", table, "-X")
			}
		}},
		{"a chain flushed", "filter KUBE-FORWARD", func(k realKernel) { k.run("-F", "KUBE-FORWARD") }},
		{"a chain deleted", "filter KUBE-PROXY-FIREWALL", func(k realKernel) {
			for _, from := range []string{"INPUT", "OUTPUT", "FORWARD"} {
				k.run("-D", from, "-m", "conntrack", "--ctstate", "NEW", "-m", "comment", "--comment", firewallComment, "-j", "KUBE-PROXY-FIREWALL")
			}
			k.run("-F", "KUBE-PROXY-FIREWALL")
			k.run("-X", "KUBE-PROXY-FIREWALL")
		}},
		{"our jump deleted", "PREROUTING", func(k realKernel) {
			k.run("-t", "nat", "-D", "PREROUTING", "-m", "comment", "--comment", portalsComment, "-j", "KUBE-SERVICES")
		}},
		{"a rule put into our chain", "nat KUBE-POSTROUTING", func(k realKernel) { k.run("-t", "nat", "-I", "KUBE-POSTROUTING", "-j", "ACCEPT") }},
		{"a chain in our name", "nat KUBE-SVC-STRANGER", func(k realKernel) { k.run("-t", "nat", "-N", "KUBE-SVC-STRANGER") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachKernel(t, func(t *testing.T, k realKernel) {
				b := k.backend()
				s := labState(k.Family())
				noneAside(t, mustApply(t, b, s))
				before := k.save()
				c.do(k)
				what, err := b.Drifted(t.Context())
				if err != nil || !strings.Contains(what, c.says) {
					t.Fatalf("drifted: %q, %v; want …%s…", what, err, c.says)
				}
				report := mustApply(t, b, s)
				if report.Repaired != what || report.Operations == 0 {
					t.Errorf("repaired %q with %d operations, want %q", report.Repaired, report.Operations, what)
				}
				if after := comparableSave(k.save()); after != comparableSave(before) {
					t.Errorf("not as before: %s", firstDifference(after, comparableSave(before)))
				}
				k.checkQuiet(b, s)
			})
		})
	}
}

// What others do elsewhere is their own business.
func TestForeignWritesAreNoDrift(t *testing.T) {
	eachKernel(t, func(t *testing.T, k realKernel) {
		b := k.backend()
		s := labState(k.Family())
		noneAside(t, mustApply(t, b, s))
		for _, do := range [][]string{
			{"-N", "CORP"}, {"-A", "CORP", "-j", "DROP"}, {"-I", "INPUT", "-p", "tcp", "--dport", "22", "-j", "ACCEPT"},
			{"-t", "nat", "-N", "DOCKER"}, {"-t", "nat", "-A", "PREROUTING", "-j", "DOCKER"}, {"-t", "mangle", "-N", "KUBE-IPTABLES-HINT"},
		} {
			k.run(do...)
			if what, err := b.Drifted(t.Context()); what != "" || err != nil {
				t.Errorf("%v: drifted: %q, %v", do, what, err)
			}
			stamp := k.stamp()
			if report := mustApply(t, b, s); report.Operations != 0 || k.stamp() != stamp {
				t.Errorf("%v: %d operations", do, report.Operations)
			}
		}
	})
}

// Comparing the tables is not done again for a stamp that was compared.
func TestDriftLooksOnce(t *testing.T) {
	k := newFake(false) // without prints
	b := k.backend()
	mustApply(t, b, plainState(5, 2))
	k.tables["filter"]["CORP"] = []string{"-j DROP"}
	k.writes++
	first := k.execs
	for range 3 {
		if what, err := b.Drifted(t.Context()); what != "" || err != nil {
			t.Errorf("drifted: %q, %v", what, err)
		}
	}
	if looked := k.execs - first; looked != 2 { // the two tables, once
		t.Errorf("ran %d programs, want 2", looked)
	}
}

// eachNFT is eachKernel of the flavour that gives prints.
func eachNFT(t *testing.T, test func(*testing.T, realKernel)) {
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		t.Run(family.String(), func(t *testing.T) {
			newNamespace(t)
			test(t, openKernel(t, family, ruleset.NFT))
		})
	}
}

// What others do to our chains shows in the prints: no program runs to notice it.
// Only to tell whose rule a base chain lost the tables are read.
func TestDriftShowsInPrints(t *testing.T) {
	for _, c := range []struct {
		name, says string
		do         func(realKernel)
		programs   int64
	}{
		{"a chain flushed", "filter KUBE-FORWARD", func(k realKernel) { k.run("-F", "KUBE-FORWARD") }, 0},
		{"nat flushed", "nat KUBE-", func(k realKernel) { k.run("-t", "nat", "-F") }, 0},
		{"everything deleted", "KUBE-", func(k realKernel) {
			for _, table := range []string{"nat", "filter"} {
				k.run("-t", table, "-F")
				k.run("-t", table, "-X")
			}
		}, 0},
		{"an empty chain deleted, and the jump to it", "filter KUBE-EXTERNAL-", func(k realKernel) {
			k.run("-F", "KUBE-EXTERNAL-SERVICES")
			k.run("-X", "KUBE-EXTERNAL-NODEPORTS")
		}, 0},
		{"a rule inserted", "nat KUBE-POSTROUTING", func(k realKernel) { k.run("-t", "nat", "-I", "KUBE-POSTROUTING", "-j", "ACCEPT") }, 0},
		{"a rule replaced by one of equal size", "filter KUBE-FORWARD", func(k realKernel) {
			k.run("-R", "KUBE-FORWARD", "1", "-m", "conntrack", "--ctstate", "NEW", "-j", "DROP")
		}, 0},
		{"a rule deleted", "nat KUBE-MARK-MASQ", func(k realKernel) { k.run("-t", "nat", "-D", "KUBE-MARK-MASQ", "1") }, 0},
		{"a chain in our name", "nat KUBE-SVC-STRANGER", func(k realKernel) { k.run("-t", "nat", "-N", "KUBE-SVC-STRANGER") }, 0},
		{"our jump deleted", "the way to our chains from PREROUTING", func(k realKernel) {
			k.run("-t", "nat", "-D", "PREROUTING", "-m", "comment", "--comment", portalsComment, "-j", "KUBE-SERVICES")
		}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachNFT(t, func(t *testing.T, k realKernel) {
				b := k.backend()
				s := labState(k.Family())
				noneAside(t, mustApply(t, b, s))
				before := k.save()
				c.do(k)
				first := k.Execs()
				what, err := b.Drifted(t.Context())
				if err != nil || !strings.Contains(what, c.says) {
					t.Fatalf("drifted: %q, %v; want …%s…", what, err, c.says)
				}
				if ran := k.Execs() - first; ran != c.programs {
					t.Errorf("ran %d programs, want %d", ran, c.programs)
				}
				if report := mustApply(t, b, s); report.Repaired != what || report.Operations == 0 {
					t.Errorf("repaired %q with %d operations, want %q", report.Repaired, report.Operations, what)
				}
				if after := comparableSave(k.save()); after != comparableSave(before) {
					t.Errorf("not as before: %s", firstDifference(after, comparableSave(before)))
				}
				k.checkQuiet(b, s)
			})
		})
	}
}

// Writes of others, and of our own other family, run no program, also when they come
// right after, or before, our own.
func TestForeignWritesRunNoProgram(t *testing.T) {
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		t.Run(family.String(), func(t *testing.T) {
			newNamespace(t)
			k := openKernel(t, family, ruleset.NFT)
			other := openKernel(t, proxier.IPv4+proxier.IPv6-family, ruleset.NFT)
			b, s := k.backend(), labState(family)
			b2, s2 := other.backend(), labState(other.Family())
			noneAside(t, mustApply(t, b, s))
			noneAside(t, mustApply(t, b2, s2))
			states := []*proxier.State{edited(s, 0, func(svc *proxier.Service) { svc.HealthPort++ }), s}
			for i, do := range [][]string{
				{"-N", "CORP"}, {"-A", "CORP", "-j", "DROP"}, {"-t", "mangle", "-N", "KUBE-IPTABLES-HINT"},
				{"-I", "INPUT", "-p", "tcp", "--dport", "22", "-j", "ACCEPT"}, {"-t", "nat", "-N", "DOCKER"},
				{"-t", "nat", "-A", "PREROUTING", "-j", "DOCKER"}, {"-F", "CORP"}, {"-X", "CORP"},
			} {
				k.run(do...)
				mustApply(t, b, states[i%2])
				mustApply(t, b2, edited(s2, 0, func(svc *proxier.Service) { svc.HealthPort += uint16(1 + i) }))
				other.run("-t", "nat", "-N", "OTHER"+string(rune('A'+i)))
				first := k.Execs() + other.Execs()
				for _, b := range []*Backend{b, b2} {
					b.watch.last = time.Time{} // due, however dear the last one was
					if what, err := b.Drifted(t.Context()); what != "" || err != nil {
						t.Errorf("%v: drifted: %q, %v", do, what, err)
					}
				}
				if ran := k.Execs() + other.Execs() - first; ran != 0 {
					t.Errorf("%v: ran %d programs", do, ran)
				}
			}
		})
	}
}

// What is written while prints are read, or before the prints of a large Apply are
// read, is not taken for ours.
func TestPrintsAreOfWhatWeWrote(t *testing.T) {
	spoil := func(k *fakeKernel) {
		k.tables["nat"]["KUBE-MARK-MASQ"] = []string{"-j ACCEPT"}
		k.writes++
	}
	for _, c := range []struct {
		name     string
		services int
		when     func(k *fakeKernel, b *Backend)
	}{
		{"after a small Apply", 3, func(k *fakeKernel, b *Backend) { spoil(k) }},
		{"after a large Apply", 1000, func(k *fakeKernel, b *Backend) { spoil(k) }},
		{"after a large Apply and its reading", 1000, func(k *fakeKernel, b *Backend) {
			if what, err := b.Drifted(t.Context()); what != "" || err != nil || len(b.watch.unread) > 0 {
				t.Errorf("drifted %q, %v, %d prints unknown", what, err, len(b.watch.unread))
			}
			spoil(k)
		}},
		{"while the prints are read", 1000, func(k *fakeKernel, b *Backend) {
			k.onPrints = func() { k.onPrints = nil; spoil(k) }
			if what, err := b.Drifted(t.Context()); what != "" || err != nil || len(b.watch.unread) == 0 {
				t.Errorf("drifted %q, %v, %d prints unknown", what, err, len(b.watch.unread))
			}
		}},
		{"before another Apply", 3, func(k *fakeKernel, b *Backend) {
			spoil(k)
			mustApply(t, b, plainState(4, 2))
		}},
		{"before another Apply, after a large one", 1000, func(k *fakeKernel, b *Backend) {
			spoil(k)
			mustApply(t, b, plainState(1001, 2))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newFake(true)
			b := k.backend()
			mustApply(t, b, plainState(c.services, 2))
			c.when(k, b)
			if what, err := b.Drifted(t.Context()); what != "chain nat KUBE-MARK-MASQ was changed or deleted" || err != nil {
				t.Errorf("drifted: %q, %v", what, err)
			}
		})
	}
}

// Where prints were not known, comparing the tables makes them so; chains that go
// take theirs with them.
func TestPrintsFollowTheChains(t *testing.T) {
	k := newFake(true)
	b := k.backend()
	for _, n := range []int{1000, 3, 1500, 0} {
		mustApply(t, b, plainState(n, 2))
		k.writes++
		b.watch.last = time.Time{}
		if what, err := b.Drifted(t.Context()); what != "" || err != nil {
			t.Errorf("%d services: drifted: %q, %v", n, what, err)
		}
		got, want := b.watch.prints, b.mem.held
		if len(got["nat"]) != len(want["nat"]) || len(got["filter"]) != len(want["filter"]) || len(b.watch.unread) > 0 {
			t.Errorf("%d services: prints of %d and %d chains, %d not known; want %v", n, len(got["nat"]), len(got["filter"]), len(b.watch.unread), b.mem.totals())
		}
	}
}

// A way to our chains that stood before a restart is missed as one that was made.
func TestLostWaysAfterARestart(t *testing.T) {
	for i, rule := range baseRules(&plainState(3, 2).Node) {
		k := newFake(true)
		mustApply(t, k.backend(), plainState(3, 2))
		b := k.backend()
		mustApply(t, b, plainState(3, 2))
		k.tables[rule.table][rule.chain] = slices.DeleteFunc(slices.Clone(k.tables[rule.table][rule.chain]),
			func(text string) bool { return ruleset.ParseRule(text) == rule.rule })
		k.writes++
		if what, err := b.Drifted(t.Context()); what != "the way to our chains from "+rule.chain+" was deleted" || err != nil {
			t.Errorf("base rule %d: drifted: %q, %v", i, what, err)
		}
	}
}

// BenchmarkDrifted is one look after somebody else wrote, at 10,000 services of two
// endpoints.
func BenchmarkDrifted(b *testing.B) {
	newNamespace(b)
	k := openKernel(b, proxier.IPv4, ruleset.NFT)
	backend := k.backend()
	s := plainState(10_000, 2)
	mustApply(b, backend, s)
	first := k.Execs()
	start := time.Now()
	if what, err := backend.Drifted(b.Context()); what != "" || err != nil || len(backend.watch.unread) > 0 {
		b.Fatal(what, err, len(backend.watch.unread))
	}
	b.Logf("prints read: %d ms", time.Since(start).Milliseconds())
	for b.Loop() {
		b.StopTimer()
		k.run("-t", "mangle", "-A", "PREROUTING", "-j", "ACCEPT")
		backend.watch.last = time.Time{}
		b.StartTimer()
		if what, err := backend.Drifted(b.Context()); what != "" || err != nil {
			b.Fatal(what, err)
		}
	}
	if ran := k.Execs() - first; ran != 0 {
		b.Errorf("ran %d programs", ran)
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/look")
}

var _ kernel = (*ruleset.Tool)(nil)
