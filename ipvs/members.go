package ipvs

import (
	"maps"
	"net/netip"
	"slices"

	"switchyard/ipvs/ipset"
)

// entries adds or deletes the entries of some sets.
func (a *attempt) entries(add bool, some func(member) bool) error {
	bySet := map[set][]member{}
	for _, e := range a.mem.entries.pending(add) {
		if some(e) {
			bySet[e.set] = append(bySet[e.set], e)
		}
	}
	order := slices.Sorted(maps.Keys(bySet))
	if !add { // what sends packets to a set's guard goes before what the guard lets pass
		slices.Reverse(order)
	}
	for _, s := range order {
		if err := a.change(s, bySet[s], add); err != nil {
			return err
		}
	}
	return nil
}

// change writes entries of one set at once, and if that fails one by one, so that
// those at fault are found.
func (a *attempt) change(s set, list []member, add bool) error {
	write := func(some []member) error {
		changed := make([]ipset.Entry, len(some))
		for i, e := range some {
			changed[i] = e.entry
		}
		var err error
		if add {
			err = a.sets.Change(s.name(a.family), changed, nil)
		} else {
			err = a.sets.Change(s.name(a.family), nil, changed)
		}
		if err != nil {
			return err
		}
		for _, e := range some {
			a.mem.entries.hold(e, add)
		}
		a.counted(add, "entries", len(some))
		return nil
	}
	if add && s.leads() { // not to where an earlier step of its service failed
		blocked := withheld(a, (*rendered).wantedEntries)
		list = slices.DeleteFunc(list, func(e member) bool { return blocked[e] })
	}
	if len(list) == 0 {
		return nil
	}
	err := write(list)
	if err == nil || isFatal(err) {
		return err
	}
	for _, e := range list {
		if err := write([]member{e}); err != nil && a.blame(err, owners(a.mem, e, (*rendered).wantedEntries)...) {
			return err
		}
	}
	return nil
}

// addresses adds or deletes addresses of kube-ipvs0.
func (a *attempt) addresses(add bool) error {
	list := slices.SortedFunc(slices.Values(a.mem.addrs.pending(add)), netip.Addr.Compare)
	if add {
		blocked := withheld(a, (*rendered).wantedAddrs)
		list = slices.DeleteFunc(list, func(addr netip.Addr) bool { return blocked[addr] })
	}
	write := func(some []netip.Addr) error {
		var err error
		if add {
			err = a.device.Change(some, nil)
		} else {
			err = a.device.Change(nil, some)
		}
		if err != nil {
			return err
		}
		for _, addr := range some {
			a.mem.addrs.hold(addr, add)
		}
		a.counted(add, "addresses", len(some))
		return nil
	}
	if len(list) == 0 {
		return nil
	}
	err := write(list)
	if err == nil || isFatal(err) {
		return err
	}
	for _, addr := range list {
		if err := write([]netip.Addr{addr}); err != nil && a.blame(err, owners(a.mem, addr, (*rendered).wantedAddrs)...) {
			return err
		}
	}
	return nil
}
