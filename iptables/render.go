package iptables

import (
	"fmt"
	"net/netip"
	"slices"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// Config is what the rules depend on besides the State.
type Config struct {
	MasqueradeBit int  // 0..31: bit of the packet mark that asks for masquerade
	RandomFully   bool // the tool knows MASQUERADE --random-fully
	// Itself is the family of the rules if one of them can tell a packet from an
	// address to the same: then one is enough for all endpoints that reach
	// themselves. 0: each endpoint has its own.
	Itself proxier.Family
	// Liberal: conntrack takes TCP packets outside the window for good ones, so
	// none of them is dropped as INVALID.
	Liberal bool
}

func (c Config) mark() uint32 { return 1 << c.MasqueradeBit }

// rendered is one service port in iptables' words: its own chains, leaves first,
// and the entries by which the dispatch chains find them.
type rendered struct {
	endpoints []ruleset.Chain // nat: KUBE-SEP
	services  []ruleset.Chain // nat: KUBE-SVC, KUBE-SVL, KUBE-EXT, KUBE-FW
	filter    []ruleset.Chain // filter: KUBE-FW
	entries   []entry
}

// renderer renders one service port. Pure.
type renderer struct {
	config  Config
	family  proxier.Family
	node    *proxier.Node
	svc     *proxier.Service
	hash    string // in the names of its chains
	key     string // name and protocol: what its endpoints' chains are hashed by
	comment string
	guards  []ruleset.Chain // nat: KUBE-FW, which leads to KUBE-EXT
	out     rendered
}

// renderService renders one service port. The error names what this backend
// cannot express.
func renderService(c Config, svc *proxier.Service, family proxier.Family, node *proxier.Node) (rendered, error) {
	r := renderer{
		config: c, family: family, node: node, svc: svc,
		hash:    serviceHash(svc),
		key:     svc.Name.String() + svc.Protocol.Lower(),
		comment: svc.Name.String(),
	}
	if err := r.expressible(); err != nil {
		return rendered{}, err
	}
	var inside []ruleset.Rule
	for i := range svc.Frontends {
		f := &svc.Frontends[i]
		if f.Kind == proxier.ClusterIP {
			marks, err := r.clusterIP(f)
			if err != nil {
				return rendered{}, err
			}
			inside = append(inside, marks...)
		} else if err := r.external(f); err != nil {
			return rendered{}, err
		}
	}
	r.endpoints()
	r.policies(inside)
	r.out.services = append(r.out.services, r.guards...)
	if svc.HealthPort != 0 {
		r.health()
	}
	return r.out, nil
}

// expressible refuses what one rule cannot match: several pod ranges, or pods
// that nothing tells from others.
func (r *renderer) expressible() error {
	detectors := len(r.node.PodRanges) + len(r.node.PodInterfaces)
	if detectors > 1 {
		return fmt.Errorf("render: %d pod ranges and interfaces: one at most can be matched", detectors)
	}
	for _, f := range r.svc.Frontends {
		for _, row := range f.Routes {
			if detectors == 0 && (row.From == proxier.FromPods || row.From == proxier.FromNotPods) {
				return fmt.Errorf("render %s: %s: nothing tells pods from others", f.Address(), row)
			}
		}
	}
	return nil
}

// direct reports whether the rules that choose an endpoint translate at once. An
// endpoint has a chain only if there is more to do than that.
//
// The nft flavour checks a table at each COMMIT, by walking every rule from
// PREROUTING and again from OUTPUT: without the chains of endpoints that takes a third
// of the time. Their rules have no comment for the same reason: the address stands in
// the rule, and the service's name where the way to it begins.
func (r *renderer) direct() bool { return r.config.Itself != 0 && r.svc.Affinity == 0 }

// endpoints appends a chain for every endpoint that some policy can choose.
func (r *renderer) endpoints() {
	if r.direct() {
		return
	}
	r.out.endpoints = make([]ruleset.Chain, 0, len(r.svc.Cluster))
	for _, ep := range r.svc.Cluster {
		r.endpoint(ep)
	}
	for _, ep := range r.svc.Local {
		_, done := slices.BinarySearchFunc(r.svc.Cluster, ep, func(a, b proxier.Endpoint) int {
			return a.Addr.Compare(b.Addr)
		})
		if !done {
			r.endpoint(ep)
		}
	}
}

// endpoint appends the chain that sends a packet to one endpoint; one that
// reaches itself is masqueraded, here or in KUBE-POSTROUTING.
func (r *renderer) endpoint(ep proxier.Endpoint) {
	chain := endpointChain(r.key, ep)
	dnat := ruleset.Rule{Proto: r.svc.Protocol, Comment: r.comment, Jump: "DNAT", To: ep.Addr}
	if r.svc.Affinity > 0 {
		dnat.Recent = r.recent(chain, true)
	}
	rules := make([]ruleset.Rule, 0, 2)
	if r.config.Itself == 0 {
		rules = append(rules, ruleset.Rule{Src: ruleset.Host(ep.Addr.Addr()), Comment: r.comment, Jump: markMasqChain})
	}
	r.out.endpoints = append(r.out.endpoints, ruleset.Chain{Name: chain, Rules: append(rules, dnat)})
}

// policies appends the chains that choose an endpoint, and the entry from
// outside that chooses the policy. The masquerade of ClusterIPs stands first in
// the chain that their packets go to.
func (r *renderer) policies(inside []ruleset.Rule) {
	toLocal := r.internalTo() == proxier.ToLocal
	before := func(here bool) []ruleset.Rule {
		if !here {
			return nil
		}
		return inside
	}
	if len(r.svc.Cluster) > 0 {
		r.choose(chooser{servicePrefix + r.hash, affinityPrefix + r.hash}, r.svc.Cluster, before(!toLocal))
	}
	if len(r.svc.Local) > 0 {
		r.choose(chooser{localPrefix + r.hash, localAffinityPrefix + r.hash}, r.svc.Local, before(toLocal))
	}
	r.entry()
}

// internalTo is where the service's ClusterIPs lead, 0 if nowhere.
func (r *renderer) internalTo() proxier.To {
	for _, f := range r.svc.Frontends {
		if f.Kind == proxier.ClusterIP {
			return f.Routes[len(f.Routes)-1].To
		}
	}
	return 0
}

// clusterIP appends a ClusterIP's entry and returns its masquerade rules.
func (r *renderer) clusterIP(f *proxier.Frontend) ([]ruleset.Rule, error) {
	last := f.Routes[len(f.Routes)-1]
	for _, row := range f.Routes {
		if row.To != last.To || len(f.Allow) > 0 {
			return nil, fmt.Errorf("render %s: sources go to different targets: not expressible", f.Address())
		}
	}
	if verdict, ok := r.verdict(last.To); ok {
		r.add(filterServices, f, verdict)
		return nil, nil
	}
	r.add(natServices, f, ruleset.Rule{Comment: r.comment + " cluster IP", Jump: r.chainOf(last.To)})
	var marks []ruleset.Rule
	for _, row := range f.Routes {
		if row.Masq && !r.never(row.From) {
			mark := r.frontendMatch(f, ruleset.Rule{Comment: r.comment + " cluster IP", Jump: markMasqChain})
			marks = append(marks, r.from(row.From, mark))
		}
	}
	return marks, nil
}

// external appends the entry of a frontend that is reachable from outside, and
// what the filter table does to packets that no route forwards.
func (r *renderer) external(f *proxier.Frontend) error {
	last := f.Routes[len(f.Routes)-1]
	for i, row := range f.Routes {
		if _, terminal := r.verdict(row.To); terminal && i < len(f.Routes)-1 {
			return fmt.Errorf("render %s: %s before the last row: not expressible", f.Address(), row)
		}
	}
	verdict, terminal := r.verdict(last.To)
	forwards := !terminal || len(f.Routes) > 1
	if f.Kind == proxier.NodePort {
		return r.nodePort(f, forwards, verdict, terminal)
	}
	to := externalPrefix + r.hash
	if len(f.Allow) > 0 {
		to = firewallPrefix + r.hash
		r.firewall(f, forwards, last.To == proxier.ToReject)
	}
	if forwards {
		r.add(natServices, f, ruleset.Rule{Comment: r.comment + frontendNoun[f.Kind], Jump: to})
	}
	if terminal {
		r.add(filterExternal, f, verdict)
	}
	if (terminal || len(f.Allow) > 0) && r.node.ServesNodePort(f.Addr.Addr()) {
		// Of a packet that is not forwarded, no node port of that number shall take
		// hold. Its comment puts it behind the way that forwards.
		r.add(natServices, f, ruleset.Rule{Comment: r.comment + " otherwise not forwarded", Jump: "ACCEPT"})
	}
	return nil
}

var frontendNoun = map[proxier.Kind]string{
	proxier.ExternalIP:   " external IP",
	proxier.LoadBalancer: " loadbalancer IP",
}

func (r *renderer) nodePort(f *proxier.Frontend, forwards bool, verdict ruleset.Rule, terminal bool) error {
	if len(f.Allow) > 0 {
		return fmt.Errorf("render %s: a node port with allowed sources: not expressible", f.Address())
	}
	if forwards {
		r.add(natNodePorts, f, ruleset.Rule{Comment: r.comment, Jump: externalPrefix + r.hash})
	}
	if terminal {
		r.add(filterNodePorts, f, verdict)
	}
	return nil
}

// entry appends KUBE-EXT: a frontend's routes, in order. All external frontends
// that forward have the same ones. Packets that fall out of its end are not
// translated, and meet the filter table's verdict.
func (r *renderer) entry() {
	i := slices.IndexFunc(r.svc.Frontends, func(f proxier.Frontend) bool {
		_, ends := r.verdict(f.Routes[0].To)
		return f.Kind != proxier.ClusterIP && !ends
	})
	if i < 0 {
		return
	}
	var rules []ruleset.Rule
	for _, row := range r.svc.Frontends[i].Routes {
		if _, terminal := r.verdict(row.To); terminal {
			break
		}
		comment := rowComment[row.From] + r.comment + " external destinations"
		if row.Masq {
			rules = append(rules, r.from(row.From, ruleset.Rule{Comment: "masquerade " + comment, Jump: markMasqChain}))
		}
		rules = append(rules, r.from(row.From, ruleset.Rule{Comment: "route " + comment, Jump: r.chainOf(row.To)}))
	}
	r.out.services = append(r.out.services, ruleset.Chain{Name: externalPrefix + r.hash, Rules: rules})
}

var rowComment = map[proxier.From]string{
	proxier.FromAnyone:  "traffic for ",
	proxier.FromPods:    "pod traffic for ",
	proxier.FromNotPods: "traffic of non-pods for ",
	proxier.FromNode:    "LOCAL traffic for ",
}

// firewall appends what keeps a load balancer's IP to the sources allowed: in
// nat only they are forwarded; in filter, which is where a packet comes that was
// not, the others are dropped. Where allowed sources are to be refused a chain in
// filter does both.
func (r *renderer) firewall(f *proxier.Frontend, forwards, refuses bool) {
	name := firewallPrefix + r.hash
	if forwards {
		r.addOnce(&r.guards, name, r.allowed(f, ruleset.Rule{Jump: externalPrefix + r.hash}))
	}
	drop := ruleset.Rule{Comment: r.comment + " traffic not accepted by " + name, Jump: "DROP"}
	if refuses {
		refusal, _ := r.verdict(proxier.ToReject)
		r.addOnce(&r.out.filter, name, append(r.allowed(f, refusal), drop))
		drop = ruleset.Rule{Comment: r.comment + " source ranges", Jump: name}
	}
	r.add(filterFirewall, f, drop)
}

// allowed is a rule for each source that may use a load balancer's IP.
func (r *renderer) allowed(f *proxier.Frontend, then ruleset.Rule) []ruleset.Rule {
	rules := make([]ruleset.Rule, 0, len(f.Allow)+1)
	if then.Comment == "" {
		then.Comment = r.comment + " loadbalancer IP"
	}
	for _, p := range f.Allow {
		then.Src = ruleset.NetOf(p)
		rules = append(rules, then)
	}
	return rules
}

// addOnce adds a chain, in pages if it is long, unless an earlier frontend of the
// service did.
func (r *renderer) addOnce(chains *[]ruleset.Chain, name string, rules []ruleset.Rule) {
	if slices.ContainsFunc(*chains, func(c ruleset.Chain) bool { return c.Name == name }) {
		return
	}
	*chains = append(*chains, pages(name, rules, numbered(name))...)
}

// health opens the service's health-check node port.
func (r *renderer) health() {
	name := r.svc.Name
	name.Port = ""
	port := r.svc.HealthPort
	r.out.entries = append(r.out.entries, entry{
		root: filterHealth,
		key:  keyOf(netip.Addr{}, proxier.TCP, port),
		rule: ruleset.Rule{Proto: proxier.TCP, Ports: ruleset.Port(port),
			Comment: name.String() + " health check node port", Jump: "ACCEPT"},
	})
}

func (r *renderer) add(root root, f *proxier.Frontend, rule ruleset.Rule) {
	r.out.entries = append(r.out.entries, entry{
		root: root,
		key:  keyOf(f.Addr.Addr(), r.svc.Protocol, f.Addr.Port()),
		rule: r.frontendMatch(f, rule),
	})
}

// frontendMatch makes a rule match packets for a frontend.
func (r *renderer) frontendMatch(f *proxier.Frontend, rule ruleset.Rule) ruleset.Rule {
	if a := f.Addr.Addr(); a.IsValid() {
		rule.Dst = ruleset.Host(a)
	}
	rule.Proto = r.svc.Protocol
	rule.Ports = ruleset.Port(f.Addr.Port())
	return rule
}

// never reports whether a class of sources is empty: every address is a pod's. A
// rule that matches nothing cannot be written.
func (r *renderer) never(class proxier.From) bool {
	return class == proxier.FromNotPods && len(r.node.PodRanges) > 0 && r.node.PodRanges[0].Bits() == 0
}

// from makes a rule match a class of sources.
func (r *renderer) from(class proxier.From, rule ruleset.Rule) ruleset.Rule {
	pods := class == proxier.FromPods
	switch {
	case class == proxier.FromNode:
		rule.SrcType = ruleset.AddrType{Type: "LOCAL"}
	case class == proxier.FromAnyone:
	case len(r.node.PodRanges) > 0 && pods:
		rule.Src = ruleset.NetOf(r.node.PodRanges[0])
	case len(r.node.PodRanges) > 0:
		rule.Src = ruleset.Except(r.node.PodRanges[0])
	case len(r.node.PodInterfaces) > 0:
		rule.In = ruleset.Interface{Name: r.node.PodInterfaces[0], Not: !pods}
	}
	return rule
}

func (r *renderer) chainOf(to proxier.To) string {
	if to == proxier.ToLocal {
		return localPrefix + r.hash
	}
	return servicePrefix + r.hash
}

// verdict is the filter rule for a target that is no endpoint.
func (r *renderer) verdict(to proxier.To) (ruleset.Rule, bool) {
	switch to {
	case proxier.ToReject:
		return ruleset.Rule{Comment: r.comment + " has no endpoints", Jump: "REJECT", Reject: unreachable(r.family)}, true
	case proxier.ToDrop:
		return ruleset.Rule{Comment: r.comment + " has no local endpoints", Jump: "DROP"}, true
	}
	return ruleset.Rule{}, false
}

func unreachable(f proxier.Family) string {
	if f == proxier.IPv6 {
		return "icmp6-port-unreachable"
	}
	return "icmp-port-unreachable"
}
