package userspace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// cleanup removes our rules from the base chains and then our chains, of both
// families and both flavours: a node that changed its flavour has some in each.
func cleanup(ctx context.Context) (removed []string, err error) {
	var errs []error
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		for _, flavour := range []ruleset.Flavour{ruleset.NFT, ruleset.Legacy} {
			if flavour == ruleset.Legacy && !hasLegacyTables(family) {
				continue
			}
			tool, err := ruleset.Find(ctx, family, flavour)
			if err != nil {
				continue // not there: nothing of ours either
			}
			n, err := cleanupWith(ctx, tool)
			if err != nil {
				errs = append(errs, fmt.Errorf("clean up %s, %s: %w", family, flavour, err))
			}
			if n > 0 {
				removed = append(removed, fmt.Sprintf("%s, %s: %d chains", family, flavour, n))
			}
		}
	}
	return removed, errors.Join(errs...)
}

// hasLegacyTables reports whether the kernel has made a legacy table that may hold
// rules of ours. To look into one that it has not made would make it.
func hasLegacyTables(family proxier.Family) bool {
	name := "ip_tables_names"
	if family == proxier.IPv6 {
		name = "ip6_tables_names"
	}
	// Not /proc/net, which is the namespace of the process's first thread.
	text, err := os.ReadFile("/proc/thread-self/net/" + name)
	if err != nil {
		return false // the kernel has no legacy tables at all
	}
	tables := strings.Fields(string(text))
	return slices.Contains(tables, "nat") || slices.Contains(tables, "filter")
}

// cleanupWith returns how many chains it removed.
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
	var changes []ruleset.Change
	n := 0
	for table, chains := range b.mem.held {
		change := ruleset.Change{Table: table}
		for name := range chains {
			change.Deletes = append(change.Deletes, name)
		}
		if n += len(chains); len(chains) > 0 {
			changes = append(changes, change)
		}
	}
	if n == 0 {
		return 0, nil
	}
	return n, tool.Restore(ctx, ruleset.Print(changes, 0).Text)
}
