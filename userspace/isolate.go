package userspace

import (
	"context"
	"errors"
	"maps"
	"slices"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// errSuspect is never seen: a suspect is in the kernel or refused in the end.
var errSuspect = errors.New("suspected")

// isolate finds by halving which services the kernel refuses: the legacy flavour never
// says. All others are in the kernel when it returns. Suspect is a service of which the
// kernel lacks a rule; what stands is proof of itself, and goes on meanwhile.
//
//	refused: a b c d e f g h ──► a b c d  accepted
//	                        └──► e f g h  refused ──► e f  accepted
//	                                             └──► g h  refused ──► g accepted, h set aside
func (a *attempt) isolate(ctx context.Context, want *proxier.State) error {
	suspects, err := a.suspects(ctx, a.aside.without(want, nil))
	if err != nil {
		return err
	}
	spared := maps.Clone(a.aside)
	for _, s := range suspects {
		spared[s] = errSuspect
	}
	refusal, err := a.try(ctx, spared.without(want, a.accepted))
	if refusal != nil {
		err = refusal // no service's fault
	}
	if err != nil {
		return err
	}
	return a.halve(ctx, suspects)
}

// halve programs suspects on top of what is accepted; a single one that the kernel
// refuses is set aside.
func (a *attempt) halve(ctx context.Context, suspects []*proxier.Service) error {
	if len(suspects) == 0 {
		return nil
	}
	refusal, err := a.try(ctx, with(a.accepted, suspects))
	switch {
	case err != nil || refusal == nil:
		return err
	case len(suspects) == 1:
		a.aside[suspects[0]] = refusal
		return nil
	}
	half := len(suspects) / 2
	if err := a.halve(ctx, suspects[:half]); err != nil {
		return err
	}
	return a.halve(ctx, suspects[half:])
}

// suspects are the services of which the kernel does not hold every rule.
func (a *attempt) suspects(ctx context.Context, s *proxier.State) ([]*proxier.Service, error) {
	stands := map[string]bool{} // table and rule
	note := func(table string, c ruleset.Chain) {
		for _, r := range c.Rules {
			stands[table+" "+r.String()] = true
		}
	}
	for _, table := range []string{"filter", "nat"} {
		dump, err := a.kernel.Save(ctx, table)
		if err != nil {
			return nil, err
		}
		if err := ruleset.Scan(dump, owns, note); err != nil {
			return nil, err
		}
	}
	lacks := func(svc *proxier.Service) bool {
		r, _ := renderService(svc, s.Family, &s.Node) // one that cannot be rendered was set aside before
		foreign := func(e *entry) bool { return !stands[e.root.table()+" "+e.rule.String()] }
		return a.differs("nat", r.nat) || a.differs("filter", r.filter) || slices.ContainsFunc(r.entries, foreign)
	}
	return slices.DeleteFunc(slices.Clone(s.Services), func(svc *proxier.Service) bool { return !lacks(svc) }), nil
}

// differs reports whether the kernel holds one of the chains otherwise, or not at all.
func (a *attempt) differs(table string, chains []ruleset.Chain) bool {
	return slices.ContainsFunc(chains, func(c ruleset.Chain) bool {
		sum, stands := a.mem.held[table][c.Name]
		return !stands || sum != a.hasher.Sum(&c)
	})
}
