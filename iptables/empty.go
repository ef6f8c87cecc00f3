package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

var _ proxier.Starter = (*Backend)(nil)

// Empty implements proxier.Starter. The nft flavour lists the chains, the legacy
// one reads its tables whole.
func (b *Backend) Empty(ctx context.Context) (bool, error) {
	for _, table := range []string{"nat", "filter"} {
		chains, err := b.kernel.Chains(table)
		if errors.Is(err, errors.ErrUnsupported) {
			return b.readsEmpty(ctx)
		}
		ours := func(chain string) bool { return owns(table, chain) }
		if err != nil || slices.ContainsFunc(chains, ours) {
			return false, err
		}
	}
	return true, nil
}

func (b *Backend) readsEmpty(ctx context.Context) (bool, error) {
	empty := true
	look := func(table, chain string) bool {
		empty = empty && !owns(table, chain)
		return false // its rules are no matter
	}
	for _, table := range []string{"nat", "filter"} {
		dump, err := b.kernel.Save(ctx, table)
		if err != nil {
			return false, err
		}
		if err := ruleset.Scan(dump, look, nil); err != nil {
			return false, fmt.Errorf("look for chains of ours: %w", err)
		}
		if !empty {
			break
		}
	}
	return empty, nil
}
