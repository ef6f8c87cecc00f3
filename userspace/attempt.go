package userspace

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// attempt is one Apply on its way.
type attempt struct {
	*Backend
	report proxier.Report
}

// maxBlames is how often a refusal that names its lines is taken at its word.
const maxBlames = 4

func (a *attempt) apply(ctx context.Context, want *proxier.State) error {
	part := want
	for range maxBlames {
		refusal, err := a.program(ctx, part)
		if err != nil {
			return err
		}
		if refusal == nil {
			return a.ensureBase()
		}
		part = without(part, a.report.SetAside)
	}
	return errors.New("program rules: the kernel refuses more and more services")
}

// program brings the kernel to a State, part of what is wanted. A refusal that is
// some services' fault is returned as such once they are in the Report.
func (a *attempt) program(ctx context.Context, part *proxier.State) (refusal *ruleset.RestoreError, err error) {
	if a.mem == nil {
		if err := a.read(ctx); err != nil {
			return nil, err
		}
	}
	p := newPlan(a.mem, part, a.config, a.hasher)
	for _, f := range p.failed {
		a.setAside(f.service, f.reason)
	}
	changes := p.changes()
	if len(changes) > 0 {
		input := ruleset.Print(changes, a.perCommit)
		a.report.Operations++
		if err := a.kernel.Restore(ctx, input.Text); err != nil {
			return a.blame(ctx, err, p, input)
		}
		a.count(changes)
	}
	a.mem = p.learn()
	a.total()
	return nil, nil
}

// blame finds the services whose lines a refusal names. What is in the kernel has
// to be read again: part of the input may be.
func (a *attempt) blame(ctx context.Context, err error, p *plan, input ruleset.Input) (*ruleset.RestoreError, error) {
	a.mem = nil
	var refusal *ruleset.RestoreError
	if ctx.Err() != nil || !errors.As(err, &refusal) || refusal.Temporary() {
		return nil, err
	}
	a.report.Refused++
	found := false
	for _, line := range refusal.Lines {
		if owner := input.Owner(line); owner >= 0 {
			a.setAside(p.services[owner], refusal)
			found = true
		}
	}
	if !found {
		return nil, err
	}
	return refusal, nil
}

func (a *attempt) setAside(s *proxier.Service, reason error) {
	out := proxier.SetAside{Service: s.Name, Protocol: s.Protocol, Reason: reason}
	same := func(x proxier.SetAside) bool { return x.Service == s.Name && x.Protocol == s.Protocol }
	if !slices.ContainsFunc(a.report.SetAside, same) {
		a.report.SetAside = append(a.report.SetAside, out)
	}
}

// without is a State without the services that are set aside.
func without(s *proxier.State, aside []proxier.SetAside) *proxier.State {
	left := slices.DeleteFunc(slices.Clone(s.Services), func(svc *proxier.Service) bool {
		return slices.ContainsFunc(aside, func(x proxier.SetAside) bool {
			return x.Service == svc.Name && x.Protocol == svc.Protocol
		})
	})
	return &proxier.State{Family: s.Family, Node: s.Node, Services: left}
}

func (a *attempt) count(changes []ruleset.Change) {
	if a.report.Written == nil {
		a.report.Written, a.report.Deleted = map[string]int{}, map[string]int{}
		a.report.Rules = map[string]proxier.RuleCount{}
	}
	for _, c := range changes {
		a.report.Written["chains"] += len(c.Writes)
		a.report.Deleted["chains"] += len(c.Deletes)
		n := a.report.Rules[c.Table]
		for _, w := range c.Writes {
			a.report.Written["rules"] += w.Rules
			n.Written += w.Rules
		}
		a.report.Rules[c.Table] = n
	}
}

// total fills in what stands now.
func (a *attempt) total() {
	a.report.Total = a.mem.held.chains()
	if a.report.Rules == nil {
		a.report.Rules = map[string]proxier.RuleCount{}
	}
	for table, chains := range a.mem.rules {
		n := a.report.Rules[table]
		for _, rules := range chains {
			n.Total += int(rules)
		}
		a.report.Rules[table] = n
	}
}

// read learns what stands in the kernel.
func (b *Backend) read(ctx context.Context) error {
	mem, found, err := b.look(ctx)
	if err != nil {
		return err
	}
	b.mem, b.base = mem, found
	return nil
}

func (b *Backend) look(ctx context.Context) (*memory, []baseRule, error) {
	var dumps [][]byte
	for _, table := range []string{"filter", "nat"} {
		dump, err := b.kernel.Save(ctx, table)
		if err != nil {
			return nil, nil, err
		}
		dumps = append(dumps, dump)
	}
	return scan(dumps, b.hasher)
}

// ensureBase puts in the rules that lead to our chains, where they are missing.
func (a *attempt) ensureBase() error {
	for _, rule := range baseRules() {
		if slices.Contains(a.base, rule) {
			continue
		}
		added, err := a.kernel.EnsureJump(rule.jump())
		if err != nil {
			return fmt.Errorf("ensure jump %s: %w", rule.jump(), err)
		}
		if added {
			a.report.Operations++
		}
		a.base = append(a.base, rule)
	}
	return nil
}
