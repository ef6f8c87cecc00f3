package aside

import (
	"cmp"
	"slices"

	"switchyard/proxier"
)

// Services are the versions of services that are left out, and why. The zero value
// has none.
type Services struct {
	reasons map[*proxier.Service]error
}

// Put sets a version of a service aside.
func (s *Services) Put(version *proxier.Service, reason error) {
	if s.reasons == nil {
		s.reasons = map[*proxier.Service]error{}
	}
	s.reasons[version] = reason
}

// Review drops what is worth another try: versions that are no more wanted, and all
// of them if asked for.
func (s *Services) Review(want *proxier.State, all bool) {
	for version := range s.reasons {
		if all || VersionIn(want, version) != version {
			delete(s.reasons, version)
		}
	}
}

// Any reports whether a version in a State is set aside.
func (s *Services) Any(want *proxier.State) bool {
	return len(s.reasons) > 0 && slices.ContainsFunc(want.Services, s.has)
}

func (s *Services) has(version *proxier.Service) bool { return s.reasons[version] != nil }

// Without is the wanted State with the version of a service that stands in place of
// one that is set aside, or without it: where none stands, where that is set aside
// too, or where it would do harm (see [older]). stands nil: nothing does.
func (s *Services) Without(want, stands *proxier.State) *proxier.State {
	if !s.Any(want) {
		return want
	}
	part := &proxier.State{Family: want.Family, Node: want.Node}
	older := older{want: want, aside: s}
	for _, svc := range want.Services {
		if !s.has(svc) {
			part.Services = append(part.Services, svc)
			continue
		}
		if was := VersionIn(stands, svc); was != nil && !s.has(was) && older.mayStay(was, svc) {
			part.Services = append(part.Services, was)
		}
	}
	return part
}

// List is what a Report says of them, sorted; a service of which two versions are
// refused once.
func (s *Services) List() []proxier.SetAside {
	var out []proxier.SetAside
	for version, reason := range s.reasons {
		out = append(out, proxier.SetAside{Service: version.Name, Protocol: version.Protocol, Reason: reason})
	}
	compare := func(x, y proxier.SetAside) int {
		return cmp.Or(x.Service.Compare(y.Service), cmp.Compare(x.Protocol, y.Protocol))
	}
	slices.SortFunc(out, compare)
	return slices.CompactFunc(out, func(x, y proxier.SetAside) bool { return compare(x, y) == 0 })
}

// VersionIn is a State's version of a service, nil if it has none.
func VersionIn(state *proxier.State, s *proxier.Service) *proxier.Service {
	if state == nil {
		return nil
	}
	at, found := slices.BinarySearchFunc(state.Services, s, (*proxier.Service).Compare)
	if !found {
		return nil
	}
	return state.Services[at]
}
