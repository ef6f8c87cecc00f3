package ipvs

import (
	"net/netip"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// The chains. Names are upstream's, but for those that are ours alone.
const (
	servicesChain     = "KUBE-SERVICES"               // nat: who asks for what
	postroutingChain  = "KUBE-POSTROUTING"            // nat: masquerade
	markMasqChain     = "KUBE-MARK-MASQ"              // nat
	balancerChain     = "KUBE-LOAD-BALANCER"          // nat
	nodePortChain     = "KUBE-NODE-PORT"              // nat; filter: health checks
	forwardChain      = "KUBE-FORWARD"                // filter: replies
	ipvsFilterChain   = "KUBE-IPVS-FILTER"            // filter: no other port of an address
	heldChain         = "KUBE-HELD"                   // filter: the same at an address of another interface; ours alone
	heldNodeChain     = "KUBE-HELD-NODE"              // filter: where node ports answer; ours alone
	firewallChain     = "KUBE-PROXY-FIREWALL"         // mangle here: IPVS is before filter's OUTPUT
	rangesChain       = "KUBE-SOURCE-RANGES-FIREWALL" // mangle
	shortCircuitChain = "KUBE-SHORT-CIRCUIT"          // nat: ours alone
	outsideChain      = "KUBE-NO-LOCAL-ENDPOINT"      // mangle: ours alone
	clusterMarkChain  = "KUBE-CLUSTER-IP-MASQ"        // nat: ours alone
)

// The tables that hold our rules.
var tableNames = [3]string{"mangle", "nat", "filter"}

// Config is what the rules and servers depend on besides the State.
type Config struct {
	MasqueradeBit int  // 0..31: bit of the packet mark that asks for masquerade
	RandomFully   bool // the tool knows MASQUERADE --random-fully
	// Liberal: conntrack takes TCP packets outside the window for good ones, so
	// none of them is dropped as INVALID.
	Liberal bool
	// Scheduler is that of services that name none: name and flags, never empty.
	Scheduler string
	Exclude   []netip.Prefix
	// missing are schedulers that the kernel turned out not to have.
	missing map[string]bool
}

// ruler draws the rules of one family. They say who asks for what; which addresses
// are meant stands in the sets, so no rule depends on a service.
type ruler struct {
	config Config
	family proxier.Family
	node   *proxier.Node
}

// chains are our chains by table. A chain stands before those that lead to it.
func (r ruler) chains() map[string][]ruleset.Chain {
	return map[string][]ruleset.Chain{"mangle": r.mangle(), "nat": r.nat(), "filter": r.filter()}
}

// in is a rule that looks into a set.
func (r ruler) in(s set, jump string) ruleset.Rule {
	return ruleset.Rule{Set: ruleset.SetMatch{Name: s.name(r.family), Fields: s.fields()}, Jump: jump}
}

// ofProtocol is a rule that looks into a set of ports of one protocol.
func (r ruler) ofProtocol(p proxier.Protocol, s set, jump string) ruleset.Rule {
	rule := r.in(s, jump)
	rule.Proto = p
	return rule
}

// pods is the rule once for each way to tell a pod.
func (r ruler) pods(rule ruleset.Rule) []ruleset.Rule {
	var rules []ruleset.Rule
	for _, p := range r.node.PodRanges {
		rule.Src = ruleset.NetOf(p)
		rules = append(rules, rule)
	}
	rule.Src = ruleset.Net{}
	for _, name := range r.node.PodInterfaces {
		rule.In = ruleset.Interface{Name: name}
		rules = append(rules, rule)
	}
	return rules
}

var fromNode = ruleset.AddrType{Type: "LOCAL"}

// mangle drops. It comes before IPVS on all ways; only the first packet of a
// connection comes here, so what is established lives on.
func (r ruler) mangle() []ruleset.Chain {
	outside := r.pods(ruleset.Rule{Jump: "RETURN"})
	outside = append(outside, ruleset.Rule{SrcType: fromNode, Jump: "RETURN"}, ruleset.Rule{Jump: "DROP"})
	return []ruleset.Chain{
		{Name: rangesChain, Rules: []ruleset.Rule{r.in(ranges, "RETURN"), {Jump: "DROP"}}},
		{Name: outsideChain, Rules: outside},
		{Name: firewallChain, Rules: []ruleset.Rule{
			// They are reached by KUBE-SHORT-CIRCUIT only, which is later.
			r.in(alternates, "DROP"),
			r.in(firewalled, rangesChain),
			r.in(dropped, "DROP"),
			r.in(noLocal, outsideChain),
		}},
	}
}

func (r ruler) mark() ruleset.Mark {
	return ruleset.Mark{Value: 1 << r.config.MasqueradeBit, Mask: 1 << r.config.MasqueradeBit}
}

// nat marks what is to be masqueraded, and maps the packets that take the short way
// to the alternate address, where IPVS has another pool.
func (r ruler) nat() []ruleset.Chain {
	to := alternateRange(r.family)
	short := r.pods(ruleset.Rule{Comment: "pods reach every endpoint", Jump: "NETMAP", Map: to})
	short = append(short,
		ruleset.Rule{SrcType: fromNode, Jump: markMasqChain},
		ruleset.Rule{Comment: "the node reaches every endpoint", SrcType: fromNode, Jump: "NETMAP", Map: to})
	return []ruleset.Chain{
		{Name: markMasqChain, Rules: []ruleset.Rule{{Jump: "MARK", SetMark: r.mark()}}},
		{Name: clusterMarkChain, Rules: append(r.pods(ruleset.Rule{Jump: "RETURN"}), ruleset.Rule{Jump: markMasqChain})},
		{Name: shortCircuitChain, Rules: short},
		{Name: balancerChain, Rules: []ruleset.Rule{
			gotoChain(r.in(shortBalancer, shortCircuitChain)),
			{Jump: markMasqChain},
		}},
		{Name: nodePortChain, Rules: r.nodePorts()},
		{Name: servicesChain, Rules: r.services()},
		{Name: postroutingChain, Rules: r.postrouting()},
	}
}

func gotoChain(rule ruleset.Rule) ruleset.Rule {
	rule.Goto = true
	return rule
}

// services ends with node ports: an address of a service wins over a node port at
// the same address.
func (r ruler) services() []ruleset.Rule {
	rules := []ruleset.Rule{r.in(clusterMasq, markMasqChain)}
	if r.node.DetectsPods() {
		rules = append(rules, r.in(clusterIPs, clusterMarkChain))
	} else {
		// The node's own packets to an address of its own come from that very address,
		// to which no other machine can reply.
		own := r.in(clusterIPs, markMasqChain)
		own.Set.Fields = "src,dst"
		rules = append(rules, own)
	}
	return append(rules,
		r.in(clusterIPs, "ACCEPT"),
		gotoChain(r.in(shortExternal, shortCircuitChain)),
		r.in(externalIPs, markMasqChain),
		r.in(externalIPs, "ACCEPT"),
		r.in(balancers, balancerChain),
		r.in(balancers, "ACCEPT"),
		r.in(nodeAddrs, nodePortChain),
	)
}

func (r ruler) nodePorts() []ruleset.Rule {
	var rules []ruleset.Rule
	for _, p := range []proxier.Protocol{proxier.TCP, proxier.UDP, proxier.SCTP} {
		all, short := nodePortSets(p)
		rules = append(rules,
			gotoChain(r.ofProtocol(p, short, shortCircuitChain)),
			r.ofProtocol(p, all, markMasqChain))
	}
	return rules
}

func (r ruler) postrouting() []ruleset.Rule {
	hairpin := r.in(hairpins, "MASQUERADE")
	hairpin.Comment, hairpin.Random = "endpoints that reach themselves", r.config.RandomFully
	unmarked := r.mark()
	unmarked.Not = true
	return []ruleset.Rule{
		hairpin,
		{Mark: unmarked, Jump: "RETURN"},
		// Cleared, so that a packet in a tunnel is not masqueraded again outside.
		{Jump: "MARK", SetMark: ruleset.Mark{Value: r.mark().Value}},
		{Comment: "kubernetes service traffic requiring SNAT", Jump: "MASQUERADE", Random: r.config.RandomFully},
	}
}

// filter refuses what is sent to an address of a service and no service claims: the
// node's own programs are not to be reached there. Replies pass FORWARD.
func (r ruler) filter() []ruleset.Chain {
	refuse := r.in(held, "REJECT")
	refuse.CTState, refuse.Reject = ruleset.States{List: "NEW"}, unreachable(r.family)
	healthCheck := r.ofProtocol(proxier.TCP, health, "ACCEPT")
	healthCheck.Comment = "Kubernetes health check node port"
	var forward []ruleset.Rule
	if !r.config.Liberal {
		// An INVALID packet is not translated back: its receiver would answer a
		// stranger with a reset.
		forward = append(forward, ruleset.Rule{CTState: ruleset.States{List: "INVALID"}, Jump: "DROP"})
	}
	forward = append(forward,
		ruleset.Rule{Comment: "kubernetes forwarding rules", Mark: r.mark(), Jump: "ACCEPT"},
		ruleset.Rule{Comment: "kubernetes forwarding conntrack rule",
			CTState: ruleset.States{List: "RELATED,ESTABLISHED"}, Jump: "ACCEPT"})
	return append(r.heldElsewhere(),
		ruleset.Chain{Name: forwardChain, Rules: forward},
		ruleset.Chain{Name: nodePortChain, Rules: []ruleset.Rule{healthCheck}},
		ruleset.Chain{Name: ipvsFilterChain, Rules: []ruleset.Rule{
			r.in(clusterIPs, "RETURN"),
			r.in(externalIPs, "RETURN"),
			r.in(balancers, "RETURN"),
			gotoChain(r.in(elsewhere, heldChain)),
			refuse,
		}})
}

// heldElsewhere are the chains for an address of a service that another interface than
// kube-ipvs0 has: node ports answer there, the node reaches its own programs, and what
// no service can have, as ICMP, passes.
func (r ruler) heldElsewhere() []ruleset.Chain {
	var refusals, nodePorts []ruleset.Rule
	for _, p := range []proxier.Protocol{proxier.TCP, proxier.UDP, proxier.SCTP} {
		all, _ := nodePortSets(p)
		nodePorts = append(nodePorts, r.ofProtocol(p, all, "RETURN"))
		refusals = append(refusals, ruleset.Rule{Proto: p, CTState: ruleset.States{List: "NEW"},
			Jump: "REJECT", Reject: unreachable(r.family)})
	}
	return []ruleset.Chain{
		{Name: heldNodeChain, Rules: append(nodePorts, refusals...)},
		{Name: heldChain, Rules: append([]ruleset.Rule{
			{SrcType: fromNode, Jump: "RETURN"}, gotoChain(r.in(nodeAddrs, heldNodeChain))}, refusals...)},
	}
}

func unreachable(f proxier.Family) string {
	if f == proxier.IPv6 {
		return "icmp6-port-unreachable"
	}
	return "icmp-port-unreachable"
}

// baseRule is a rule of ours in a base chain of the kernel.
type baseRule struct {
	table, chain string
	rule         ruleset.Rule
}

// baseRules lead into our chains, in the order in which they are inserted at the top
// of their chains: the last one ends up first. What drops comes before what forwards.
func baseRules() []baseRule {
	fresh := ruleset.States{List: "NEW"}
	jump := func(table, chain, to, comment string, states ruleset.States) baseRule {
		return baseRule{table, chain, ruleset.Rule{Comment: comment, CTState: states, Jump: to}}
	}
	const portals = "kubernetes service portals"
	return []baseRule{
		jump("mangle", "PREROUTING", firewallChain, "kubernetes service firewall", fresh),
		jump("mangle", "OUTPUT", firewallChain, "kubernetes service firewall", fresh),
		jump("filter", "FORWARD", forwardChain, "kubernetes forwarding rules", ruleset.States{}),
		jump("filter", "INPUT", ipvsFilterChain, "kubernetes ipvs access filter", ruleset.States{}),
		jump("filter", "INPUT", nodePortChain, "kubernetes health check rules", ruleset.States{}),
		jump("nat", "POSTROUTING", postroutingChain, "kubernetes postrouting rules", ruleset.States{}),
		jump("nat", "OUTPUT", servicesChain, portals, ruleset.States{}),
		jump("nat", "PREROUTING", servicesChain, portals, ruleset.States{}),
	}
}

// alternateRange is the range that alternate addresses are in. NETMAP keeps an
// address's other bits. The ranges are reserved and routed nowhere (RFC 1112
// section 4, RFC 6666).
func alternateRange(f proxier.Family) netip.Prefix {
	if f == proxier.IPv6 {
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{1}), 8)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{240}), 4)
}

// alternate is the address whose servers have the pool of the short way.
func alternate(a netip.Addr) netip.Addr {
	b := a.AsSlice()
	if a.Is6() {
		b[0] = 1
	} else {
		b[0] |= 240
	}
	mapped, _ := netip.AddrFromSlice(b)
	return mapped
}
