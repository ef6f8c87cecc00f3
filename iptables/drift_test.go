package iptables

import (
	"strings"
	"testing"

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
	k := newFake(true)
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

var _ kernel = (*ruleset.Tool)(nil)
