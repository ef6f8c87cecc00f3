package ruleset

import (
	"strings"
	"testing"

	"switchyard/proxier"
)

func TestChooseFlavour(t *testing.T) {
	const (
		hint   = "*mangle\n:PREROUTING ACCEPT [0:0]\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n"
		canary = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n"
		nat    = "*nat\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n"
		one    = "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n-A PREROUTING -j ACCEPT\nCOMMIT\n"
		two    = "*nat\n:PREROUTING ACCEPT [0:0]\n:MINE - [0:0]\n-A PREROUTING -j MINE\nCOMMIT\n"
		empty  = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\nCOMMIT\n"
	)
	for _, c := range []struct {
		name                   string
		nftMangle, legacy, nft string
		want                   Flavour
		reason                 string
	}{
		{"nothing anywhere", "", "", "", NFT, "hold no rules"},
		{"kubelet's hint in nft", hint, "", hint, NFT, "KUBE-IPTABLES-HINT is in the nft"},
		{"kubelet's canary in nft", canary, "", canary, NFT, "KUBE-KUBELET-CANARY is in the nft"},
		{"hint in nft against more rules in legacy", hint, two, hint, NFT, "HINT is in the nft"},
		{"hints in both: nft", hint, canary, hint, NFT, "HINT is in the nft"},
		{"hint in legacy against more rules in nft", "", hint, two + two, Legacy, "HINT is in the legacy"},
		{"the hint's name in another table is no hint", "", nat, one + one, NFT, "at least as many"},
		{"more rules in legacy", "", two, one, Legacy, "there (2) than in the nft tables (1)"},
		{"more rules in nft", "", one, two, NFT, "there (2) as in the legacy tables (1)"},
		{"as many in both: nft", "", two, two, NFT, "at least as many"},
		{"nothing in legacy", "", "", two, NFT, "legacy tables hold no rules"},
		{"built-in chains are nobody's rules", "", empty, "", NFT, "hold no rules"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := func(s string) func() []byte { return func() []byte { return []byte(s) } }
			got, reason := chooseFlavour(saves{text(c.nftMangle), text(c.legacy), text(c.nft)})
			if got != c.want || !strings.Contains(reason, c.reason) || !strings.HasPrefix(reason, string(got)+": ") {
				t.Errorf("%s, %q; want %s, …%q…", got, reason, c.want, c.reason)
			}
		})
	}
}

// The kubelet may have written one family only; both families must follow it.
func TestFindFollowsTheKubelet(t *testing.T) {
	for _, c := range []struct {
		flavour Flavour
		chain   string
	}{{NFT, "KUBE-KUBELET-CANARY"}, {Legacy, "KUBE-IPTABLES-HINT"}} {
		t.Run(string(c.flavour), func(t *testing.T) {
			kubelet := newTool(t, proxier.IPv6, c.flavour)
			if err := kubelet.EnsureChain("mangle", c.chain); err != nil {
				t.Fatal(err)
			}
			for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
				tool, err := Find(t.Context(), family, "")
				if err != nil {
					t.Fatal(err)
				}
				if tool.Flavour() != c.flavour || !strings.Contains(tool.Reason(), c.chain) {
					t.Errorf("%s: %s, %q", family, tool.Flavour(), tool.Reason())
				}
			}
		})
	}
}
