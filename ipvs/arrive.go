package ipvs

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

// arrive adds servers and destinations, and gives destinations their weights: all in
// a few system calls, and those servers where that failed one by one, so that the
// service at fault is found.
func (a *attempt) arrive() error {
	n := 0
	for i := range a.changes {
		n += 1 + len(a.changes[i].add)
	}
	writes := make([]vs.Write, 0, n)
	for i := range a.changes {
		if c := &a.changes[i]; a.arrives(c) {
			writes = c.appendArrival(writes, a.mem.servers[c.key])
		}
	}
	if len(writes) == 0 {
		return nil
	}
	failed, err := failures(a.servers.Batch(writes))
	if err != nil {
		return err
	}
	for i := range a.changes {
		if c := &a.changes[i]; a.arrives(c) {
			a.arrived(c, a.mem.servers[c.key], failed)
		}
	}
	for i := range a.changes {
		c := &a.changes[i]
		if c.put == nil && len(c.add) == 0 || !a.arrives(c) {
			continue
		}
		s := a.mem.servers[c.key]
		if err := a.arriveAt(c, s); a.blame(err, s.service) {
			return err
		}
	}
	return nil
}

// arrives reports whether a server is wanted, and nothing before failed for it.
func (a *attempt) arrives(c *change) bool {
	s := a.mem.servers[c.key]
	return s.want != nil && !a.isAside(s.service)
}

// appendArrival appends what puts a server and its destinations in.
func (c *change) appendArrival(writes []vs.Write, s *standing) []vs.Write {
	if c.put != nil {
		op := vs.AddServer
		if s.stands {
			op = vs.UpdateServer
		}
		writes = append(writes, vs.Write{Op: op, Key: c.key, Server: *c.put})
	}
	for _, d := range c.add {
		op := vs.AddDestination
		if find(s.pool, d.Addr) != nil {
			op = vs.UpdateDestination
		}
		writes = append(writes, vs.Write{Op: op, Key: c.key, Destination: d})
	}
	return writes
}

// place is a virtual server, or a destination of it.
type place struct {
	key  vs.Key
	addr netip.AddrPort // none: the server itself
}

// failures are where a batch failed. An error that names no place says that nothing is
// known of any.
func failures(errs []error) (failed map[place]bool, err error) {
	failed = make(map[place]bool, len(errs))
	for _, err := range errs {
		var at *vs.OpError
		if !errors.As(err, &at) || at.Key == (vs.Key{}) {
			return nil, err
		}
		failed[place{at.Key, at.Destination.Addr}] = true
	}
	return failed, nil
}

// arrived learns what of a change's arrival is in the kernel, and leaves the rest in
// the change.
func (a *attempt) arrived(c *change, s *standing, failed map[place]bool) {
	if c.put != nil && !failed[place{key: c.key}] {
		s.stands, s.is = true, *c.put
		c.put = nil
		a.count(&a.report.Written, "servers", 1)
	}
	left := c.add[:0]
	for _, d := range c.add {
		if failed[place{c.key, d.Addr}] {
			left = append(left, d)
			continue
		}
		s.set(d)
		delete(s.since, d.Addr)
		a.count(&a.report.Written, "destinations", 1)
	}
	c.add = left
}

func (a *attempt) arriveAt(c *change, s *standing) error {
	if c.put != nil {
		if err := a.putServer(c, s); err != nil {
			return err
		}
		a.count(&a.report.Written, "servers", 1)
	}
	for _, d := range c.add {
		write := a.servers.AddDestination
		if find(s.pool, d.Addr) != nil {
			write = a.servers.UpdateDestination
		}
		if err := write(c.key, d); err != nil {
			return err
		}
		s.set(d)
		delete(s.since, d.Addr)
		a.count(&a.report.Written, "destinations", 1)
	}
	return nil
}

// putServer writes a server. A scheduler that the kernel does not have is not asked
// for again before the kernel is read anew.
func (a *attempt) putServer(c *change, s *standing) error {
	for {
		want := s.want.Server
		write := a.servers.Add
		if s.stands {
			write = a.servers.Update
		}
		err := write(c.key, want)
		if errors.Is(err, vs.ErrNoScheduler) && !a.mem.config.missing[want.Scheduler] {
			a.mem.config.missing[want.Scheduler] = true
			if next, ok := a.substitute(s.service, want); ok {
				s.want.Server = next
				continue
			}
		}
		if err == nil {
			s.stands, s.is = true, want
		}
		return err
	}
}

// substitute is a server with the default scheduler, or rr, and a note of it.
func (a *attempt) substitute(service *proxier.Service, was vs.Server) (vs.Server, bool) {
	for _, text := range []string{a.mem.config.Scheduler, "rr"} {
		next, err := scheduled(text, a.mem.config.missing)
		if err != nil {
			continue
		}
		next.Persistence = was.Persistence
		r := a.mem.services[idOf(service)]
		r.notes = append(slices.Clone(r.notes), proxier.Note{Service: service.Name, Protocol: service.Protocol,
			Text: fmt.Sprintf("scheduler %q is not in the kernel: load the module ip_vs_%s; %s is used",
				was.Scheduler, was.Scheduler, next)})
		a.mem.services[idOf(service)], a.mem.noted[idOf(service)] = r, true
		return next, true
	}
	return vs.Server{}, false
}
