package node

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"switchyard/proxier"
)

// Selection is a parsed nodePortAddresses: the addresses at which NodePorts
// answer, as the union of its parts. The zero Selection is an empty list, which
// stands for every address, loopback included.
type Selection struct {
	CIDRs     []netip.Prefix // masked, in the order given
	Primary   bool           // keyword primary: the node's first IP of each family
	Localhost bool           // keyword localhost: 127.0.0.0/8 and ::1/128
	All       bool           // keyword all: 0.0.0.0/0 and ::/0
}

// ParseSelection reads nodePortAddresses: CIDRs and the keywords primary,
// localhost and all, each keyword once at most. The error names every entry that
// is wrong, counted from 0 as in the configuration file, and what is allowed.
func ParseSelection(entries []string) (Selection, error) {
	var s Selection
	var errs []error
	for i, entry := range entries {
		if err := s.add(entry); err != nil {
			errs = append(errs, fmt.Errorf("parse nodePortAddresses[%d] %q: %w", i, entry, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Selection{}, err
	}
	return s, nil
}

func (s *Selection) add(entry string) error {
	switch entry {
	case "primary":
		return once(&s.Primary)
	case "localhost":
		return once(&s.Localhost)
	case "all":
		return once(&s.All)
	}
	cidr, err := netip.ParsePrefix(entry)
	if err != nil {
		return errors.New("must be a CIDR such as 10.0.0.0/8 or fd00::/64, or one of the keywords primary, localhost, all")
	}
	if cidr.Addr().Is4In6() {
		return errors.New("must be written as an IPv4 CIDR: an IPv4-mapped one matches no address")
	}
	s.CIDRs = append(s.CIDRs, cidr.Masked())
	return nil
}

func once(keyword *bool) error {
	if *keyword {
		return errors.New("must not be repeated: each of the keywords primary, localhost, all may be given once")
	}
	*keyword = true
	return nil
}

// IsEmpty reports whether nothing was chosen, which means every address.
func (s Selection) IsEmpty() bool {
	return len(s.CIDRs) == 0 && !s.Primary && !s.Localhost && !s.All
}

// everything reports whether all addresses of a family are chosen. A list that
// only lacks the family does not choose everything of it.
func (s Selection) everything(family proxier.Family) bool {
	return s.IsEmpty() || s.All || slices.ContainsFunc(s.CIDRs, func(c netip.Prefix) bool {
		return c.Bits() == 0 && proxier.FamilyOf(c.Addr()) == family
	})
}

// loopback reports whether an address of the family's loopback range is chosen.
func (s Selection) loopback(family proxier.Family) bool {
	return s.IsEmpty() || s.All || s.Localhost ||
		slices.ContainsFunc(s.CIDRs, family.Loopback().Overlaps)
}

func (s Selection) contains(addr netip.Addr) bool {
	return slices.ContainsFunc(s.CIDRs, func(c netip.Prefix) bool { return c.Contains(addr) })
}
