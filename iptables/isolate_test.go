package iptables

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// poisoned makes a kernel that takes no line that mentions one of the services.
func poisoned(services ...*proxier.Service) func(string) bool {
	return func(line string) bool {
		return slices.ContainsFunc(services, func(s *proxier.Service) bool { return strings.Contains(line, s.Name.String()) })
	}
}

// without is a State less some services.
func stateWithout(s *proxier.State, out ...*proxier.Service) *proxier.State {
	left := slices.DeleteFunc(slices.Clone(s.Services), func(svc *proxier.Service) bool { return slices.Contains(out, svc) })
	return &proxier.State{Family: s.Family, Node: s.Node, Services: left}
}

// checkAside says that a report names exactly these services, each with a reason
// that shows one of its own lines (nft), or the refusal (legacy).
func checkAside(t *testing.T, nft bool, report proxier.Report, want ...*proxier.Service) {
	t.Helper()
	if len(report.SetAside) != len(want) {
		t.Fatalf("%d set aside, want %d: %v", len(report.SetAside), len(want), report.SetAside)
	}
	for i, aside := range report.SetAside {
		var refusal *ruleset.RestoreError
		if aside.Service != want[i].Name || !errors.As(aside.Reason, &refusal) {
			t.Errorf("set aside: %v, want %s with the kernel's refusal", aside, want[i].Name)
		} else if nft && !strings.Contains(refusal.Text, want[i].Name.String()) {
			t.Errorf("%s is set aside for a line of others: %v", aside.Service, refusal)
		}
	}
}

// checkHolds compares the kernel's chains with those of a State on a fresh kernel.
func checkHolds(t *testing.T, k *fakeKernel, s *proxier.State) {
	t.Helper()
	fresh := newFake(k.nft)
	mustApply(t, fresh.backend(), s)
	if got, want := comparable(k.dumps()), comparable(fresh.dumps()); got != want {
		t.Errorf("holds other chains: %s", firstDifference(got, want))
	}
}

func eachStyle(t *testing.T, test func(t *testing.T, nft bool)) {
	t.Run("nft names the lines", func(t *testing.T) { test(t, true) })
	t.Run("legacy names the COMMIT", func(t *testing.T) { test(t, false) })
}

func TestPoisonedServiceIsSetAside(t *testing.T) {
	eachStyle(t, func(t *testing.T, nft bool) {
		k := newFake(nft)
		b := k.backend()
		s := plainState(100, 3)
		bad := s.Services[42]
		k.refuse = poisoned(bad)
		checkAside(t, nft, mustApply(t, b, s), bad)
		checkHolds(t, k, stateWithout(s, bad))

		// Other services change meanwhile: it is not tried again.
		s = edited(s, 7, lessOne)
		report := mustApply(t, b, s)
		checkAside(t, nft, report, bad)
		if report.Operations != 1 {
			t.Errorf("another service changed: %d operations, want 1", report.Operations)
		}
		checkHolds(t, k, stateWithout(s, bad))

		// The same State again is a retry; first still refused, then not.
		checkAside(t, nft, mustApply(t, b, s), bad)
		k.refuse = nil
		noneAside(t, mustApply(t, b, s))
		checkHolds(t, k, s)
		checkQuiet(t, k, b, s)
	})
}

func TestOldVersionStandsWhileTheNewOneIsRefused(t *testing.T) {
	eachStyle(t, func(t *testing.T, nft bool) {
		k := newFake(nft)
		b := k.backend()
		was := plainState(100, 3)
		noneAside(t, mustApply(t, b, was))
		is := edited(edited(was, 42, func(s *proxier.Service) { s.Cluster = append(slices.Clone(s.Cluster), plainEndpoints(600, 5)...) }), 43, lessOne)
		bad := is.Services[42]
		k.refuse = func(line string) bool { return strings.Contains(line, "10.128.2.89") } // pod 601
		report := mustApply(t, b, is)
		if len(report.SetAside) != 1 || report.SetAside[0].Service != bad.Name {
			t.Fatalf("set aside: %v", report.SetAside)
		}
		checkHolds(t, k, edited(was, 43, lessOne))

		// Deleting it needs nobody's leave.
		gone := stateWithout(is, bad)
		noneAside(t, mustApply(t, b, gone))
		checkHolds(t, k, gone)
	})
}

