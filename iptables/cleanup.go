package iptables

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
	chains := map[string][]string{}
	for table, sums := range b.mem.held {
		chains[table] = slices.Collect(maps.Keys(sums))
	}
	return tool.DeleteChains(ctx, chains)
}

// kubeletCanary is a chain that the kubelet makes in every table that it uses.
const kubeletCanary = "KUBE-KUBELET-CANARY"

// cleanupFirewall removes KUBE-FIREWALL if it holds no more than the martian guard: a
// process that was killed may not have come to that. With other rules, or where there
// is a kubelet, it is the kubelet's, which keeps the very same guard in it: whose that
// is nobody can tell, and it stays.
func cleanupFirewall(ctx context.Context, tool *ruleset.Tool, base []baseRule) error {
	if exists, err := tool.HasChain("filter", kubeFirewallChain); err != nil || !exists {
		return err
	}
	dump, err := tool.Save(ctx, "filter")
	if err != nil {
		return err
	}
	ours := true
	guard := []ruleset.Rule{martianGuard().rule}
	err = ruleset.Scan(dump, nil, func(_ string, c ruleset.Chain) {
		if c.Name == kubeletCanary || c.Name == kubeFirewallChain && len(c.Rules) > 0 && !slices.Equal(c.Rules, guard) {
			ours = false
		}
	})
	if err != nil || !ours {
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
