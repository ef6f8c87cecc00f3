package userspace

import (
	"cmp"
	"slices"

	"switchyard/proxier"
)

// asides are the versions of services that are left out so that all others can go
// in, and why.
type asides map[*proxier.Service]error

// review drops what is worth another try: versions that are no more wanted, and all
// of them if asked for.
func (a asides) review(want *proxier.State, all bool) {
	for s := range a {
		if at, found := place(want, s); all || !found || want.Services[at] != s {
			delete(a, s)
		}
	}
}

// without is the wanted State with the version of a service that was accepted before
// in place of one that is set aside, or without it.
func (a asides) without(want, accepted *proxier.State) *proxier.State {
	if len(a) == 0 {
		return want
	}
	part := &proxier.State{Family: want.Family, Node: want.Node}
	for _, s := range want.Services {
		if a[s] == nil {
			part.Services = append(part.Services, s)
		} else if at, found := place(accepted, s); found && a[accepted.Services[at]] == nil {
			part.Services = append(part.Services, accepted.Services[at])
		}
	}
	return part
}

// place is where a service stands in a State, in whichever version.
func place(s *proxier.State, svc *proxier.Service) (at int, found bool) {
	if s == nil {
		return 0, false
	}
	return slices.BinarySearchFunc(s.Services, svc, (*proxier.Service).Compare)
}

// with is a State with services added, or replaced by another version.
func with(s *proxier.State, services []*proxier.Service) *proxier.State {
	next := &proxier.State{Family: s.Family, Node: s.Node, Services: slices.Clone(s.Services)}
	for _, svc := range services {
		at, found := place(next, svc)
		if !found {
			next.Services = slices.Insert(next.Services, at, svc)
		}
		next.Services[at] = svc
	}
	return next
}

// list is what a Report says of them, sorted; a service of which two versions are
// refused once.
func (a asides) list() []proxier.SetAside {
	var out []proxier.SetAside
	for s, reason := range a {
		out = append(out, proxier.SetAside{Service: s.Name, Protocol: s.Protocol, Reason: reason})
	}
	compare := func(x, y proxier.SetAside) int {
		return cmp.Or(x.Service.Compare(y.Service), cmp.Compare(x.Protocol, y.Protocol))
	}
	slices.SortFunc(out, compare)
	return slices.CompactFunc(out, func(x, y proxier.SetAside) bool { return compare(x, y) == 0 })
}