func TestTenPoisonedOfThousand(t *testing.T) {
	eachStyle(t, func(t *testing.T, nft bool) {
		k := newFake(nft)
		s := plainState(1000, 2)
		var bad []*proxier.Service
		for i := range 10 {
			bad = append(bad, s.Services[i*i*11])
		}
		k.refuse = poisoned(bad...)
		report := mustApply(t, k.backend(), s)
		checkAside(t, nft, report, bad...)
		checkHolds(t, k, stateWithout(s, bad...))
		restores := len(k.restores) - 1 // the first made what others keep
		t.Logf("%d restores", restores)
		if nft && restores > 8 || restores > 10*2*10 { // 10 services, halved 10 times
			t.Errorf("%d restores", restores)
		}
	})
}

// A service may be refused where no line is its own: by the entry in a chain of all.
func TestPoisonedEntryIsFound(t *testing.T) {
	eachStyle(t, func(t *testing.T, nft bool) {
		k := newFake(nft)
		s := plainState(100, 3)
		bad := s.Services[17]
		k.refuse = func(line string) bool {
			return strings.Contains(line, bad.Name.String()+" cluster IP") && strings.Contains(line, "-A KUBE-SERVICES")
		}
		report := mustApply(t, k.backend(), s)
		if len(report.SetAside) != 1 || report.SetAside[0].Service != bad.Name {
			t.Fatalf("set aside: %v", report.SetAside)
		}
		checkHolds(t, k, stateWithout(s, bad))
	})
}

// The kernel took a service once and, when somebody flushed its tables, no more.
func TestPoisonedAfterAFlush(t *testing.T) {
	eachStyle(t, func(t *testing.T, nft bool) {
		k := newFake(nft)
		b := k.backend()
		s := plainState(100, 3)
		noneAside(t, mustApply(t, b, s))
		k.tables["nat"] = emptyFake(nft).tables["nat"]
		k.writes++
		k.refuse = poisoned(s.Services[3])
		if what, err := b.Drifted(t.Context()); what == "" || err != nil {
			t.Fatalf("drifted: %q, %v", what, err)
		}
		checkAside(t, nft, mustApply(t, b, s), s.Services[3])
		if ours := k.tables["nat"]["KUBE-SERVICES"]; len(ours) != 99+2 {
			t.Errorf("KUBE-SERVICES has %d rules, want 99 services, localhost kept in and the way to node ports", len(ours))
		}
	})
}

func TestNobodysFaultIsAnError(t *testing.T) {
	eachStyle(t, func(t *testing.T, nft bool) {
		k := newFake(nft)
		b := k.backend()
		k.refuse = func(line string) bool { return strings.Contains(line, "MASQUERADE") }
		report, err := b.Apply(t.Context(), plainState(20, 2))
		var refusal *ruleset.RestoreError
		if !errors.As(err, &refusal) || len(report.SetAside) > 0 {
			t.Errorf("plumbing refused: %v, set aside %v", err, report.SetAside)
		}
		k.refuse = nil
		noneAside(t, mustApply(t, b, plainState(20, 2)))
		checkHolds(t, k, plainState(20, 2))
	})
}

func TestHeldLockIsAnError(t *testing.T) {
	for _, at := range []int{-1, 0, 1} {
		k := newFake(true)
		b := k.backend()
		k.fault = func(commit int) error {
			if commit == at {
				return lockHeld()
			}
			return nil
		}
		report, err := b.Apply(t.Context(), plainState(20, 2))
		var refusal *ruleset.RestoreError
		if !errors.As(err, &refusal) || !refusal.Temporary() || len(report.SetAside) > 0 || len(b.aside.List()) > 0 {
			t.Errorf("lock held at call %d: %v, set aside %v", at, err, report.SetAside)
		}
	}
}

