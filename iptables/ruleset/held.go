package ruleset

import (
	"net/netip"
	"slices"

	"switchyard/proxier"
)

// RefuseHeld are the rules that keep others from what listens on the node behind the
// addresses of Services that it holds (proxier.Node.Held): none for none. They stand
// behind all that Services have there, where only packets of state NEW come. What was
// translated goes to an endpoint that may have such an address; protocols that no
// Service has, as ICMP or those of tunnels, pass.
func RefuseHeld(held []netip.Addr, f proxier.Family) []Rule {
	if len(held) == 0 {
		return nil
	}
	reject := "icmp-port-unreachable"
	if f == proxier.IPv6 {
		reject = "icmp6-port-unreachable"
	}
	rules := []Rule{{Comment: "the node reaches its own programs", SrcType: AddrType{Type: "LOCAL"}, Jump: "RETURN"}}
	for _, a := range held {
		for _, p := range []proxier.Protocol{proxier.TCP, proxier.UDP, proxier.SCTP} {
			rules = append(rules, Rule{Proto: p, Dst: Host(a), Comment: "no Service has this port",
				CTState: States{List: "DNAT", Not: true}, Jump: "REJECT", Reject: reject})
		}
	}
	return rules
}

// Union is the addresses of two sorted lists, sorted.
func Union(a, b []netip.Addr) []netip.Addr {
	all := slices.Concat(a, b)
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}
