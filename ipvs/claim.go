package ipvs

import (
	"context"
	"errors"
	"fmt"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

var _ proxier.Filterer = (*Backend)(nil)

// ruleClaim has the chains of this mode alone and those that it shares with iptables mode.
func ruleClaim() proxier.Claim {
	c := proxier.Claim{Chain: owns}
	for _, r := range baseRules() {
		c.Ways = append(c.Ways, fmt.Sprintf("%s -A %s %s", r.table, r.chain, r.rule))
	}
	return c
}

// Flavour implements proxier.Filterer.
func (b *Backend) Flavour() string {
	tool, ok := b.rules.(*ruleset.Tool)
	if !ok {
		return ""
	}
	return string(tool.Flavour())
}

// objects takes out our virtual servers, kube-ipvs0 and our sets. Whose a virtual server
// is, the sets and the device tell, so they go last.
func objects(context.Context) (removed []string, err error) {
	if !hasIPVS() && !hasDevice(deviceName) {
		return nil, nil // to open the door would load the module
	}
	d, err := openDoors()
	if err != nil {
		return nil, fmt.Errorf("clean up: %w", err)
	}
	defer d.close()
	s := scrubber{servers: d.servers, sets: d.sets, device: d.device}
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		if err := s.scrubServers(family); err != nil {
			return s.removed, fmt.Errorf("clean up virtual servers, %s: %w", family, err)
		}
	}
	if hasDevice(deviceName) {
		if err := d.device.Delete(); err != nil {
			return s.removed, err
		}
		s.removed = append(s.removed, "device "+deviceName)
	}
	return s.removed, errors.Join(s.scrubSets(proxier.IPv4), s.scrubSets(proxier.IPv6))
}
