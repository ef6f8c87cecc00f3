package ipvs

import (
	"net/netip"
	"slices"
	"time"

	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

// standing is a virtual server as it is wanted and as it stands in the kernel.
type standing struct {
	want    *server          // nil: nobody wants it
	service *proxier.Service // who wants it, or did

	stands bool // it is in the kernel, so:
	is     vs.Server
	pool   []vs.Destination // sorted by address
	since  leavings         // of destinations that are leaving

	counted tally // its part of the totals

	// linger is what its established connections need, beside it, while nobody wants it.
	linger      []member
	lingerAddrs []netip.Addr
}

// change is what brings one virtual server to what is wanted. Its parts are in the
// order in which they keep faith with packets.
type change struct {
	key vs.Key
	put *vs.Server       // to add, or to update if it stands
	add []vs.Destination // to add, or to update
	// quiet are to get weight 0, drop are to go; remove: then the server goes.
	quiet, drop []vs.Destination
	remove      bool
}

// departing are the destinations in the kernel that are not wanted.
func (s *standing) departing() []vs.Destination {
	var out []vs.Destination
	for _, d := range s.pool {
		if s.wanted(d.Addr) == nil {
			out = append(out, d)
		}
	}
	return out
}

func (s *standing) wanted(addr netip.AddrPort) *vs.Destination {
	if s.want == nil {
		return nil
	}
	return find(s.want.pool, addr)
}

func find(pool []vs.Destination, addr netip.AddrPort) *vs.Destination {
	at, found := slices.BinarySearchFunc(pool, addr, compareDestination)
	if !found {
		return nil
	}
	return &pool[at]
}

func compareDestination(d vs.Destination, addr netip.AddrPort) int { return d.Addr.Compare(addr) }

// drains reports whether departing destinations may have connections worth waiting
// for.
func (s *standing) drains(key vs.Key) bool {
	switch {
	case s.is.Scheduler == "dh":
		return false // it goes on choosing a destination of weight 0, and refuses
	case s.want != nil && s.want.mapped, s.want == nil && alternateRange(key.Family).Contains(key.Addr.Addr()):
		return false
	}
	return key.Protocol == proxier.TCP || s.want != nil && len(s.want.kept) > 0
}

// compare finds what must be done. connections are those of departing destinations,
// by address; what is not in it has none.
func (s *standing) compare(key vs.Key, connections map[netip.AddrPort]int, now time.Time) change {
	c := change{key: key}
	if s.want != nil {
		if !s.stands || s.is != s.want.Server {
			c.put = &s.want.Server
		}
		for _, d := range s.want.pool {
			if old := find(s.pool, d.Addr); old == nil || *old != d {
				c.add = append(c.add, d)
			}
		}
	}
	for _, d := range s.departing() {
		l := leaving{addr: d.Addr, connections: connections[d.Addr], since: now}
		if since, ok := s.since[d.Addr]; ok {
			l.since = since
		}
		if s.want != nil {
			_, l.kept = slices.BinarySearchFunc(s.want.kept, d.Addr, netip.AddrPort.Compare)
		}
		switch quiet := (vs.Destination{Addr: d.Addr}); {
		case l.drained(key.Protocol, now):
			c.drop = append(c.drop, d)
		case d != quiet:
			c.quiet = append(c.quiet, quiet)
		}
	}
	c.remove = s.want == nil && s.stands && len(c.drop) == len(s.pool)
	if c.remove {
		c.drop = nil // they go with it
	}
	return c
}
