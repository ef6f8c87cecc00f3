package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// cleanup removes our rules from the base chains and then our chains, of both
// families and both flavours: a node that changed its flavour has some in each.
func cleanup(ctx context.Context) (removed []string, err error) {
	var errs []error
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		for _, flavour := range []ruleset.Flavour{ruleset.NFT, ruleset.Legacy} {
			if flavour == ruleset.Legacy && !ruleset.LegacyTables(family, "nat", "filter") {
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

func cleanupWith(ctx context.Context, tool *ruleset.Tool) (int, error) {
	b := New(tool, proxier.Settings{})
	anyNode := &proxier.Node{NodePorts: proxier.NodePorts{Localhost: true}}
	if err := b.read(ctx, anyNode); err != nil {
		return 0, err
	}
	for _, rule := range b.base {
		if rule.rule.Jump == kubeFirewallChain || rule.chain == kubeFirewallChain {
			continue
		}
		if _, err := tool.RemoveJump(rule.jump()); err != nil {
			return 0, err
		}
	}
	if err := cleanupFirewall(ctx, tool, b.base); err != nil {
		return 0, err
	}
	return b.deleteAll(ctx)
}

func (b *Backend) deleteAll(ctx context.Context) (int, error) {
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
	return n, b.kernel.Restore(ctx, ruleset.Print(changes, 0).Text)
}

// kubeletCanary is a chain that the kubelet makes in every table that it uses.
const kubeletCanary = "KUBE-KUBELET-CANARY"

// cleanupFirewall removes KUBE-FIREWALL if the martian guard is all that it
// holds. With other rules, or where there is a kubelet, it is the kubelet's, which
// keeps the very same guard in it: whose that is nobody can tell, and it stays.
func cleanupFirewall(ctx context.Context, tool *ruleset.Tool, base []baseRule) error {
	if !slices.Contains(base, martianGuard()) {
		return nil
	}
	dump, err := tool.Save(ctx, "filter")
	if err != nil {
		return err
	}
	alone := true
	err = ruleset.Scan(dump, nil, func(_ string, c ruleset.Chain) {
		if c.Name == kubeletCanary || c.Name == kubeFirewallChain && len(c.Rules) != 1 {
			alone = false
		}
	})
	if err != nil || !alone {
		return err
	}
	for _, rule := range base {
		if rule.rule.Jump != kubeFirewallChain {
			continue
		}
		if _, err := tool.RemoveJump(rule.jump()); err != nil {
			return err
		}
	}
	_, err = tool.DeleteChain("filter", kubeFirewallChain)
	return err
}
