package iptables

import (
	"cmp"
	"slices"

	"switchyard/proxier"
)

// asides are the services that were left out so that all others could go in,
// sorted by service.
type asides []aside

type aside struct {
	service *proxier.Service // the version that was refused
	reason  error
}

func (a *asides) put(s *proxier.Service, reason error) {
	at, found := slices.BinarySearchFunc(*a, s, compareAside)
	if found {
		(*a)[at] = aside{s, reason}
		return
	}
	*a = slices.Insert(*a, at, aside{s, reason})
}

func compareAside(a aside, s *proxier.Service) int { return a.service.Compare(s) }

// review drops what is worth another try: services that changed or are gone, and
// all of them if asked for or if the node changed.
func (a *asides) review(want *proxier.State, all bool) {
	*a = slices.DeleteFunc(*a, func(x aside) bool {
		at, found := slices.BinarySearchFunc(want.Services, x.service, (*proxier.Service).Compare)
		return all || !found || want.Services[at] != x.service
	})
}

// without is the wanted State with the version of a service that was accepted
// before in place of one that is set aside, or without it.
func (a *asides) without(want, accepted *proxier.State) *proxier.State {
	if len(*a) == 0 {
		return want
	}
	part := &proxier.State{Family: want.Family, Node: want.Node}
	for _, s := range want.Services {
		if _, out := slices.BinarySearchFunc(*a, s, compareAside); !out {
			part.Services = append(part.Services, s)
		} else if older := versionIn(accepted, s); older != nil {
			part.Services = append(part.Services, older)
		}
	}
	return part
}

func versionIn(state *proxier.State, s *proxier.Service) *proxier.Service {
	if state == nil {
		return nil
	}
	at, found := slices.BinarySearchFunc(state.Services, s, (*proxier.Service).Compare)
	if !found {
		return nil
	}
	return state.Services[at]
}

func (a *asides) list() []proxier.SetAside {
	out := make([]proxier.SetAside, 0, len(*a))
	for _, x := range *a {
		out = append(out, proxier.SetAside{Service: x.service.Name, Protocol: x.service.Protocol, Reason: x.reason})
	}
	return slices.Clip(slices.SortedFunc(slices.Values(out), func(x, y proxier.SetAside) int {
		return cmp.Or(x.Service.Compare(y.Service), cmp.Compare(x.Protocol, y.Protocol))
	}))
}
