package ipvs

import (
	"iter"
	"net/netip"

	"switchyard/proxier"
)

// Services share addresses and entries: the ports of one Service its ClusterIP, two
// Services an external IP or an endpoint. All here looks through every service: for
// failures only.

// wantedAddrs are the addresses that a service wants, some of them twice.
func (r *rendered) wantedAddrs() iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for _, p := range r.portals {
			for _, a := range p.addrs {
				if !yield(a) {
					return
				}
			}
		}
	}
}

// wantedEntries are the entries that a service wants.
func (r *rendered) wantedEntries() iter.Seq[member] {
	return func(yield func(member) bool) {
		for _, e := range r.entries {
			if !yield(e) {
				return
			}
		}
		for _, p := range r.portals {
			for _, e := range p.entries {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// owners are the services that want something.
func owners[K comparable](m *memory, k K, wants func(*rendered) iter.Seq[K]) []*proxier.Service {
	var out []*proxier.Service
	for _, r := range m.services {
		for wanted := range wants(&r) {
			if wanted == k {
				out = append(out, r.service)
				break
			}
		}
	}
	return out
}

// withheld are the things that only services set aside want.
func withheld[K comparable](a *attempt, wants func(*rendered) iter.Seq[K]) map[K]bool {
	if len(a.aside) == 0 {
		return nil
	}
	only := map[K]bool{}
	for key := range a.aside {
		if r, ok := a.mem.services[key]; ok {
			for k := range wants(&r) {
				only[k] = true
			}
		}
	}
	for key, r := range a.mem.services {
		if a.aside[key] != nil {
			continue
		}
		for k := range wants(&r) {
			delete(only, k)
		}
	}
	return only
}
