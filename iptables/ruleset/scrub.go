package ruleset

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"switchyard/proxier"
)

// families are those that rules stand in.
var families = []proxier.Family{proxier.IPv4, proxier.IPv6}

// Tools are all by which rules may stand in some tables, of one family or, with 0, of
// both: a node that changed its flavour has rules in each. A flavour that is not
// installed, or that the kernel lacks, is left out, as is the legacy one where the
// kernel has made none of the tables: to look into one would make it. Where nobody can
// tell, since the privileges are missing or the lock is held, that is an error.
func Tools(ctx context.Context, family proxier.Family, tables ...string) iter.Seq2[*Tool, error] {
	return func(yield func(*Tool, error) bool) {
		for _, f := range families {
			if family != 0 && f != family {
				continue
			}
			for flavour := range installed(ctx, f) {
				if flavour == Legacy && !LegacyTables(f, tables...) {
					continue
				}
				tool, err := Find(ctx, f, flavour)
				if isLacking(err) {
					continue
				}
				if !yield(tool, err) {
					return
				}
			}
		}
	}
}

// isLacking reports whether an error of Find says that the kernel has no such tables.
func isLacking(err error) bool {
	var refusal *RestoreError
	denied := func(says string) bool { return strings.Contains(refusal.Stderr, says) }
	return errors.As(err, &refusal) && !refusal.Temporary() &&
		!denied("Permission denied") && !denied("Operation not permitted")
}

// Scrub has clean take chains out of some tables by each of the Tools, and says of
// which it took how many.
func Scrub(ctx context.Context, tables []string, clean func(*Tool) (chains int, err error)) (removed []string, err error) {
	var errs []error
	for tool, err := range Tools(ctx, 0, tables...) {
		if err != nil {
			errs = append(errs, fmt.Errorf("clean up: %w", err))
			continue
		}
		n, err := clean(tool)
		if err != nil {
			errs = append(errs, fmt.Errorf("clean up %s, %s: %w", tool.Family(), tool.Flavour(), err))
		}
		if n > 0 {
			removed = append(removed, fmt.Sprintf("%s, %s: %d chains", tool.Family(), tool.Flavour(), n))
		}
	}
	return removed, errors.Join(errs...)
}

// DeleteChains deletes chains, by table, and returns how many. They may lead to one
// another, but no other rule to them. It writes nothing if there are none.
func (t *Tool) DeleteChains(ctx context.Context, chains map[string][]string) (int, error) {
	var changes []Change
	n := 0
	for table, names := range chains {
		if len(names) > 0 {
			changes = append(changes, Change{Table: table, Deletes: names})
			n += len(names)
		}
	}
	if n == 0 {
		return 0, nil
	}
	if err := t.Restore(ctx, Print(changes, 0).Text); err != nil {
		return 0, err
	}
	return n, nil
}

// HasChain reports whether a chain exists.
func (t *Tool) HasChain(table, chain string) (bool, error) {
	t.execs.Add(1)
	exists, err := t.ipt.ChainExists(table, chain)
	if err != nil {
		return false, fmt.Errorf("look for chain %s %s: %w", table, chain, t.ruleError(table, err))
	}
	return exists, nil
}
