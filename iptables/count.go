package iptables

import (
	"context"
	"slices"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

var _ proxier.Counter = (*Backend)(nil)

// Packets implements proxier.Counter: one run of iptables for each of two chains. A
// rule that does not stand has counted nothing.
func (b *Backend) Packets(ctx context.Context) (p proxier.Packets, err error) {
	nat, filter := plumbing(b.config, &proxier.Node{NodePorts: proxier.NodePorts{Localhost: true}})
	if p.Invalid, err = b.packetsOf(ctx, "filter", filter, invalidDrop()); err != nil {
		return p, err
	}
	if b.localhost.Load() {
		p.Localhost, err = b.packetsOf(ctx, "nat", nat, localhostCount())
	}
	return p, err
}

func (b *Backend) packetsOf(ctx context.Context, table string, chains []ruleset.Chain, rule ruleset.Rule) (uint64, error) {
	for _, c := range chains {
		i := slices.Index(c.Rules, rule)
		if i < 0 {
			continue
		}
		counts, err := b.kernel.Packets(ctx, table, c.Name)
		if err != nil || i >= len(counts) {
			return 0, err
		}
		return counts[i], nil
	}
	return 0, nil
}
