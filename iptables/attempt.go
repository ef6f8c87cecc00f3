package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// attempt is one Apply on its way.
type attempt struct {
	*Backend
	report proxier.Report

	plan  *plan         // the last one made
	input ruleset.Input // its text
}

func (a *attempt) apply(ctx context.Context, want *proxier.State) error {
	if a.mem == nil {
		if err := a.read(ctx, &want.Node); err != nil {
			return err
		}
	}
	a.aside.review(want, want == a.last)
	if err := a.settle(ctx, want); err != nil {
		return err
	}
	return a.ensureBase(&want.Node)
}

// maxBlames is how often a refusal that names its lines is taken at its word;
// after that the culprits are found by halving.
const maxBlames = 4

// settle programs want without what has been set aside; if the kernel refuses
// that, it finds out what of it, sets that aside too, and goes on.
func (a *attempt) settle(ctx context.Context, want *proxier.State) error {
	for range maxBlames {
		refusal, err := a.try(ctx, want, a.aside.without(want, a.accepted))
		if err != nil || refusal == nil {
			return err
		}
		blamed := a.blame(refusal)
		if len(blamed) == 0 {
			break
		}
		for _, s := range blamed {
			a.aside.put(s, refusal)
		}
	}
	return a.isolate(ctx, want)
}

// try programs a State. A refusal that may be a service's fault is returned as
// such, after the kernel was read again: part of the input may be in.
func (a *attempt) try(ctx context.Context, want, part *proxier.State) (*ruleset.RestoreError, error) {
	err := a.program(ctx, want, part)
	var refusal *ruleset.RestoreError
	if err == nil || ctx.Err() != nil || !errors.As(err, &refusal) || refusal.Temporary() {
		return nil, err
	}
	if err := a.read(ctx, &want.Node); err != nil {
		return nil, err
	}
	return refusal, nil
}

// program brings the kernel to a State, part of what is wanted, and remembers it
// if it succeeds.
func (a *attempt) program(ctx context.Context, want, part *proxier.State) error {
	p := newPlan(a.mem, part, a.config, a.hasher)
	if len(p.failed) > 0 {
		for _, f := range p.failed {
			a.aside.put(f.service, f.reason)
		}
		p = newPlan(a.mem, a.aside.without(part, a.accepted), a.config, a.hasher)
	}
	a.plan = p
	if changes := p.changes(); len(changes) > 0 {
		a.input = ruleset.Print(changes, a.perCommit)
		a.report.Operations++
		if err := a.kernel.Restore(ctx, a.input.Text); err != nil {
			return err
		}
		a.count(changes)
	}
	a.mem, a.accepted = p.learn(), p.want
	return nil
}

func (a *attempt) count(changes []ruleset.Change) {
	if a.report.Written == nil {
		a.report.Written, a.report.Deleted = map[string]int{}, map[string]int{}
	}
	for _, c := range changes {
		a.report.Written["chains"] += len(c.Writes)
		a.report.Deleted["chains"] += len(c.Deletes)
		for _, w := range c.Writes {
			a.report.Written["rules"] += w.Rules
		}
	}
}

// blame lists the services whose lines the refusal names.
func (a *attempt) blame(refusal *ruleset.RestoreError) []*proxier.Service {
	var blamed []*proxier.Service
	for _, line := range refusal.Lines {
		owner := a.input.Owner(line)
		if owner < 0 {
			continue
		}
		if s := a.plan.services[owner]; !slices.Contains(blamed, s) {
			blamed = append(blamed, s)
		}
	}
	return blamed
}

// isolate finds by halving which services the kernel refuses. Everything else is
// in the kernel when it returns.
func (a *attempt) isolate(ctx context.Context, want *proxier.State) error {
	good := a.accepted
	if good == nil {
		good = &proxier.State{Family: want.Family}
	}
	good = &proxier.State{Family: want.Family, Node: want.Node, Services: surviving(good.Services, want.Services)}
	refusal, err := a.try(ctx, want, good)
	if refusal != nil {
		err = refusal // no service's fault
	}
	if err != nil {
		return err
	}
	var suspects []*proxier.Service
	eachChange(good.Services, a.aside.without(want, a.accepted).Services, false, func(_, is *proxier.Service) {
		if is != nil {
			suspects = append(suspects, is)
		}
	})
	return a.halve(ctx, want, suspects)
}

// halve programs suspects on top of what is accepted; a single one that the
// kernel refuses is set aside.
func (a *attempt) halve(ctx context.Context, want *proxier.State, suspects []*proxier.Service) error {
	if len(suspects) == 0 {
		return nil
	}
	refusal, err := a.try(ctx, want, with(a.accepted, suspects))
	switch {
	case err != nil || refusal == nil:
		return err
	case len(suspects) == 1:
		a.aside.put(suspects[0], refusal)
		return nil
	}
	half := len(suspects) / 2
	if err := a.halve(ctx, want, suspects[:half]); err != nil {
		return err
	}
	return a.halve(ctx, want, suspects[half:])
}

// surviving lists the services of last that next still has, in last's version.
func surviving(last, next []*proxier.Service) []*proxier.Service {
	gone := map[*proxier.Service]bool{}
	eachChange(last, next, false, func(was, is *proxier.Service) {
		if is == nil {
			gone[was] = true
		}
	})
	return slices.DeleteFunc(slices.Clone(last), func(s *proxier.Service) bool { return gone[s] })
}

// with is a State with services added, or replaced by another version.
func with(s *proxier.State, services []*proxier.Service) *proxier.State {
	next := &proxier.State{Family: s.Family, Node: s.Node, Services: slices.Clone(s.Services)}
	for _, svc := range services {
		at, found := slices.BinarySearchFunc(next.Services, svc, (*proxier.Service).Compare)
		if found {
			next.Services[at] = svc
		} else {
			next.Services = slices.Insert(next.Services, at, svc)
		}
	}
	return next
}

// ensureBase puts in the rules that lead to our chains, where they are missing.
func (a *attempt) ensureBase(n *proxier.Node) error {
	for _, rule := range baseRules(n) {
		if slices.Contains(a.base, rule) {
			continue
		}
		if err := a.ensure(rule); err != nil {
			return err
		}
	}
	return nil
}

func (a *attempt) ensure(rule baseRule) error {
	if rule.rule.Jump == kubeFirewallChain {
		if err := a.kernel.EnsureChain(rule.table, kubeFirewallChain); err != nil {
			return fmt.Errorf("ensure chain %s: %w", kubeFirewallChain, err)
		}
	}
	added, err := a.kernel.EnsureJump(rule.jump())
	if err != nil {
		return fmt.Errorf("ensure jump %s: %w", rule.jump(), err)
	}
	if added {
		a.report.Operations++
	}
	a.base = append(a.base, rule)
	return nil
}

// jump is the rule in the words of the iptables program.
func (b baseRule) jump() ruleset.Jump {
	match := b.rule
	match.Comment, match.Jump = "", ""
	return ruleset.Jump{
		Table: b.table, From: b.chain, To: b.rule.Jump,
		Match: strings.Fields(match.String()), Comment: b.rule.Comment, Append: b.last,
	}
}
