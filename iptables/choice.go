package iptables

import (
	"slices"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// A service with few endpoints chooses in one chain, as everybody knows it. One
// with many chooses in two levels or more, so that no chain gets long and a
// change of one endpoint rewrites one small chain:
//
//	KUBE-SVC-h ─random, by weight─► KUBE-SVC-h-A ──random──► DNAT, or KUBE-SEP-…
//	                                KUBE-SVC-h-B …
//
// Endpoints are grouped by the next character of their hash (32 groups a level),
// which no other endpoint's coming and going changes.
const (
	// At most this many in one chain: with affinity, 2 rules each. One more moves them
	// all into groups, which must not take more than 300 lines.
	flatEndpoints = 75
	groupChars    = 2 // levels of groups that a chain name has room for
)

// target is an endpoint with the name of the chain that it has or would have.
type target struct {
	chain string
	proxier.Endpoint
}

// group is a set of targets with the same beginning of their hash.
type group struct {
	suffix  string // of the chain that chooses in this group; "" for the first
	share   int    // the sum of the targets' weights
	targets []target
	groups  []group // nil for a leaf
}

// grouped divides targets until each group fits a chain.
func grouped(suffix string, targets []target) group {
	g := group{suffix: suffix, targets: targets}
	for _, t := range targets {
		g.share += t.Share()
	}
	level := len(suffix)
	if len(targets) <= flatEndpoints || level == groupChars {
		return g
	}
	by := map[byte][]target{}
	for _, t := range targets {
		c := t.chain[len(endpointPrefix)+level]
		by[c] = append(by[c], t)
	}
	for _, c := range []byte("234567ABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		if len(by[c]) > 0 {
			g.groups = append(g.groups, grouped(suffix+string(c), by[c]))
		}
	}
	return g
}

func (g *group) chainName(base string) string {
	if g.suffix == "" {
		return base
	}
	return base + "-" + g.suffix
}

// chooser is one chain of a service that chooses an endpoint, and the chains
// that it needs for that.
type chooser struct {
	base     string // KUBE-SVC-h or KUBE-SVL-h
	affinity string // KUBE-AFF-h or KUBE-AFL-h: base of the remembered clients' chains
}

// choose appends the chains that choose among endpoints. first are rules that
// stand before the choice.
func (r *renderer) choose(c chooser, eps []proxier.Endpoint, first []ruleset.Rule) {
	named := !r.direct() || len(eps) > flatEndpoints // else nobody asks for the hash
	targets := make([]target, len(eps))
	for i, ep := range eps {
		targets[i].Endpoint = ep
		if named {
			targets[i].chain = endpointChain(r.key, ep)
		}
	}
	g := grouped("", targets)
	if r.svc.Affinity > 0 {
		first = append(first, r.remembered(&g, c.affinity)...)
	}
	r.balance(&g, c.base, first)
}

// balance appends the chains that choose among a group's targets by their
// weights, leaves first. first are rules that stand before the choice.
func (r *renderer) balance(g *group, base string, first []ruleset.Rule) {
	rules := slices.Grow(first, len(g.targets)+len(g.groups))
	left := g.share
	if g.groups == nil {
		for _, t := range g.targets {
			rules = append(rules, r.to(t, chance(t.Share(), left)))
			left -= t.Share()
		}
	}
	for i := range g.groups {
		sub := &g.groups[i]
		r.balance(sub, base, nil)
		rules = append(rules, ruleset.Rule{
			Comment: r.comment,
			Chance:  chance(sub.share, left),
			Jump:    sub.chainName(base),
		})
		left -= sub.share
	}
	r.out.services = append(r.out.services, ruleset.Chain{Name: g.chainName(base), Rules: rules})
}

// to sends a packet to an endpoint by chance.
func (r *renderer) to(t target, c ruleset.Chance) ruleset.Rule {
	if r.direct() {
		return ruleset.Rule{Proto: r.svc.Protocol, Chance: c, Jump: "DNAT", To: t.Addr}
	}
	return ruleset.Rule{Comment: r.comment + " -> " + t.Addr.String(), Chance: c, Jump: t.chain}
}

// chance is part out of whole; what is certain needs no match.
func chance(part, whole int) ruleset.Chance {
	if part == whole {
		return 0
	}
	return ruleset.OneOf(part, whole)
}

// remembered are the rules that send a client to the endpoint it had; for many
// endpoints they stand in chains of their own.
func (r *renderer) remembered(g *group, base string) []ruleset.Rule {
	if g.groups == nil {
		rules := make([]ruleset.Rule, 0, 2*len(g.targets)+2)
		for _, t := range g.targets {
			rules = append(rules, ruleset.Rule{
				Comment: r.comment + " -> " + t.Addr.String(),
				Recent:  r.recent(t.chain, false),
				Jump:    t.chain,
			})
		}
		return rules
	}
	var rules []ruleset.Rule
	for i := range g.groups {
		sub := &g.groups[i]
		name := sub.chainName(base)
		r.out.services = append(r.out.services, ruleset.Chain{Name: name, Rules: r.remembered(sub, base)})
		rules = append(rules, ruleset.Rule{Comment: r.comment, Jump: name})
	}
	return rules
}

func (r *renderer) recent(list string, set bool) ruleset.Recent {
	rec := ruleset.Recent{Name: list, Set: set, Six: r.family == proxier.IPv6}
	if !set {
		rec.Seconds = uint32(r.svc.Affinity.Seconds())
	}
	return rec
}
