package cluster

import (
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
)

// SetServiceCIDR takes a ServiceCIDR as it is now and reports whether that changes
// the Snapshot. What of it is no range is left out: the API server checks them.
func (s *Store) SetServiceCIDR(cidr *networkingv1.ServiceCIDR) bool {
	if cidr == nil {
		return false
	}
	var ranges []netip.Prefix
	for _, text := range cidr.Spec.CIDRs {
		if p, err := parsePrefix(text); err == nil {
			ranges = append(ranges, p)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cidrs[strings.Clone(cidr.Name)] = ranges
	return s.gatherRanges()
}

// DeleteServiceCIDR forgets a ServiceCIDR and reports whether that changes the
// Snapshot.
func (s *Store) DeleteServiceCIDR(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.cidrs, name)
	return s.gatherRanges()
}

func (s *Store) gatherRanges() (changed bool) {
	var all []netip.Prefix
	for _, ranges := range s.cidrs {
		all = append(all, ranges...)
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	all = slices.Compact(all)
	changed = !slices.Equal(all, s.ranges)
	s.ranges = all
	return changed
}
