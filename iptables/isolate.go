package iptables

import (
	"context"
	"maps"
	"slices"
	"strings"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/proxier/aside"
)

// part is the wanted State less what is set aside. Whoever has just started reads what
// stands of that in the kernel, so that it may stay.
func (a *attempt) part(ctx context.Context, want *proxier.State) (*proxier.State, error) {
	if a.accepted == nil && a.aside.Any(want) {
		if err := a.stand(ctx, want); err != nil {
			return nil, err
		}
	}
	return a.aside.Without(want, a.accepted), nil
}

// isolate finds by halving which services the kernel refuses. Everything else is in
// the kernel when it returns. What stands is proof of itself, and no suspect.
func (a *attempt) isolate(ctx context.Context, want *proxier.State) error {
	if err := a.stand(ctx, want); err != nil {
		return err
	}
	return a.aside.Isolate(want, a.accepted, func(s *proxier.State) (refusal, err error) {
		r, err := a.try(ctx, s)
		if r == nil {
			return nil, err
		}
		return r, err
	})
}

// stand makes a State of what the kernel holds: it is what was accepted last. Of a
// service that stands in a version which is not known, a relic is in its place.
func (a *attempt) stand(ctx context.Context, want *proxier.State) error {
	tables, err := ruleset.ReadTables(ctx, a.kernel.Save, owns)
	if err != nil {
		return err
	}
	stands := &proxier.State{Family: want.Family, Node: want.Node}
	found := relics{}
	for _, r := range ruleset.Relics(tables, ruleset.Layout{Own: belongsToOne, Allow: firewallPrefix}) {
		svc, is := r.Service, ofRelic(r)
		if version := a.relics.like(a.config, is, aside.VersionIn(want, svc), want); version != nil {
			svc = version
		} else if version := a.relics.like(a.config, is, aside.VersionIn(a.accepted, svc), a.accepted); version != nil {
			svc = version
		} else {
			found[svc] = is
		}
		stands.Services = append(stands.Services, svc)
	}
	a.relics, a.accepted = found, stands
	return nil
}

// relics are services of which only the rules are known.
type relics map[*proxier.Service]rendered

// render renders one service port, unless that is what it is.
func (r relics) render(c Config, svc *proxier.Service, family proxier.Family, node *proxier.Node) (rendered, error) {
	if is, ok := r[svc]; ok {
		return is, nil
	}
	return renderService(c, svc, family, node)
}

// ofRelic are a relic's chains and entries.
func ofRelic(r *ruleset.Relic) rendered {
	is := rendered{services: r.Chains["nat"], filter: r.Chains["filter"]}
	for _, e := range r.Entries {
		root, ok := rootOf(e.Table, e.Chain)
		addr := e.Rule.Dst.Prefix.Addr()
		if ok && addr.IsValid() == (root.addrNibbles(proxier.IPv4) > 0) {
			is.entries = append(is.entries, entry{root, keyOf(addr, e.Rule.Proto, e.Rule.Ports.From), e.Rule})
		}
	}
	return is
}

// rootOf is the root whose tree a chain is in.
func rootOf(table, chain string) (root, bool) {
	for r := range roots {
		if p := r.place(); p.table == table && (chain == p.chain || strings.HasPrefix(chain, p.prefix)) {
			return r, true
		}
	}
	return 0, false
}

// belongsToOne reports whether a chain is one service's or one endpoint's.
func belongsToOne(_, chain string) bool {
	return slices.ContainsFunc([]string{servicePrefix, localPrefix, externalPrefix, firewallPrefix, endpointPrefix,
		affinityPrefix, localAffinityPrefix, bypassPrefix}, func(p string) bool { return strings.HasPrefix(chain, p) })
}

// like returns a version of a service, nil being none, if it can be rendered in its
// State and its rules are those that stand.
func (r relics) like(c Config, is rendered, version *proxier.Service, s *proxier.State) *proxier.Service {
	if _, relic := r[version]; version == nil || relic {
		return nil
	}
	would, err := renderService(c, version, s.Family, &s.Node)
	if err != nil || !maps.Equal(would.lines(), is.lines()) {
		return nil
	}
	return version
}

// lines are all rules, each behind its chain's or its root's name.
func (r *rendered) lines() map[string]bool {
	lines := map[string]bool{}
	add := func(table string, chains []ruleset.Chain) {
		for i := range chains {
			lines[table+string(chains[i].AppendTo(nil))] = true
		}
	}
	add("nat", r.endpoints)
	add("nat", r.services)
	add("filter", r.filter)
	for _, e := range r.entries {
		lines[e.root.place().table+e.root.place().chain+e.rule.String()] = true
	}
	return lines
}
