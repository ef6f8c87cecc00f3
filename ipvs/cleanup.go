package ipvs

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"switchyard/iptables/ruleset"
	"switchyard/ipvs/ipset"
	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

// cleanup takes out, for both families: our virtual servers, kube-ipvs0, our rules in
// both flavours, and our sets. Whose a virtual server is, memory.ours tells from the
// sets and the device, so they go after it.
func cleanup(ctx context.Context) (removed []string, err error) {
	d, err := openDoors()
	if errors.Is(err, vs.ErrNoModule) || errors.Is(err, ipset.ErrNoModule) {
		return nil, nil // nothing of ours can be there
	}
	if err != nil {
		return nil, err
	}
	defer d.close()
	s := scrubber{servers: d.servers, sets: d.sets, device: d.device}
	var errs []error
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		if err := s.scrubServers(family); err != nil {
			errs = append(errs, fmt.Errorf("clean up virtual servers, %s: %w", family, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return s.removed, err // without sets and device nobody could tell whose they are
	}
	if hasDevice(deviceName) {
		if err := d.device.Delete(); err != nil {
			return s.removed, err
		}
		s.removed = append(s.removed, "device "+deviceName)
	}
	chains, err := ruleset.Scrub(ctx, tableNames[:], func(tool *ruleset.Tool) (int, error) { return scrubRules(ctx, tool) })
	s.removed = append(s.removed, chains...)
	errs = append(errs, err)
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		errs = append(errs, s.scrubSets(family))
	}
	return s.removed, errors.Join(errs...)
}

// scrubber takes out what is ours, and remembers what it was.
type scrubber struct {
	servers servers
	sets    sets
	device  device
	removed []string
}

func (s *scrubber) scrubServers(family proxier.Family) error {
	m := newMemory(family, &Config{})
	a := attempt{Backend: &Backend{family: family, servers: s.servers, sets: s.sets, device: s.device}}
	if err := a.readHeld(m); err != nil {
		return err
	}
	all, err := s.servers.Servers(family)
	if err != nil {
		return err
	}
	n := 0
	for key := range all {
		if !m.ours(key) {
			continue
		}
		if err := s.servers.Delete(key); err != nil {
			return err
		}
		n++
	}
	if n > 0 {
		s.removed = append(s.removed, fmt.Sprintf("%s: %d virtual servers", family, n))
	}
	return nil
}

// scrubRules removes the ways to our chains, and then the chains.
func scrubRules(ctx context.Context, tool *ruleset.Tool) (int, error) {
	b := &Backend{family: tool.Family(), rules: tool, hasher: ruleset.NewHasher()}
	w, err := b.scanRules(ctx)
	if err != nil {
		return 0, err
	}
	if _, ours := w.sums[chainID{"filter", ipvsFilterChain}]; !ours {
		return 0, nil // the chains that both backends have are the other one's
	}
	for _, rule := range w.base {
		if _, err := tool.RemoveJump(rule.jump()); err != nil {
			return 0, err
		}
	}
	n, err := tool.DeleteChains(ctx, w.chains(func(chainID) bool { return true }))
	if err == nil {
		return n, nil
	}
	// Chains of iptables mode, which ran here too, lead to some that both have: its own
	// cleanup takes those.
	return tool.DeleteChains(ctx, w.chains(func(c chainID) bool { return !slices.Contains(shared, c) }))
}

// shared are the chains that iptables mode has, too.
var shared = []chainID{{"nat", servicesChain}, {"nat", postroutingChain}, {"nat", markMasqChain}, {"filter", forwardChain}}

// chains are some of our chains, by table.
func (w *wall) chains(some func(chainID) bool) map[string][]string {
	chains := map[string][]string{}
	for c := range w.sums {
		if some(c) {
			chains[c.table] = append(chains[c.table], c.name)
		}
	}
	return chains
}

func (s *scrubber) scrubSets(family proxier.Family) error {
	present, err := s.sets.Sets()
	if err != nil {
		return err
	}
	n := 0
	for _, is := range present {
		if _, ours := setByName(is.Name, family); !ours {
			continue
		}
		if err := s.sets.Destroy(is.Name); err != nil {
			return err
		}
		n++
	}
	if n > 0 {
		s.removed = append(s.removed, fmt.Sprintf("%s: %d sets", family, n))
	}
	return nil
}
