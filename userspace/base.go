package userspace

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// Config is what the rules depend on besides the State.
type Config struct {
	MarkBit int    // 0..31: bit of the packet mark by which the relay's own packets are known
	Port    uint16 // the relay's, of each protocol
}

func (c Config) mark() ruleset.Mark {
	return ruleset.Mark{Value: 1 << c.MarkBit, Mask: 1 << c.MarkBit}
}

// baseRule is a rule of ours in a base chain of the kernel; it stands at its top.
type baseRule struct {
	table, chain string
	rule         ruleset.Rule
}

// baseRules lists the rules that lead into our chains, in the order in which they
// are inserted: the last one of a chain ends up first, so that the address of a
// Service wins over a node port.
func baseRules() []baseRule {
	jump := func(table, chain, to, comment string) baseRule {
		return baseRule{table, chain, ruleset.Rule{Comment: comment, Jump: to}}
	}
	fresh := func(chain string) baseRule {
		return baseRule{"filter", chain, ruleset.Rule{Comment: "kubernetes service portals",
			CTState: ruleset.States{List: "NEW"}, Jump: portalsChain}}
	}
	const (
		portals   = "handle ClusterIPs; NOTE: this must be before the NodePort rules"
		nodePorts = "handle service NodePorts; NOTE: this must be the last rule in the chain"
	)
	return []baseRule{
		jump("filter", "INPUT", relayChain, "kubernetes relay"),
		fresh("INPUT"), fresh("FORWARD"), fresh("OUTPUT"),
		jump("nat", "OUTPUT", nodePortHostChain, nodePorts),
		jump("nat", "OUTPUT", portalsHostChain, portals),
		jump("nat", "PREROUTING", nodePortContainerChain, nodePorts),
		jump("nat", "PREROUTING", portalsContainerChain, portals),
	}
}

// jump is the rule in the words of the iptables program.
func (b baseRule) jump() ruleset.Jump {
	match := b.rule
	match.Comment, match.Jump = "", ""
	return ruleset.Jump{Table: b.table, From: b.chain, To: b.rule.Jump,
		Match: strings.Fields(match.String()), Comment: b.rule.Comment}
}

// plumbing are the chains that no service owns.
func plumbing(c Config, n *proxier.Node, family proxier.Family) (nat, filter []ruleset.Chain) {
	own := ruleset.Rule{Comment: "the relay's own connections", Mark: c.mark(), Jump: "RETURN"}
	to := netip.AddrPortFrom(relayAddr(n, family), c.Port)
	toRelay, fromRelay := ruleset.Chain{Name: relayChain}, ruleset.Chain{Name: relayChain}
	for _, p := range []proxier.Protocol{proxier.TCP, proxier.UDP, proxier.SCTP} {
		toRelay.Rules = append(toRelay.Rules, ruleset.Rule{Proto: p, Jump: "DNAT", To: to})
		if p == proxier.SCTP {
			continue // nobody listens: it is refused by the kernel
		}
		fromRelay.Rules = append(fromRelay.Rules, ruleset.Rule{Proto: p, Ports: ruleset.Port(c.Port),
			Comment: "services by the relay", CTState: ruleset.States{List: "DNAT"}, Jump: "ACCEPT"})
	}
	ways := nodePortWays(n, family)
	refusals := pages(addressesChain, append(ways[:len(ways):len(ways)],
		ruleset.Rule{Comment: "addresses of services that the node holds", Jump: heldChain}))
	portals, ports := ruleset.Rule{Jump: portalsChain}, ruleset.Rule{Jump: addressesChain}
	nat = slices.Concat([]ruleset.Chain{toRelay}, pages(addressesChain, ways), []ruleset.Chain{
		{Name: portalsContainerChain, Rules: []ruleset.Rule{portals}},
		{Name: portalsHostChain, Rules: []ruleset.Rule{own, portals}},
		{Name: nodePortContainerChain, Rules: []ruleset.Rule{ports}},
		{Name: nodePortHostChain, Rules: []ruleset.Rule{own, ports}},
	})
	return nat, append([]ruleset.Chain{fromRelay}, refusals...)
}

// relayAddr is the node's address at which the rules reach the relay. The target
// REDIRECT would take that of the interface by which a packet came in, and drops the
// packets of interfaces that have none, as the pods' have with some network plugins.
// An address in a pod range belongs to a bridge, which may come and go. A node
// without any address has its own clients only.
func relayAddr(n *proxier.Node, family proxier.Family) netip.Addr {
	global := func(a netip.Addr) bool { return !a.IsLinkLocalUnicast() }
	stable := func(a netip.Addr) bool {
		return global(a) && !slices.ContainsFunc(n.PodRanges, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	if i := slices.IndexFunc(n.Local, stable); i >= 0 {
		return n.Local[i]
	}
	if i := slices.IndexFunc(n.Local, global); i >= 0 {
		return n.Local[i]
	}
	if family == proxier.IPv6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// nodePortWays are the rules that lead to the node ports: one for all local
// addresses, or one for each that was chosen. A neighbour's packet to 127.0.0.1 is
// turned away before.
func nodePortWays(n *proxier.Node, family proxier.Family) []ruleset.Rule {
	var ways []ruleset.Rule
	if n.NodePorts.Localhost {
		ways = append(ways, ruleset.Rule{Comment: "node ports on localhost are for this node", Dst: ruleset.NetOf(family.Loopback()),
			SrcType: ruleset.AddrType{Type: "LOCAL", Not: true}, Jump: "RETURN"})
	}
	way := ruleset.Rule{Comment: "kubernetes service nodeports", Jump: nodePortChain}
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
		way.Dst = ruleset.Host(a)
		ways = append(ways, way)
	}
	return ways
}

// pageRules is how many rules a page of a long list has: no chain has more than 256.
const pageRules = 250

// pages cuts a long list of rules, of which a packet may meet any, into chains, and
// puts the ways to them all into the chain that has the name; that one comes last. A
// short list is one chain.
func pages(name string, rules []ruleset.Rule) []ruleset.Chain {
	if len(rules) <= pageRules {
		return []ruleset.Chain{{Name: name, Rules: rules}}
	}
	first := ruleset.Chain{Name: name}
	var out []ruleset.Chain
	i := 0
	for page := range slices.Chunk(rules, pageRules) {
		i++
		c := ruleset.Chain{Name: pageName(name, i), Rules: page}
		out, first.Rules = append(out, c), append(first.Rules, ruleset.Rule{Jump: c.Name})
	}
	return append(out, first)
}

// pageName is NAME-1, NAME-2, …, or a hash of that behind the same prefix where the
// kernel's limit leaves no room.
func pageName(name string, i int) string {
	full := name + "-" + strconv.Itoa(i)
	if len(full) <= ruleset.MaxChainName {
		return full
	}
	for _, prefix := range []string{allowPrefix, portalPrefix, nodePortPrefix} {
		if strings.HasPrefix(name, prefix) && len(prefix)+16 <= ruleset.MaxChainName {
			return prefix + hashOf(full)
		}
	}
	return nodePortPrefix + hashOf(full)[:14]
}
