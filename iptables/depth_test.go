package iptables

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"switchyard/proxier"
)

// maxJumps is how many nested jumps the nft flavour's kernel follows.
const maxJumps = 15

// deepState has everything that makes chains lead to chains, one behind the
// other: addresses chosen to make the tree deep, more source ranges than a chain
// holds, and so many endpoints that they are grouped twice.
func deepState(family proxier.Family) *proxier.State {
	node := plainNode()
	node.PodRanges, node.NodePorts.Localhost = nil, family == proxier.IPv4
	var deep keySet
	for _, s := range keySets {
		if strings.HasSuffix(s.name, "deep") && s.family == family {
			deep = s
		}
	}
	s := &proxier.State{Family: family, Node: node}
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 700 {
		addr, _, port := deep.nth(i, rng)
		svc := plainService(i, 0)
		svc.Cluster = many(family, 1)
		routes := []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToCluster, Masq: true}}
		f := proxier.Frontend{Kind: proxier.LoadBalancer, Addr: netip.AddrPortFrom(addr, port), Routes: routes}
		// One at the tree's deepest. The nft flavour's kernel follows every way through
		// the chains at each write: sources times endpoints.
		if i == map[proxier.Family]int{proxier.IPv4: 7, proxier.IPv6: 31}[family] {
			svc.Cluster = many(family, flatEndpoints*32+100)
			for j := range pageRules + 1 {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, byte(j >> 8), byte(j)}), 32)
				if family == proxier.IPv6 {
					p = netip.PrefixFrom(v6("2001:db8:5::", j), 128)
				}
				f.Allow = append(f.Allow, p)
			}
		}
		svc.Frontends = []proxier.Frontend{f}
		s.Services = append(s.Services, svc)
	}
	return s
}

// TestDeepestRuleset holds that whatever users choose, no packet has to follow
// more jumps than the kernel does, and no chain is too long; the real programs
// take it.
func TestDeepestRuleset(t *testing.T) {
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		t.Run(family.String(), func(t *testing.T) {
			tables, err := Tables(deepState(family), proxier.Settings{MasqueradeBit: 14})
			if err != nil {
				t.Fatal(err)
			}
			for table, chains := range tables {
				seen := map[string]int{}
				var depth func(chain string) int
				depth = func(chain string) int {
					if d, ok := seen[chain]; ok {
						return d
					}
					d := 0
					for _, r := range chains[chain] {
						if _, isChain := chains[r.Jump]; isChain {
							d = max(d, 1+depth(r.Jump))
						}
					}
					seen[chain] = d
					if len(chains[chain]) > 256 {
						t.Errorf("%s %s has %d rules", table, chain, len(chains[chain]))
					}
					return d
				}
				for _, base := range []string{"PREROUTING", "OUTPUT", "INPUT", "FORWARD"} {
					d := depth(base)
					if d > maxJumps {
						t.Errorf("%s %s: %d nested jumps", table, base, d)
					}
					t.Logf("%s %s: %d nested jumps", table, base, d)
				}
			}
		})
	}
}

// TestDeepestRulesetOnTheRealKernel is the same question to the real programs.
func TestDeepestRulesetOnTheRealKernel(t *testing.T) {
	eachKernel(t, func(t *testing.T, k realKernel) {
		if k.Family() == proxier.IPv6 {
			return // the same chains, and the kernel takes its time
		}
		s := deepState(k.Family())
		b := k.backend()
		noneAside(t, mustApply(t, b, s))
		// One more write makes the kernel check the ruleset that hangs on its hooks.
		next := edited(s, 3, func(svc *proxier.Service) { svc.Cluster = many(k.Family(), 2) })
		noneAside(t, mustApply(t, b, next))
		k.checkQuiet(b, next)
	})
}
