package ipvs

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"switchyard/ipvs/ipset"
	"switchyard/ipvs/vs"
)

// readTries is how often a question is asked: a listing that others' writes cut short,
// or one answer that does not come, is no reason to begin the whole reading anew.
const readTries = 4

// asking asks until there is an answer.
func asking[T any](ask func() (T, error)) (answer T, err error) {
	for range readTries {
		if answer, err = ask(); err == nil || isFinal(err) {
			break
		}
	}
	return answer, err
}

// read learns what the kernel holds of ours, and makes the device and the sets where
// they are missing: rules can only look into sets that exist.
func (a *attempt) read(m *memory) error {
	if err := tune(a.tuner, a.settings, a.log); err != nil {
		return err
	}
	if err := setTimeouts(a.servers, a.settings, a.log); err != nil {
		return err
	}
	if _, err := asking(a.device.Ensure); err != nil {
		return err
	}
	for s := range setCount {
		err := a.sets.Create(s.header(a.family))
		if errors.Is(err, ipset.ErrForeign) {
			err = fmt.Errorf("%w: destroy the set %s, or rename it", err, s.name(a.family))
		}
		if err != nil {
			return err
		}
	}
	if err := a.readHeld(m); err != nil {
		return err
	}
	return a.readServers(m)
}

// readHeld learns which addresses and entries the kernel holds.
func (a *attempt) readHeld(m *memory) error {
	addrs, err := asking(func() ([]netip.Addr, error) { return a.device.Addresses(a.family) })
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		m.addrs.hold(addr, true)
	}
	present, err := asking(a.sets.Sets)
	if err != nil {
		return err
	}
	for _, is := range present {
		s, ours := setByName(is.Name, a.family)
		if !ours || is.Type != s.kind() {
			continue
		}
		entries, err := asking(func() ([]ipset.Entry, error) { return a.sets.Entries(is.Name) })
		if err != nil {
			return err
		}
		for _, e := range entries {
			m.entries.hold(member{s, e}, true)
		}
	}
	return nil
}

// readServers learns the servers that are wanted or ours. All others are somebody
// else's, and are not looked at again.
func (a *attempt) readServers(m *memory) error {
	all, err := asking(func() (map[vs.Key]vs.Server, error) { return a.servers.Servers(a.family) })
	if err != nil {
		return err
	}
	for key, is := range all {
		if wanted := m.servers[key]; (wanted == nil || wanted.want == nil) && !m.ours(key) {
			continue
		}
		counted, err := asking(func() ([]vs.Counted, error) { return a.servers.Destinations(key) })
		if err != nil {
			return err
		}
		s := m.server(key)
		s.stands, s.is, s.since = true, is, a.sinceOf(key)
		for _, d := range counted {
			s.pool = append(s.pool, d.Destination)
		}
		slices.SortFunc(s.pool, func(x, y vs.Destination) int { return x.Addr.Compare(y.Addr) })
	}
	return nil
}
