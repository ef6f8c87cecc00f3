package iptables

import (
	"fmt"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

var _ proxier.Filterer = (*Backend)(nil)

// ruleClaim is ours and upstream's iptables mode's alike: both have the same names and ways.
func ruleClaim() proxier.Claim {
	anyNode := &proxier.Node{NodePorts: proxier.NodePorts{Localhost: true}}
	c := proxier.Claim{Chain: owns}
	for _, r := range baseRules(anyNode) {
		c.Ways = append(c.Ways, fmt.Sprintf("%s -A %s %s", r.table, r.chain, r.rule))
	}
	return c
}

// Flavour implements proxier.Filterer.
func (b *Backend) Flavour() string {
	tool, ok := b.kernel.(*ruleset.Tool)
	if !ok {
		return ""
	}
	return string(tool.Flavour())
}
