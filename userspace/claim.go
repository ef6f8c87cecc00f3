package userspace

import (
	"fmt"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

var _ proxier.Filterer = (*Backend)(nil)

// ruleClaim is what this mode has; that of upstream, which had the first four names, is gone.
func ruleClaim() proxier.Claim {
	c := proxier.Claim{Chain: owns}
	for _, r := range baseRules() {
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
