package main

import (
	"strings"
	"testing"

	"switchyard/cmd/backends"
	"switchyard/proxier"
)

// Each case is a dump of one table, a mode that runs ("": none), and what goes of it.
func TestLeftovers(t *testing.T) {
	const portals = `-m comment --comment "kubernetes service portals" `
	for _, c := range []struct {
		name, runs, table string
		dump, gone        []string
	}{
		{"nothing of any mode", "iptables", "nat",
			[]string{":PREROUTING ACCEPT [0:0]", ":DOCKER - [0:0]", "-A PREROUTING -j DOCKER"}, nil},
		{"the mode that runs", "iptables", "nat",
			[]string{":PREROUTING ACCEPT [0:0]", ":KUBE-SERVICES - [0:0]", "-A PREROUTING " + portals + "-j KUBE-SERVICES"}, nil},
		{"all goes if none runs", "", "nat",
			[]string{":PREROUTING ACCEPT [0:0]", ":KUBE-SERVICES - [0:0]", "-A PREROUTING " + portals + "-j KUBE-SERVICES"},
			[]string{"-D PREROUTING " + portals + "-j KUBE-SERVICES", "KUBE-SERVICES"}},
		{"what two modes share stays", "ipvs", "nat",
			[]string{":PREROUTING ACCEPT [0:0]", ":KUBE-SERVICES - [0:0]", ":KUBE-NODEPORTS - [0:0]", ":KUBE-SEP-A - [0:0]",
				"-A PREROUTING " + portals + "-j KUBE-SERVICES"},
			[]string{"KUBE-NODEPORTS", "KUBE-SEP-A"}},
		{"a rule that only sounds like ours stays", "userspace", "nat",
			[]string{":PREROUTING ACCEPT [0:0]", ":KUBE-SERVICES - [0:0]", ":MINE - [0:0]", "-A PREROUTING " + portals + "-j MINE"},
			[]string{"KUBE-SERVICES"}},
		{"what somebody else uses stays, with all that it needs", "userspace", "nat",
			[]string{":PREROUTING ACCEPT [0:0]", ":KUBE-SVC-A - [0:0]", ":KUBE-SEP-A - [0:0]", ":KUBE-SEP-B - [0:0]",
				"-A PREROUTING -s 192.0.2.1/32 -j KUBE-SVC-A", "-A KUBE-SVC-A -j KUBE-SEP-A"},
			[]string{"KUBE-SEP-B"}},
		{"a rule outside of our dialect leads to a chain, too", "userspace", "nat",
			[]string{":PREROUTING ACCEPT [0:0]", ":KUBE-SVC-A - [0:0]", "-A PREROUTING -m time --timestart 10:00 -j KUBE-SVC-A"}, nil},
		{"other programs' chains stay", "userspace", "filter",
			[]string{":KUBE-ROUTER-INPUT - [0:0]", ":KUBE-NWPLCY-X - [0:0]", ":KUBE-KUBELET-CANARY - [0:0]", ":KUBE-IPTABLES-HINT - [0:0]"}, nil},
		{"the canary of upstream", "iptables", "mangle", []string{":KUBE-PROXY-CANARY - [0:0]"}, []string{"KUBE-PROXY-CANARY"}},
		{"the firewall of upstream's IPVS mode", "ipvs", "filter",
			[]string{":INPUT ACCEPT [0:0]", ":KUBE-PROXY-FIREWALL - [0:0]",
				`-A INPUT -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL`},
			[]string{`-D INPUT -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL`, "KUBE-PROXY-FIREWALL"}},
		{"another mode's way to a chain that stays", "iptables", "filter",
			[]string{":INPUT ACCEPT [0:0]", ":KUBE-PROXY-FIREWALL - [0:0]",
				`-A INPUT -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL`},
			[]string{`-D INPUT -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL`}},
		{"KUBE-FIREWALL of iptables mode", "userspace", "filter", firewall(), []string{
			"-D INPUT -j KUBE-FIREWALL", "KUBE-FIREWALL"}},
		{"KUBE-FIREWALL of the mode that runs", "iptables", "filter", firewall(), nil},
		{"KUBE-FIREWALL that holds nothing", "iptables", "filter",
			[]string{":INPUT ACCEPT [0:0]", ":KUBE-FIREWALL - [0:0]", "-A INPUT -j KUBE-FIREWALL"},
			[]string{"-D INPUT -j KUBE-FIREWALL", "KUBE-FIREWALL"}},
		{"KUBE-FIREWALL beside a kubelet", "userspace", "filter", append(firewall(), ":KUBE-KUBELET-CANARY - [0:0]"), nil},
		{"KUBE-FIREWALL with another's rule", "userspace", "filter", append(firewall(), "-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP"), nil},
	} {
		l := leftovers{all: []proxier.Claim{upstreamRelics()}}
		for _, d := range backends.All() {
			l.all = append(l.all, d.Rules)
			if d.Name == c.runs {
				l.held = d.Rules
			}
		}
		l.read(c.table, []byte(strings.Join(c.dump, "\n")))
		ways, chains := l.removal()
		if got, want := strings.Join(append(ways, chains...), "\n"), strings.Join(c.gone, "\n"); got != want {
			t.Errorf("%s: goes:\n%s\nshould go:\n%s", c.name, got, want)
		}
	}
}

// firewall is KUBE-FIREWALL as iptables mode makes it.
func firewall() (dump []string) {
	dump = []string{":INPUT ACCEPT [0:0]", ":KUBE-FIREWALL - [0:0]", "-A INPUT -j KUBE-FIREWALL"}
	driver, _ := backends.ByName("iptables")
	for _, way := range driver.Rules.Ways {
		if rule, ok := strings.CutPrefix(way, "filter -A KUBE-FIREWALL "); ok {
			dump = append(dump, "-A KUBE-FIREWALL "+rule)
		}
	}
	return dump
}

// A large removal is cut up: first nothing leads to the chains, then all are emptied,
// then they go.
func TestRemovalInput(t *testing.T) {
	l := leftovers{table: "nat"}
	want := "*nat\n-D A -j K1\nCOMMIT\n*nat\n:K1 - [0:0]\n:K2 - [0:0]\nCOMMIT\n*nat\n:K3 - [0:0]\n" +
		"-X K1\n-X K2\nCOMMIT\n*nat\n-X K3\nCOMMIT\n"
	if got := string(l.removalInput([]string{"-D A -j K1"}, []string{"K1", "K2", "K3"}, 2)); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	whole := "*nat\n-D A -j K1\n:K1 - [0:0]\n-X K1\nCOMMIT\n"
	if got := string(l.removalInput([]string{"-D A -j K1"}, []string{"K1"}, 0)); got != whole {
		t.Errorf("got:\n%s\nwant:\n%s", got, whole)
	}
}
