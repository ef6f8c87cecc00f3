package iptables

import (
	"os"
	"strings"
	"testing"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// both flavours of both families in one namespace, as cleanup finds them.
func allKernels(t *testing.T) []realKernel {
	t.Helper()
	newNamespace(t)
	var all []realKernel
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		for _, flavour := range []ruleset.Flavour{ruleset.NFT, ruleset.Legacy} {
			all = append(all, openKernel(t, family, flavour))
		}
	}
	return all
}

func TestCleanupLeavesWhatIsNotOurs(t *testing.T) {
	for _, c := range []struct {
		name  string
		crash func(realKernel) // what a crash left of ours
	}{
		{"after an apply", func(realKernel) {}},
		{"the ways to our chains are gone", func(k realKernel) {
			for _, rule := range baseRules(&labState(k.Family()).Node) {
				if rule.rule.Jump != "KUBE-FIREWALL" && rule.chain != "KUBE-FIREWALL" {
					_, _ = k.RemoveJump(rule.jump())
				}
			}
		}},
		{"some of our chains are gone", func(k realKernel) {
			for _, from := range []string{"PREROUTING", "OUTPUT"} {
				k.run("-t", "nat", "-D", from, "-m", "comment", "--comment", portalsComment, "-j", "KUBE-SERVICES")
			}
			k.run("-t", "nat", "-F", "KUBE-SERVICES")
			k.run("-t", "nat", "-X", "KUBE-SERVICES")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			kernels := allKernels(t)
			before := map[int]string{}
			for i, k := range kernels {
				if err := k.restore(k.foreign()+kubeletGuard(k.Family()), "--noflush"); err != nil {
					t.Fatal(err)
				}
				before[i] = k.save()
				noneAside(t, mustApply(t, k.backend(), labState(k.Family())))
				c.crash(k)
			}
			removed, err := cleanup(t.Context())
			if err != nil || len(removed) != 4 {
				t.Errorf("removed %q, %v; want something of all four", removed, err)
			}
			for i, k := range kernels {
				checkForeign(t, k, before[i])
			}
			stamps := map[int]ruleset.Stamp{}
			for i, k := range kernels {
				stamps[i] = k.stamp()
			}
			if again, err := cleanup(t.Context()); err != nil || len(again) != 0 {
				t.Errorf("again: removed %q, %v", again, err)
			}
			for i, k := range kernels {
				if k.stamp() != stamps[i] {
					t.Errorf("%s %s: the second cleanup wrote", k.Family(), k.Flavour())
				}
			}
		})
	}
}

// kubeletGuard is the rule that the kubelet keeps in its chain, and we as well.
func kubeletGuard(family proxier.Family) string {
	if family == proxier.IPv6 {
		return ""
	}
	return "*filter\n-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment \"block incoming localnet connections\" " +
		"-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\nCOMMIT\n"
}

// A kubelet whose chain holds the guard only keeps it.
func TestCleanupLeavesTheKubeletsFirewall(t *testing.T) {
	newNamespace(t)
	for _, flavour := range []ruleset.Flavour{ruleset.NFT, ruleset.Legacy} {
		k := openKernel(t, proxier.IPv4, flavour)
		kubelet := "*filter\n:KUBE-KUBELET-CANARY - [0:0]\n:KUBE-FIREWALL - [0:0]\n-A INPUT -j KUBE-FIREWALL\n-A OUTPUT -j KUBE-FIREWALL\nCOMMIT\n"
		if err := k.restore(kubelet+kubeletGuard(proxier.IPv4), "--noflush"); err != nil {
			t.Fatal(err)
		}
		before := k.save()
		noneAside(t, mustApply(t, k.backend(), labState(proxier.IPv4)))
		if _, err := cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		checkForeign(t, k, before)
	}
}

// checkForeign compares with what others had.
func checkForeign(t *testing.T, k realKernel, before string) {
	t.Helper()
	after := k.save()
	if after != before {
		t.Errorf("%s %s: %s", k.Family(), k.Flavour(), firstDifference(after, before))
	}
}

// Where nobody else uses KUBE-FIREWALL, it goes.
func TestCleanupTakesTheFirewallThatIsOursAlone(t *testing.T) {
	newNamespace(t)
	for _, flavour := range []ruleset.Flavour{ruleset.NFT, ruleset.Legacy} {
		k := openKernel(t, proxier.IPv4, flavour)
		before := k.save()
		noneAside(t, mustApply(t, k.backend(), labState(proxier.IPv4)))
		if !strings.Contains(k.save(), "KUBE-FIREWALL") {
			t.Fatal("no KUBE-FIREWALL")
		}
		if _, err := cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after := k.save(); strings.Contains(after, "KUBE") {
			t.Errorf("left: %s", firstDifference(after, before))
		}
	}
}

// On a node without legacy tables a look must not make them: another kind of proxy,
// or a wrapper script, would take the node for one that uses them.
func TestCleanupMakesNoLegacyTables(t *testing.T) {
	newNamespace(t)
	k := openKernel(t, proxier.IPv4, ruleset.NFT)
	noneAside(t, mustApply(t, k.backend(), labState(proxier.IPv4)))
	if removed, err := cleanup(t.Context()); err != nil || len(removed) != 1 {
		t.Errorf("removed %q, %v", removed, err)
	}
	for _, name := range []string{"ip_tables_names", "ip6_tables_names"} {
		if text, err := os.ReadFile("/proc/thread-self/net/" + name); err == nil && len(text) > 0 {
			t.Errorf("%s: %q", name, text)
		}
	}
}
