package iptables

import (
	"net/netip"
	"strconv"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// baseRule is a rule of ours in a chain that is not: a base chain of the kernel,
// or KUBE-FIREWALL, which the kubelet shares.
type baseRule struct {
	table, chain string
	rule         ruleset.Rule
	last         bool // stands at the chain's end, not at its top
}

const (
	portalsComment  = "kubernetes service portals"
	externalComment = "kubernetes externally-visible service portals"
	firewallComment = "kubernetes load balancer firewall"
)

// baseRules lists the rules that lead into our chains, in the order in which
// they are inserted at the top of their chains: the last one ends up first.
// Upstream's, but for OUTPUT to KUBE-EXTERNAL-SERVICES: the node's own packets
// to an address without endpoints are refused like everybody's.
func baseRules(n *proxier.Node) []baseRule {
	fresh := ruleset.States{List: "NEW"}
	jump := func(table, chain, to, comment string, states ruleset.States) baseRule {
		return baseRule{table, chain, ruleset.Rule{Comment: comment, CTState: states, Jump: to}, false}
	}
	rules := []baseRule{
		jump("filter", "INPUT", externalServicesChain, externalComment, fresh),
		jump("filter", "FORWARD", externalServicesChain, externalComment, fresh),
		jump("filter", "OUTPUT", externalServicesChain, externalComment, fresh),
		jump("filter", "INPUT", nodePortsChain, "kubernetes health check service ports", ruleset.States{}),
		jump("filter", "FORWARD", servicesChain, portalsComment, fresh),
		jump("filter", "OUTPUT", servicesChain, portalsComment, fresh),
		jump("filter", "FORWARD", forwardChain, "kubernetes forwarding rules", ruleset.States{}),
		jump("filter", "INPUT", proxyFirewallChain, firewallComment, fresh),
		jump("filter", "OUTPUT", proxyFirewallChain, firewallComment, fresh),
		jump("filter", "FORWARD", proxyFirewallChain, firewallComment, fresh),
		jump("nat", "OUTPUT", servicesChain, portalsComment, ruleset.States{}),
		jump("nat", "PREROUTING", servicesChain, portalsComment, ruleset.States{}),
		jump("nat", "POSTROUTING", postroutingChain, "kubernetes postrouting rules", ruleset.States{}),
	}
	if n.NodePorts.Localhost {
		rules = append(rules,
			jump("filter", "INPUT", kubeFirewallChain, "", ruleset.States{}),
			jump("filter", "OUTPUT", kubeFirewallChain, "", ruleset.States{}),
			martianGuard())
	}
	return rules
}

// martianGuard keeps strangers from 127.0.0.0/8, which route_localnet (for node
// ports on localhost) opens to them (CVE-2020-8558).
func martianGuard() baseRule {
	loopback := proxier.IPv4.Loopback()
	return baseRule{"filter", kubeFirewallChain, ruleset.Rule{
		Src: ruleset.Except(loopback), Dst: ruleset.NetOf(loopback),
		Comment: "block incoming localnet connections",
		CTState: ruleset.States{List: "RELATED,ESTABLISHED,DNAT", Not: true},
		Jump:    "DROP",
	}, true}
}

// localhostCount has no target: it counts the connections to NodePorts at a loopback
// address. All of them are masqueraded, and what others translate is not marked.
func localhostCount() ruleset.Rule {
	return ruleset.Rule{OrigDst: proxier.IPv4.Loopback(), Comment: "node ports on localhost"}
}

func invalidDrop() ruleset.Rule {
	return ruleset.Rule{CTState: ruleset.States{List: "INVALID"}, Jump: "DROP"}
}

// toItself matches what an endpoint sends to itself, once it is translated. On the
// loopback it is never an endpoint: what others translate there stays as it is.
func toItself(family proxier.Family) ruleset.Rule {
	return ruleset.Rule{Src: ruleset.Except(family.Loopback()), Comment: "kubernetes endpoints that reach themselves",
		CTState: ruleset.States{List: "DNAT"}, Itself: family}
}

// plumbing are the chains that no service owns: masquerade in nat, and what lets
// forwarded packets through in filter.
func plumbing(c Config, n *proxier.Node) (nat, filter []ruleset.Chain) {
	mark := ruleset.Mark{Value: c.mark(), Mask: c.mark()}
	unmarked := mark
	unmarked.Not = true
	var post []ruleset.Rule
	if c.Itself != 0 {
		snat := toItself(c.Itself)
		snat.Mark, snat.Jump, snat.Random = unmarked, "MASQUERADE", c.RandomFully
		post = append(post, snat)
	}
	post = append(post, ruleset.Rule{Mark: unmarked, Jump: "RETURN"})
	if n.NodePorts.Localhost {
		post = append(post, localhostCount())
	}
	post = append(post,
		// Cleared, so that a packet in a tunnel is not masqueraded again outside.
		ruleset.Rule{Jump: "MARK", SetMark: ruleset.Mark{Value: c.mark()}},
		ruleset.Rule{Comment: "kubernetes service traffic requiring SNAT", Jump: "MASQUERADE", Random: c.RandomFully})
	nat = []ruleset.Chain{
		{Name: markMasqChain, Rules: []ruleset.Rule{{Jump: "MARK", SetMark: mark}}},
		{Name: postroutingChain, Rules: post},
	}
	var forward []ruleset.Rule
	if !c.Liberal {
		// An INVALID packet is not translated back: its receiver would answer a
		// stranger with a reset (kubernetes issue 74839).
		forward = append(forward, invalidDrop())
	}
	forward = append(forward,
		ruleset.Rule{Comment: "kubernetes forwarding rules", Mark: mark, Jump: "ACCEPT"},
		ruleset.Rule{Comment: "kubernetes forwarding conntrack rule",
			CTState: ruleset.States{List: "RELATED,ESTABLISHED"}, Jump: "ACCEPT"})
	if c.Itself != 0 { // as if it were marked
		accept := toItself(c.Itself)
		accept.Jump = "ACCEPT"
		forward = append(forward, accept)
	}
	return nat, []ruleset.Chain{{Name: forwardChain, Rules: forward}}
}

// nodePortWays are the rules that stand last in a root and lead to its node
// ports: one for all local addresses, or one for each that was chosen. Once it is
// translated, nothing tells a neighbour's packet to 127.0.0.1 from others, so it is
// turned away before; the guard of localhost then drops it.
func nodePortWays(n *proxier.Node, family proxier.Family, to, comment string) []ruleset.Rule {
	var ways []ruleset.Rule
	if n.NodePorts.Localhost {
		ways = append(ways, ruleset.Rule{Comment: "node ports on localhost are for this node", Dst: ruleset.NetOf(family.Loopback()),
			SrcType: ruleset.AddrType{Type: "LOCAL", Not: true}, Jump: "RETURN"})
	}
	way := ruleset.Rule{Comment: comment, Jump: to}
	if n.NodePorts.Any {
		way.DstType = ruleset.AddrType{Type: "LOCAL"}
		if !n.NodePorts.Localhost {
			way.Dst = ruleset.Except(family.Loopback())
		}
		return append(ways, way)
	}
	if n.NodePorts.Localhost {
		way.Dst = ruleset.NetOf(family.Loopback())
		ways = append(ways, way)
	}
	for _, a := range n.NodePorts.Addrs {
		way.Dst = ruleset.NetOf(netip.PrefixFrom(a, a.BitLen()))
		ways = append(ways, way)
	}
	return ways
}

const (
	inlineWays = 32  // more node-port addresses than this get chains of their own
	pageRules  = 250 // rules of a page
)

// pages cuts a long list of rules into chains, and puts the ways to them all into
// the chain that has the name; that one comes last. A short list is one chain.
func pages(name string, rules []ruleset.Rule, page func(i int) string) []ruleset.Chain {
	n := pageCount(len(rules))
	if n == 0 {
		return []ruleset.Chain{{Name: name, Rules: rules}}
	}
	first := ruleset.Chain{Name: name}
	var out []ruleset.Chain
	for i := range n {
		out = append(out, ruleset.Chain{
			Name: page(i), Rules: rules[i*pageRules : min(len(rules), (i+1)*pageRules)]})
		first.Rules = append(first.Rules, ruleset.Rule{Jump: page(i)})
	}
	return append(out, first)
}

// pageCount is how many pages a list of n rules takes, 0 if it needs none.
func pageCount(n int) int {
	if n <= pageRules {
		return 0
	}
	return (n + pageRules - 1) / pageRules
}

// numbered names pages NAME-1, NAME-2, …
func numbered(name string) func(int) string {
	return func(i int) string { return name + "-" + strconv.Itoa(i+1) }
}

// tail is what stands behind a root's entries, and the chains that it needs.
func tail(r root, n *proxier.Node, family proxier.Family) (rules []ruleset.Rule, chains []ruleset.Chain) {
	switch r {
	case natServices:
		rules = nodePortWays(n, family, nodePortsChain,
			"kubernetes service nodeports; NOTE: this must be the last rule in this chain")
	case filterExternal:
		rules = nodePortWays(n, family, externalNodePortsChain, "kubernetes service nodeports without endpoints")
		rules = append(rules, ruleset.Rule{Comment: "addresses of services that the node holds", Jump: heldChain})
	}
	if len(rules) <= inlineWays {
		return rules, nil
	}
	return []ruleset.Rule{{Jump: addressesChain}}, pages(addressesChain, rules, numbered(addressesChain))
}
