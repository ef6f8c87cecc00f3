package ipvs

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"time"

	"switchyard/ipvs/dummy"
	"switchyard/ipvs/ipset"
	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

// attempt is one Apply on its way.
type attempt struct {
	*Backend
	ctx    context.Context
	now    time.Time
	report proxier.Report

	changes []change
	aside   map[id]error    // services that are not in the kernel as wanted
	loose   []error         // what failed and belongs to no service
	ledTo   map[vs.Key]bool // servers that nobody wants, and packets are still led to

	// succeeds: KUBE-SERVICES is iptables mode's, and leads packets by itself until all
	// stands that takes its place.
	succeeds bool
}

// apply brings the kernel to what is wanted, in this order:
//
//	entries of the sets that refuse and record ─► servers with their pools ─► addresses
//	─► entries that lead to the alternates ┐
//	                                       ▼ and back:
//	those entries ◄─ addresses ◄─ destinations and servers ◄─ all other entries
//
// Rules come before all that; where iptables mode has served, the one chain that leads
// new connections to its endpoints comes after it.
//
// What fails for a service keeps its later steps from being taken: an address never
// appears before what guards it, and what cannot be taken out keeps what it leads to.
func (a *attempt) apply(want *proxier.State) error {
	if err := a.learn(want); err != nil {
		return err
	}
	if err := a.carryOut(); err != nil || !a.succeeds {
		return err
	}
	return a.succeed(&want.Node)
}

// carryOut does all that is pending.
func (a *attempt) carryOut() error {
	a.decide()
	leads := func(m member) bool { return m.set.leads() }
	others := func(m member) bool { return !m.set.leads() }
	spare := func(m member) bool { return others(m) && !a.guards(m) }
	steps := []func() error{
		func() error { return a.entries(true, others) },
		a.arrive,
		func() error { return a.addresses(true) },
		func() error { return a.entries(true, leads) },
		func() error { return a.entries(false, leads) },
		a.keepLedTo,
		func() error { return a.addresses(false) },
		a.leave,
		func() error { return a.entries(false, spare) },
	}
	for _, step := range steps {
		if err := errors.Join(a.ctx.Err(), step()); err != nil {
			return err
		}
	}
	return errors.Join(a.loose...)
}

// learn renders what is wanted, and reads the kernel if it is not known.
func (a *attempt) learn(want *proxier.State) error {
	m := a.mem
	if m == nil {
		m = newMemory(a.family, a.configured())
	}
	m.move(want)
	for _, key := range slices.Collect(maps.Keys(m.failed)) { // the node may have changed
		if at, found := slices.BinarySearchFunc(want.Services, key, compareID); found {
			m.render(want.Services[at], &want.Node)
		}
	}
	if !m.known {
		if err := a.read(m); err != nil {
			return err
		}
		m.known = true
	}
	a.mem = m
	maps.Copy(a.aside, m.failed)
	return a.ensureRules(&want.Node)
}

func compareID(s *proxier.Service, key id) int {
	return cmp.Or(s.Name.Compare(key.name), cmp.Compare(s.Protocol, key.protocol))
}

// decide compares the servers that may differ, and keeps what the connections of
// those that nobody wants any more need.
func (a *attempt) decide() {
	keys := slices.SortedFunc(maps.Keys(a.mem.touched), vs.Key.Compare)
	for _, key := range keys {
		s := a.mem.servers[key]
		c := s.compare(key, a.connections(key, s), a.now)
		a.mem.outlasts(key, s.want == nil && s.stands && !c.remove)
		a.changes = append(a.changes, c)
	}
}

// connections counts those of destinations that are leaving. If that fails they are
// taken to have some.
func (a *attempt) connections(key vs.Key, s *standing) map[netip.AddrPort]int {
	departing := s.departing()
	if !s.stands || len(departing) == 0 || !s.drains(key) {
		return nil
	}
	counted, err := a.servers.Destinations(key)
	n := make(map[netip.AddrPort]int, len(counted))
	for _, d := range counted {
		n[d.Addr] = d.Active + d.Inactive
	}
	for _, d := range departing {
		if err != nil {
			n[d.Addr] = 1
		}
	}
	return n
}

// leave takes destinations and servers away, or their new connections.
func (a *attempt) leave() error {
	for i := range a.changes {
		c := &a.changes[i]
		s := a.mem.servers[c.key]
		if a.ledTo[c.key] || s.service != nil && s.want != nil && a.isAside(s.service) {
			continue
		}
		err := a.leaveFrom(c, s)
		a.mem.recount(s)
		if err == nil {
			a.settle(c.key, s)
			continue
		}
		if a.blame(err, s.service) {
			return err
		}
		if s.want == nil {
			a.mem.outlasts(c.key, true) // else nothing would tell any more whose it is
		}
	}
	return nil
}

