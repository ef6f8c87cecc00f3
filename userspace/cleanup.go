package userspace

import (
	"context"
	"maps"
	"slices"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// cleanup removes our rules from the base chains and then our chains.
func cleanup(ctx context.Context) (removed []string, err error) {
	return ruleset.Scrub(ctx, []string{"nat", "filter"}, func(tool *ruleset.Tool) (int, error) { return cleanupWith(ctx, tool) })
}

func cleanupWith(ctx context.Context, tool *ruleset.Tool) (int, error) {
	b := newBackend(tool, proxier.Settings{})
	if err := b.read(ctx); err != nil {
		return 0, err
	}
	for _, rule := range b.base {
		if _, err := tool.RemoveJump(rule.jump()); err != nil {
			return 0, err
		}
	}
	chains := map[string][]string{}
	for table, sums := range b.mem.held {
		chains[table] = slices.Collect(maps.Keys(sums))
	}
	return tool.DeleteChains(ctx, chains)
}
