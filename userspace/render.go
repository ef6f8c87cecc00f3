package userspace

import (
	"fmt"
	"net/netip"
	"slices"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// rendered is one service port in iptables' words: its own chains, leaves first,
// and the entries by which the dispatch chains find them.
type rendered struct {
	nat, filter []ruleset.Chain // KUBE-ALLOW, KUBE-FROM
	entries     []*entry
}

// renderer renders one service port. Pure.
type renderer struct {
	family proxier.Family
	node   *proxier.Node
	svc    *proxier.Service
	out    rendered
}

// renderService renders one service port. The error names what rules cannot
// express.
func renderService(svc *proxier.Service, family proxier.Family, node *proxier.Node) (rendered, error) {
	r := renderer{family: family, node: node, svc: svc}
	for i := range svc.Frontends {
		f := &svc.Frontends[i]
		if err := r.frontend(f); err != nil {
			return rendered{}, fmt.Errorf("render %s: %w", f.Address(), err)
		}
	}
	if svc.HealthPort != 0 {
		r.health()
	}
	return r.out, nil
}

// row is a Route as far as it matters to a rule: the relay chooses the pool. From 0
// is everybody.
type row struct {
	from    proxier.From
	verdict proxier.Verdict // Forward, Reject or Drop
}

// rowsOf are a frontend's rows without those that make no difference: the ones that
// match nobody, and the last ones that all say the same.
func (r *renderer) rowsOf(f *proxier.Frontend) []row {
	var rows []row
	for _, route := range f.Routes {
		from := route.From
		switch {
		case from == proxier.FromPods && !r.node.DetectsPods(), from == proxier.FromNotPods && r.allPods():
			continue
		case from == proxier.FromAnyone, from == proxier.FromNotPods && !r.node.DetectsPods():
			from = 0
		}
		rows = append(rows, row{from, verdictOf(route.To)})
		if from == 0 {
			break
		}
	}
	if len(rows) == 0 || rows[len(rows)-1].from != 0 {
		rows = append(rows, row{0, proxier.Drop}) // as Frontend.Decide
	}
	for n := len(rows); n > 1 && rows[n-2].verdict == rows[n-1].verdict; n = len(rows) {
		rows = slices.Delete(rows, n-2, n-1)
	}
	return rows
}

// allPods reports whether every address is a pod's.
func (r *renderer) allPods() bool {
	return slices.ContainsFunc(r.node.PodRanges, func(p netip.Prefix) bool { return p.Bits() == 0 })
}

func verdictOf(to proxier.To) proxier.Verdict {
	switch to {
	case proxier.ToReject:
		return proxier.Reject
	case proxier.ToDrop:
		return proxier.Drop
	}
	return proxier.Forward
}

func (r *renderer) frontend(f *proxier.Frontend) error {
	rows := r.rowsOf(f)
	if len(f.Allow) > 0 {
		return r.guarded(f, rows)
	}
	return errFirst(r.forward(f, rows), r.refuse(f, rows))
}

func errFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// forward adds the entries of nat: who goes to the relay.
func (r *renderer) forward(f *proxier.Frontend, rows []row) error {
	rules, err := r.choices(rows)
	if err != nil {
		return err
	}
	last := rows[len(rows)-1]
	mayBeNodePort := f.Kind != proxier.NodePort && r.node.ServesNodePort(f.Addr.Addr())
	if last.verdict != proxier.Forward && mayBeNodePort {
		// Of a packet that is not forwarded no node port of that number shall take hold.
		rules = append(rules, ruleset.Rule{Jump: "ACCEPT"})
	}
	for i, rule := range rules {
		r.add(addressRoot(natPortals, f), f, i, rule)
	}
	return nil
}

// choices are the rules of nat for rows, in order: the last rows that do not
// forward need none.
func (r *renderer) choices(rows []row) ([]ruleset.Rule, error) {
	for len(rows) > 0 && rows[len(rows)-1].verdict != proxier.Forward {
		rows = rows[:len(rows)-1]
	}
	var rules []ruleset.Rule
	for _, row := range rows {
		then := ruleset.Rule{Jump: relayChain}
		if row.verdict != proxier.Forward {
			then.Jump = "ACCEPT"
		}
		some, err := r.from(row.from, then)
		if err != nil {
			return nil, err
		}
		rules = append(rules, some...)
	}
	return rules, nil
}

// refuse adds the entries of filter: what becomes of packets that did not go to the
// relay. Those that did have another destination by then.
func (r *renderer) refuse(f *proxier.Frontend, rows []row) error {
	n := 0
	for _, row := range rows {
		if row.verdict == proxier.Forward {
			continue
		}
		rules, err := r.from(row.from, r.refusal(row.verdict))
		if err != nil {
			return err
		}
		for _, rule := range rules {
			r.add(addressRoot(filterPortals, f), f, n, rule)
			n++
		}
	}
	return nil
}

// guarded adds the entries of a frontend that some sources may use: nat leads only
// them to the relay, and filter drops what is left of the others.
func (r *renderer) guarded(f *proxier.Frontend, rows []row) error {
	name := allowPrefix + frontendHash(r.svc, f)
	choices, err := r.choices(rows)
	if err != nil {
		return err
	}
	if len(choices) > 0 {
		then := choices[0]
		if len(choices) > 1 || then != (ruleset.Rule{Jump: relayChain}) {
			from := fromPrefix + frontendHash(r.svc, f)
			r.out.nat = append(r.out.nat, ruleset.Chain{Name: from, Rules: choices})
			then = ruleset.Rule{Jump: from}
		}
		r.out.nat = append(r.out.nat, pages(name, allowed(f, then))...)
		r.add(addressRoot(natPortals, f), f, 0, ruleset.Rule{Jump: name})
	}
	if f.Kind != proxier.NodePort && r.node.ServesNodePort(f.Addr.Addr()) {
		r.add(natPortals, f, 1, ruleset.Rule{Jump: "ACCEPT"})
	}
	rest, err := leftOver(rows)
	if err != nil {
		return err
	}
	if rest == proxier.Reject {
		r.out.filter = append(r.out.filter, pages(name, allowed(f, r.refusal(rest)))...)
		r.add(addressRoot(filterPortals, f), f, 0, ruleset.Rule{Jump: name})
	}
	r.add(addressRoot(filterPortals, f), f, 1, r.refusal(proxier.Drop))
	return nil
}

// leftOver is the one verdict on allowed sources that are not forwarded, Drop if all
// are.
func leftOver(rows []row) (proxier.Verdict, error) {
	verdict := proxier.Pass
	for _, row := range rows {
		switch {
		case row.verdict == proxier.Forward || row.verdict == verdict:
		case verdict != proxier.Pass:
			return 0, fmt.Errorf("allowed sources are refused or dropped by their class: not expressible")
		default:
			verdict = row.verdict
		}
	}
	if verdict == proxier.Pass {
		return proxier.Drop, nil
	}
	return verdict, nil
}

// allowed is a rule for each source that may use a frontend.
func allowed(f *proxier.Frontend, then ruleset.Rule) []ruleset.Rule {
	rules := make([]ruleset.Rule, len(f.Allow))
	for i, p := range f.Allow {
		then.Src = ruleset.NetOf(p)
		rules[i] = then
	}
	return rules
}

// health opens the service's health-check node port.
func (r *renderer) health() {
	name := r.svc.Name
	name.Port = ""
	r.out.entries = append(r.out.entries, &entry{
		root: filterNodePorts,
		key:  keyOf(netip.Addr{}, proxier.TCP, r.svc.HealthPort),
		rule: ruleset.Rule{Proto: proxier.TCP, Ports: ruleset.Port(r.svc.HealthPort),
			Comment: name.String() + " health check node port", Jump: "ACCEPT"},
	})
}

// add adds an entry that matches packets for a frontend. Entries of one frontend
// stand in the order of their numbers.
func (r *renderer) add(root root, f *proxier.Frontend, order int, rule ruleset.Rule) {
	if a := f.Addr.Addr(); a.IsValid() {
		rule.Dst = ruleset.Host(a)
	}
	rule.Proto, rule.Ports = r.svc.Protocol, ruleset.Port(f.Addr.Port())
	if rule.Comment == "" {
		rule.Comment = r.svc.Name.String() + " " + noun[f.Kind]
	}
	r.out.entries = append(r.out.entries, &entry{
		root: root, key: keyOf(f.Addr.Addr(), r.svc.Protocol, f.Addr.Port()), order: order, rule: rule})
}

var noun = map[proxier.Kind]string{
	proxier.ClusterIP:    "cluster IP",
	proxier.ExternalIP:   "external IP",
	proxier.LoadBalancer: "loadbalancer IP",
	proxier.NodePort:     "node port",
}

// from makes a rule match a class of sources: several rules where there are several
// ways to be a pod.
func (r *renderer) from(class proxier.From, rule ruleset.Rule) ([]ruleset.Rule, error) {
	switch class {
	case proxier.FromNode:
		rule.SrcType = ruleset.AddrType{Type: "LOCAL"}
		return []ruleset.Rule{rule}, nil
	case proxier.FromPods:
		return r.fromPods(rule, false), nil
	case proxier.FromNotPods:
		if len(r.node.PodRanges)+len(r.node.PodInterfaces) > 1 {
			return nil, fmt.Errorf("%s, of several pod ranges or interfaces: not expressible", class)
		}
		return r.fromPods(rule, true), nil
	}
	return []ruleset.Rule{rule}, nil
}

func (r *renderer) fromPods(rule ruleset.Rule, not bool) []ruleset.Rule {
	var rules []ruleset.Rule
	for _, p := range r.node.PodRanges {
		rule.Src = ruleset.NetOf(p)
		rule.Src.Not = not
		rules = append(rules, rule)
	}
	rule.Src = ruleset.Net{}
	for _, name := range r.node.PodInterfaces {
		rule.In = ruleset.Interface{Name: name, Not: not}
		rules = append(rules, rule)
	}
	return rules
}

// refusal is the filter rule for a verdict that does not forward.
func (r *renderer) refusal(v proxier.Verdict) ruleset.Rule {
	comment := r.svc.Name.String()
	if v == proxier.Drop {
		return ruleset.Rule{Comment: comment + " has no endpoints for this source", Jump: "DROP"}
	}
	how := "icmp-port-unreachable"
	if r.family == proxier.IPv6 {
		how = "icmp6-port-unreachable"
	}
	return ruleset.Rule{Comment: comment + " has no endpoints", Jump: "REJECT", Reject: how}
}