// What cannot be said in rules is set aside with its reason; all else goes in.
func TestInexpressibleIsSetAside(t *testing.T) {
	routes := func(rows ...proxier.Route) func(*proxier.Service) { return external("198.51.100.9:80", 0, rows...) }
	pods := proxier.Route{From: proxier.FromPods, To: proxier.ToCluster}
	for _, c := range []struct {
		name, reason string
		node         func(*proxier.Node)
		edit         func(*proxier.Service)
	}{
		{"pods that nothing tells from others", "nothing tells pods from others",
			func(n *proxier.Node) { n.PodRanges = nil }, routes(pods, anyone)},
		{"a terminal row in the middle", "before the last row",
			nil, routes(proxier.Route{From: proxier.FromPods, To: proxier.ToDrop}, anyone)},
		{"a node port with allowed sources", "allowed sources", nil, func(s *proxier.Service) {
			external("", 30099, anyone)(s)
			s.Frontends[1].Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		}},
		{"a ClusterIP with two targets", "different targets", nil, func(s *proxier.Service) {
			s.Frontends[0].Routes = []proxier.Route{pods, rejected}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := plainState(100, 2)
			for _, svc := range s.Services { // no row about pods
				svc.Frontends[0].Routes = []proxier.Route{anyone}
			}
			if c.node != nil {
				c.node(&s.Node)
			}
			good := s
			s = edited(s, 50, func(svc *proxier.Service) { svc.Frontends = slices.Clone(svc.Frontends); c.edit(svc) })
			for _, start := range []*proxier.State{nil, good} {
				k := newFake(true)
				b := k.backend()
				want := stateWithout(s, s.Services[50])
				if start != nil { // its old version stands
					noneAside(t, mustApply(t, b, start))
					want = good
				}
				report := mustApply(t, b, s)
				if len(report.SetAside) != 1 || report.SetAside[0].Service != s.Services[50].Name ||
					!strings.Contains(report.SetAside[0].Reason.Error(), c.reason) {
					t.Errorf("set aside %v, want %s: …%s…", report.SetAside, s.Services[50].Name, c.reason)
				}
				checkHolds(t, k, want)
				noneAside(t, mustApply(t, b, good))
				checkHolds(t, k, good)
			}
		})
	}
}

// A change of the node may make every version of a service inexpressible: then
// nothing of it may be left that nobody remembers.
func TestNodeThatNothingCanBeSaidFor(t *testing.T) {
	k := newFake(true)
	b := k.backend()
	good := plainState(30, 2)
	noneAside(t, mustApply(t, b, good))
	two := &proxier.State{Family: good.Family, Node: good.Node, Services: good.Services}
	two.Node.PodRanges = append(slices.Clip(two.Node.PodRanges), netip.MustParsePrefix("172.20.0.0/16"))
	report := mustApply(t, b, two)
	if len(report.SetAside) != 30 || !strings.Contains(fmt.Sprint(report.SetAside), "2 pod ranges") {
		t.Errorf("two pod ranges: %d set aside: %v", len(report.SetAside), report.SetAside[:min(1, len(report.SetAside))])
	}
	checkHolds(t, k, stateWithout(two, two.Services...))
	noneAside(t, mustApply(t, b, good))
	checkHolds(t, k, good)
	checkQuiet(t, k, b, good)
}

// Somebody's write just before ours must not be taken for ours.
func TestDriftBetweenOurWrites(t *testing.T) {
	k := newFake(true)
	b := k.backend()
	s := plainState(20, 2)
	mustApply(t, b, s)
	k.tables["filter"]["KUBE-FORWARD"] = nil
	k.writes++
	s = edited(s, 1, lessOne)
	mustApply(t, b, s) // does not look at KUBE-FORWARD
	what, err := b.Drifted(t.Context())
	if err != nil || !strings.Contains(what, "KUBE-FORWARD") {
		t.Fatalf("drifted: %q, %v", what, err)
	}
	if report := mustApply(t, b, s); report.Repaired != what {
		t.Errorf("repaired %q, want %q", report.Repaired, what)
	}
	checkHolds(t, k, s)
}

// TestPoisonedAfterARestart holds that looking for a refused service after a
// restart takes nothing out that stands.
func TestPoisonedAfterARestart(t *testing.T) {
	eachStyle(t, func(t *testing.T, nft bool) {
		k := newFake(nft)
		s := plainState(40, 2)
		mustApply(t, k.backend(), s)

		edit := edited(s, 7, lessOne)
		bad := edit.Services[7]
		k.refuse = poisoned(bad)
		gone := map[string]bool{}
		look := func() {
			for _, svc := range stateWithout(edit, bad).Services {
				if chain := servicePrefix + serviceHash(svc); len(k.tables["nat"][chain]) == 0 {
					gone[chain] = true
				}
			}
		}
		k.fault = func(int) error { look(); return nil }
		checkAside(t, nft, mustApply(t, k.backend(), edit), bad)
		look()
		if len(gone) > 0 {
			t.Errorf("while the culprit was looked for, %d services were out", len(gone))
		}
	})
}
