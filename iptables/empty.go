package iptables

import (
	"context"
	"errors"
	"slices"

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
	if err := b.read(ctx, &proxier.Node{}); err != nil {
		return false, err
	}
	empty := b.mem.isEmpty()
	b.Forget()
	return empty, nil
}
