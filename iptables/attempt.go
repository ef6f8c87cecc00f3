package iptables

import (
	"bytes"
	"context"
	"errors"
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
	if a.perCommit == 0 && a.mem.isEmpty() {
		if err := a.prepare(ctx, want); err != nil {
			return err
		}
	}
	a.aside.Review(want, want == a.last || a.last != nil && !sameToRules(&want.Node, &a.last.Node))
	if err := a.settle(ctx, want); err != nil {
		return err
	}
	return a.ensureBase(&want.Node)
}

// prepare puts our chains in without a service, and the ways to them. The legacy
// flavour moves the whole table for each rule, so the ways come while it is small;
// the nft flavour checks what can be reached at each COMMIT, so there they come
// last.
func (a *attempt) prepare(ctx context.Context, want *proxier.State) error {
	empty := &proxier.State{Family: want.Family, Node: want.Node}
	if err := a.program(ctx, empty); err != nil {
		return err
	}
	a.accepted = nil // nothing of what was asked for
	return a.ensureBase(&want.Node)
}

// maxBlames is how often a refusal that names its lines is taken at its word;
// after that the culprits are found by halving. Each is one more COMMIT of a large
// input, or one more line where a program stops at the first.
const maxBlames = 16

// settle programs want without what has been set aside; if the kernel refuses
// that, it finds out what of it, sets that aside too, and goes on.
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
		blamed := a.blame(refusal)
		if len(blamed) == 0 {
			break
		}
		for s, reason := range blamed {
			a.aside.Put(s, reason)
		}
	}
	return a.isolate(ctx, want)
}

// try programs a State. A refusal that may be a service's fault is returned as
// such, after the kernel was read again: part of the input may be in.
func (a *attempt) try(ctx context.Context, part *proxier.State) (*ruleset.RestoreError, error) {
	err := a.program(ctx, part)
	var refusal *ruleset.RestoreError
	if err == nil || ctx.Err() != nil || !errors.As(err, &refusal) || refusal.Temporary() {
		return nil, err
	}
	if err := a.read(ctx, &part.Node); err != nil {
		return nil, err
	}
	return refusal, nil
}

// program brings the kernel to a State, part of what is wanted, and remembers it
// if it succeeds.
func (a *attempt) program(ctx context.Context, part *proxier.State) error {
	p, err := a.rendered(ctx, part)
	if err != nil {
		return err
	}
	a.plan = p
	if changes := p.changes(); len(changes) > 0 {
		a.input = ruleset.Print(changes, a.perCommit)
		a.report.Operations++
		if err := a.kernel.Restore(ctx, a.input.Text); err != nil {
			a.report.Refused++
			return err
		}
		a.watch.wrote(changes)
		a.count(changes)
	}
	a.mem, a.accepted = p.learn(), p.want
	return nil
}

// rendered is the plan to a State without what cannot be rendered of it. An older
// version takes a service's place if that can be: a change of the node may be what
// stands against both.
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

func (a *attempt) count(changes []ruleset.Change) {
	if a.report.Written == nil {
		a.report.Written, a.report.Deleted = map[string]int{}, map[string]int{}
	}
	if a.report.Rules == nil {
		a.report.Rules = map[string]proxier.RuleCount{}
	}
	for _, c := range changes {
		rules := a.report.Rules[c.Table]
		a.report.Written["chains"] += len(c.Writes)
		a.report.Deleted["chains"] += len(c.Deletes)
		for _, w := range c.Writes {
			a.report.Written["rules"] += w.Rules
			rules.Written += w.Rules
		}
		a.report.Rules[c.Table] = rules
	}
}

// countStanding completes the counts of rules with what stands of them now.
func (a *attempt) countStanding() {
	if a.report.Rules == nil {
		a.report.Rules = map[string]proxier.RuleCount{}
	}
	for table, total := range a.mem.rules {
		rules := a.report.Rules[table]
		rules.Total = total
		a.report.Rules[table] = rules
	}
}

// blame finds the services whose lines the refusal names, each with the refusal of
// its own first line.
func (a *attempt) blame(refusal *ruleset.RestoreError) map[*proxier.Service]error {
	blamed := map[*proxier.Service]error{}
	for _, line := range refusal.Lines {
		owner := a.input.Owner(line)
		if owner < 0 {
			continue
		}
		s := a.plan.services[owner]
		if blamed[s] == nil {
			own := *refusal
			own.Line, own.Lines, own.Text = line, []int{line}, lineOf(a.input.Text, line)
			blamed[s] = &own
		}
	}
	return blamed
}

// maxLine is how much of a refused line goes into an error, in bytes.
const maxLine = 300

// lineOf is a line of a text, counted from 1.
func lineOf(text []byte, n int) string {
	for ; n > 1; n-- {
		_, text, _ = bytes.Cut(text, []byte("\n"))
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	return string(line[:min(len(line), maxLine)])
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
	added, err := rule.insert(a.kernel)
	if err != nil {
		return err
	}
	if added {
		a.report.Operations++
	}
	a.base = append(a.base, rule)
	a.watch.ensured(rule)
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
