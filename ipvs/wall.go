package ipvs

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// wall is what is known of the rules in the kernel.
type wall struct {
	known bool
	sums  map[chainID]uint64 // of our chains
	base  []baseRule         // those that lead to them
	stamp ruleset.Stamp      // after they were read or written last
	// node is what they were drawn for last, and rules how many they are; nil: they
	// were only read.
	node  *proxier.Node
	rules map[string]proxier.RuleCount
}

// chainID names a chain of the kernel.
type chainID struct{ table, name string }

// ensureRules writes the chains that differ from what they should be. They depend on
// the node alone, so mostly none does.
func (a *attempt) ensureRules(node *proxier.Node) error {
	if !a.wall.known {
		if err := a.readRules(a.ctx); err != nil {
			return err
		}
		a.succeeds = a.wall.isIptables()
	}
	if a.wall.node != nil && sameToRules(a.wall.node, node) {
		a.report.Rules = a.wall.rules
		return nil
	}
	changes, sums := a.rulesToWrite(node)
	if len(changes) > 0 {
		a.report.Operations++
		if err := a.rules.Restore(a.ctx, ruleset.Print(changes, 0).Text); err != nil {
			a.report.Refused++
			return fmt.Errorf("%w (the rules need the modules %s)", err, strings.Join(matches, " and "))
		}
	}
	a.wall.sums = sums
	added, err := a.ensureBase()
	if err == nil && (len(changes) > 0 || added) {
		a.wall.stamp, err = a.rules.Stamp()
	}
	if err == nil {
		a.wall.node, a.wall.rules = node, map[string]proxier.RuleCount{}
		for table, n := range a.report.Rules {
			a.wall.rules[table] = proxier.RuleCount{Total: n.Total}
		}
	}
	return err
}

// sameToRules reports whether the rules for two nodes are the same.
func sameToRules(a, b *proxier.Node) bool {
	return slices.Equal(a.PodRanges, b.PodRanges) && slices.Equal(a.PodInterfaces, b.PodInterfaces)
}

// rulesToWrite are the chains that do not stand as they should, and the sums of all.
func (a *attempt) rulesToWrite(node *proxier.Node) (changes []ruleset.Change, sums map[chainID]uint64) {
	sums, a.report.Rules = map[chainID]uint64{}, map[string]proxier.RuleCount{}
	chains := ruler{a.config, a.family, node}.chains()
	for _, table := range tableNames {
		change, n := ruleset.Change{Table: table}, proxier.RuleCount{}
		for _, c := range chains[table] {
			text := c.AppendTo(nil)
			key := chainID{table, c.Name}
			sums[key] = a.hasher.SumText(text)
			n.Total += len(c.Rules)
			if a.succeeds && key == dispatch {
				sums[key] = a.wall.sums[key]
				continue
			}
			if stands, ok := a.wall.sums[key]; !ok || stands != sums[key] {
				change.Writes = append(change.Writes, ruleset.Write{Name: c.Name, Text: text, Rules: len(c.Rules), Owner: -1})
				n.Written += len(c.Rules)
			}
		}
		a.report.Rules[table] = n
		if len(change.Writes) > 0 {
			changes = append(changes, change)
			a.count(&a.report.Written, "chains", len(change.Writes))
		}
	}
	return changes, sums
}

// dispatch is the chain by which either mode leads new connections.
var dispatch = chainID{"nat", servicesChain}

// isIptables reports whether the chains that both modes have are iptables mode's.
func (w *wall) isIptables() bool {
	_, leads := w.sums[dispatch]
	_, ours := w.sums[chainID{"filter", ipvsFilterChain}]
	return leads && !ours
}

// succeed writes what was left to iptables mode.
func (a *attempt) succeed(node *proxier.Node) error {
	before := a.report.Rules
	a.succeeds, a.wall.node = false, nil
	err := a.ensureRules(node)
	for table, n := range before {
		now := a.report.Rules[table]
		now.Written += n.Written
		a.report.Rules[table] = now
	}
	return err
}

func (a *attempt) ensureBase() (changed bool, err error) {
	for _, rule := range baseRules() {
		if slices.Contains(a.wall.base, rule) {
			continue
		}
		added, err := a.rules.EnsureJump(rule.jump())
		if err != nil {
			return changed, fmt.Errorf("ensure jump %s: %w", rule.jump(), err)
		}
		if added {
			a.report.Operations++
			changed = true
		}
		a.wall.base = append(a.wall.base, rule)
	}
	return changed, nil
}

// jump is the rule in the words of the iptables program.
func (b baseRule) jump() ruleset.Jump {
	match := b.rule
	match.Comment, match.Jump = "", ""
	return ruleset.Jump{
		Table: b.table, From: b.chain, To: b.rule.Jump,
		Match: strings.Fields(match.String()), Comment: b.rule.Comment,
	}
}

func (b *Backend) readRules(ctx context.Context) error {
	stamp, err := b.rules.Stamp()
	if err != nil {
		return err
	}
	w, err := b.scanRules(ctx)
	if err != nil {
		return err
	}
	b.wall, b.wall.stamp = w, stamp
	return nil
}

// scanRules reads our chains and base rules.
func (b *Backend) scanRules(ctx context.Context) (wall, error) {
	w := wall{known: true, sums: map[chainID]uint64{}}
	base := baseRules()
	leads := func(table, chain string) bool {
		return slices.ContainsFunc(base, func(r baseRule) bool { return r.table == table && r.chain == chain })
	}
	own := func(c ruleset.Found) { w.sums[chainID{c.Table, c.Name}] = c.Sum }
	each := func(table string, c ruleset.Chain) {
		for _, r := range base {
			if r.table == table && r.chain == c.Name && slices.Contains(c.Rules, r.rule) {
				w.base = append(w.base, r)
			}
		}
	}
	for _, table := range tableNames {
		dump, err := asking(func() ([]byte, error) { return b.rules.Save(ctx, table) })
		if err != nil {
			return wall{}, err
		}
		if err := b.hasher.Scan(dump, owns, leads, own, each); err != nil {
			return wall{}, fmt.Errorf("read table %s: %w", table, err)
		}
	}
	return w, nil
}

// owned are the names of our chains by table: all that the ruler can draw, whatever the
// configuration.
var owned = func() map[string][]string {
	names := map[string][]string{}
	for table, chains := range (ruler{node: &proxier.Node{}}).chains() {
		for _, c := range chains {
			names[table] = append(names[table], c.Name)
		}
	}
	return names
}()

func owns(table, chain string) bool { return slices.Contains(owned[table], chain) }

// missingFrom says which of our rules is no longer as it was, "" if none.
func (w *wall) missingFrom(now wall) string {
	for key, sum := range w.sums {
		if now.sums[key] != sum {
			return fmt.Sprintf("chain %s %s was changed or deleted", key.table, key.name)
		}
	}
	for _, r := range w.base {
		if !slices.Contains(now.base, r) {
			return fmt.Sprintf("the way to our chains from %s %s was deleted", r.table, r.chain)
		}
	}
	return ""
}