// keepLedTo keeps the servers to which an entry leads that nobody wants and that could
// not be deleted: its packets would find nobody.
func (a *attempt) keepLedTo() error {
	left := slices.DeleteFunc(a.mem.entries.pending(false), func(e member) bool { return !e.set.leads() })
	if len(left) == 0 {
		return nil
	}
	a.ledTo = map[vs.Key]bool{}
	for key, s := range a.mem.servers {
		if s.stands && s.want == nil && slices.ContainsFunc(left, func(e member) bool { return e.leadsTo(key) }) {
			a.mem.outlasts(key, true)
			a.ledTo[key] = true
		}
	}
	return nil
}

// leadsTo reports whether an entry maps packets to a server at an alternate address: a
// node port's does so at each address of the node.
func (e member) leadsTo(key vs.Key) bool {
	at := key.Addr
	if !e.set.leads() || e.entry.Port != at.Port() || !alternateRange(key.Family).Contains(at.Addr()) {
		return false
	}
	if e.set.kind() == ipset.BitmapPort {
		_, short := nodePortSets(key.Protocol)
		return e.set == short
	}
	return e.entry.Protocol == key.Protocol && alternate(e.entry.Addr) == at.Addr()
}

// guards reports whether an entry closes the node's own programs off at an address that
// could not be taken out.
func (a *attempt) guards(e member) bool {
	return e.set == held && a.mem.addrs.lines[e.entry.Addr].holds
}

func (a *attempt) leaveFrom(c *change, s *standing) error {
	for _, d := range c.quiet {
		if err := a.servers.UpdateDestination(c.key, d); err != nil {
			return err
		}
		s.set(d)
		a.count(&a.report.Written, "destinations", 1)
	}
	for _, d := range c.drop {
		if err := a.servers.DeleteDestination(c.key, d); err != nil {
			return err
		}
		s.unset(d.Addr)
		a.count(&a.report.Deleted, "destinations", 1)
	}
	if !c.remove {
		return nil
	}
	if err := a.servers.Delete(c.key); err != nil {
		return err
	}
	a.count(&a.report.Deleted, "destinations", len(s.pool))
	a.count(&a.report.Deleted, "servers", 1)
	s.stands, s.pool = false, nil
	return nil
}

// settle ends the matter of a server that is as it should be, and remembers since
// when destinations are leaving.
func (a *attempt) settle(key vs.Key, s *standing) {
	a.mem.touched = without(a.mem.touched, key)
	departing := s.departing()
	since := leavings{}
	for _, d := range departing {
		at, ok := s.since[d.Addr]
		if !ok {
			at = a.now
		}
		since[d.Addr] = at
	}
	s.since = since
	if len(departing) > 0 {
		a.mem.draining[key] = true
		a.since[key] = since
		return
	}
	s.since = nil
	delete(a.mem.draining, key)
	delete(a.since, key)
	if !s.stands && s.want == nil {
		a.mem.outlasts(key, false)
		delete(a.mem.servers, key)
	}
}

func (s *standing) set(d vs.Destination) {
	at, found := slices.BinarySearchFunc(s.pool, d.Addr, compareDestination)
	if found {
		s.pool[at] = d
		return
	}
	s.pool = slices.Insert(s.pool, at, d)
}

func (s *standing) unset(addr netip.AddrPort) {
	s.pool = slices.DeleteFunc(s.pool, func(d vs.Destination) bool { return d.Addr == addr })
}

// blame sets services aside for an error; where there are none it is nobody's. It
// reports whether the error is the whole backend's instead, which ends the attempt.
func (a *attempt) blame(err error, services ...*proxier.Service) (fatal bool) {
	if err == nil {
		return false
	}
	if isFatal(err) {
		return true
	}
	services = slices.DeleteFunc(services, func(s *proxier.Service) bool { return s == nil })
	for _, s := range services {
		if a.aside[idOf(s)] == nil {
			a.aside[idOf(s)] = err
		}
	}
	if len(services) == 0 {
		a.loose = append(a.loose, err)
	}
	return false
}

func (a *attempt) isAside(service *proxier.Service) bool {
	return service != nil && a.aside[idOf(service)] != nil
}

// isFatal reports whether an error is no single service's: the kernel is not as it
// is known to be, or does not answer.
func isFatal(err error) bool {
	return isFinal(err) || isOneOf(err, vs.ErrNoServer, vs.ErrNoAnswer, ipset.ErrNoSet, ipset.ErrNoAnswer, dummy.ErrNoDevice, dummy.ErrNoAnswer)
}

// isFinal reports whether asking again cannot help.
func isFinal(err error) bool {
	return isOneOf(err, vs.ErrNoModule, ipset.ErrNoModule, dummy.ErrNoModule, fs.ErrPermission, context.Canceled, context.DeadlineExceeded)
}

func isOneOf(err error, list ...error) bool {
	return slices.ContainsFunc(list, func(known error) bool { return errors.Is(err, known) })
}

func (a *attempt) counted(add bool, what string, n int) {
	if add {
		a.count(&a.report.Written, what, n)
	} else {
		a.count(&a.report.Deleted, what, n)
	}
}

func (a *attempt) count(where *map[string]int, what string, n int) {
	if *where == nil {
		*where = map[string]int{}
	}
	(*where)[what] += n
}
