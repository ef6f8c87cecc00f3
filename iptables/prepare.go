package iptables

import (
	"context"
	"fmt"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// prepare puts the guard of 127.0.0.0/8 in, behind which route_localnet may be
// switched on.
func prepare(ctx context.Context, family proxier.Family, n *proxier.Node, _ proxier.Settings) ([]string, error) {
	if !n.NodePorts.Localhost {
		return nil, nil
	}
	tool, err := ruleset.Find(ctx, family, "")
	if err != nil {
		return nil, fmt.Errorf("prepare iptables for %s: %w", family, err)
	}
	added := false
	for _, rule := range baseRules(n) {
		if rule.rule.Jump != kubeFirewallChain && rule.chain != kubeFirewallChain {
			continue
		}
		fresh, err := rule.insert(tool)
		if err != nil {
			return nil, err
		}
		added = added || fresh
	}
	if !added {
		return nil, nil
	}
	return []string{"guarded 127.0.0.0/8 against other machines, in " + kubeFirewallChain}, nil
}

// insert puts a rule into its base chain if it is not there, and reports whether it
// did.
func (b baseRule) insert(k kernel) (added bool, err error) {
	if b.rule.Jump == kubeFirewallChain {
		if err := k.EnsureChain(b.table, kubeFirewallChain); err != nil {
			return false, fmt.Errorf("ensure chain %s: %w", kubeFirewallChain, err)
		}
	}
	if added, err = k.EnsureJump(b.jump()); err != nil {
		return false, fmt.Errorf("ensure jump %s: %w", b.jump(), err)
	}
	return added, nil
}
