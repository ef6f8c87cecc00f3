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

	plan  *plan         // the last one made
	input ruleset.Input // its text
}

// maxBlames is how often a refusal that names its lines is taken at its word; after
// that the culprits are found by halving.
const maxBlames = 4

func (a *attempt) apply(ctx context.Context, want *proxier.State) error {
	a.aside.Review(want, want == a.last || a.last != nil && !sameToRules(&want.Node, &a.last.Node))
	a.last = want
	err := a.settle(ctx, want)
	a.report.SetAside = a.aside.List()
	if err != nil {
		return err
	}
	return a.ensureBase()
}

// settle programs want without what has been set aside; if the kernel refuses that,
// it finds out what of it, sets that aside too, and goes on.
func (a *attempt) settle(ctx context.Context, want *proxier.State) error {
	for range maxBlames {
		part, err := a.part(ctx, want)
		if err != nil {
			return err
		}
		refusal, err := a.try(ctx, part)
		if err != nil || refusal == nil {
			return err
		}
		if !a.blame(refusal) {
			break
		}
	}
	return a.isolate(ctx, want)
}

// try programs a State. A refusal that may be a service's fault is returned as such,
// after the kernel was read again: part of the input may be in.
func (a *attempt) try(ctx context.Context, part *proxier.State) (*ruleset.RestoreError, error) {
	if a.mem == nil {
		if err := a.read(ctx); err != nil {
			return nil, err
		}
	}
	err := a.program(ctx, part)
	var refusal *ruleset.RestoreError
	if err == nil || ctx.Err() != nil || !errors.As(err, &refusal) || refusal.Temporary() {
		return nil, err
	}
	if err := a.read(ctx); err != nil {
		return nil, err
	}
	return refusal, nil
}

// program brings the kernel to a State, and remembers it if it succeeds.
func (a *attempt) program(ctx context.Context, part *proxier.State) error {
	var err error
	if a.plan, err = a.rendered(ctx, part); err != nil {
		return err
	}
	if changes := a.plan.changes(); len(changes) > 0 {
		a.input = ruleset.Print(changes, a.perCommit)
		a.report.Operations++
		if err := a.kernel.Restore(ctx, a.input.Text); err != nil {
			a.report.Refused++
			return err
		}
		a.count(changes)
	}
	a.mem, a.accepted = a.plan.learn(), a.plan.want
	a.total()
	return nil
}

// rendered is the plan to a State without what cannot be rendered of it. An older
// version takes a service's place if that can be rendered for the node as it is now.
func (a *attempt) rendered(ctx context.Context, part *proxier.State) (*plan, error) {
	for {
		a.mem.relics = a.relics
		p := newPlan(a.mem, part, a.config, a.hasher)
		if len(p.failed) == 0 {
			return p, nil
		}
		for _, f := range p.failed {
			a.aside.Put(f.service, f.reason)
		}
		var err error
		if part, err = a.part(ctx, part); err != nil {
			return nil, err
		}
	}
}

// blame sets the services aside whose lines a refusal names; it reports whether there
// are any.
func (a *attempt) blame(refusal *ruleset.RestoreError) (found bool) {
	for _, line := range refusal.Lines {
		if owner := a.input.Owner(line); owner >= 0 {
			a.aside.Put(a.plan.services[owner], refusal)
			found = true
		}
	}
	return found
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
