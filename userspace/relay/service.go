package relay

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"switchyard/proxier"
)

// key names a service port.
type key struct {
	name     proxier.ServicePort
	protocol proxier.Protocol
}

// counters are what proxier.Traffic tells of a service port.
type counters struct {
	active, connections, received, sent, retries, failed, refused, evicted, timedOut atomic.Int64
}

func (c *counters) snapshot() proxier.Traffic {
	return proxier.Traffic{
		Active: c.active.Load(), Connections: c.connections.Load(), Received: c.received.Load(), Sent: c.sent.Load(),
		Retries: c.retries.Load(), Failed: c.failed.Load(), Refused: c.refused.Load(),
		Evicted: c.evicted.Load(), TimedOut: c.timedOut.Load(),
	}
}

// service is what outlives the versions of one service port.
type service struct {
	counters counters
	pins     affinity

	mu        sync.Mutex
	endpoints map[netip.AddrPort]*endpoint
	flows     map[*flow]struct{}
}

// endpoint is what is known of an endpoint beside its address.
type endpoint struct {
	addr   netip.AddrPort
	active atomic.Int64 // connections
	// shunned is until when the endpoint is not chosen while there are others, in
	// nanoseconds of Unix time: it did not take a connection.
	shunned atomic.Int64
}

// shunTime is how long a failure of an endpoint is remembered.
const shunTime = 5 * time.Second

func (e *endpoint) shun(now time.Time)         { e.shunned.Store(now.Add(shunTime).UnixNano()) }
func (e *endpoint) healthy(now time.Time) bool { return e.shunned.Load() <= now.UnixNano() }
func (e *endpoint) forgive()                   { e.shunned.Store(0) }

// version is one version of a service port.
type version struct {
	spec           *proxier.Service
	cluster, local *pool
}

// update makes the next version of a service, which knows what is known of the
// endpoints that stay.
func (s *service) update(spec *proxier.Service) *version {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := make(map[netip.AddrPort]*endpoint, len(spec.Cluster))
	least := leastConnections(spec.Scheduler)
	enroll := func(list []proxier.Endpoint) *pool {
		p := &pool{least: least, shares: make([]int, len(list)), endpoints: make([]*endpoint, len(list))}
		for i, ep := range list {
			if known[ep.Addr] == nil {
				known[ep.Addr] = s.endpoints[ep.Addr]
			}
			if known[ep.Addr] == nil {
				known[ep.Addr] = &endpoint{addr: ep.Addr}
			}
			p.endpoints[i], p.shares[i] = known[ep.Addr], ep.Share()
		}
		p.prepare()
		return p
	}
	v := &version{spec: spec, cluster: enroll(spec.Cluster), local: enroll(spec.Local)}
	s.endpoints = known
	return v
}

// pool is where a Fate chooses from.
func (v *version) pool(f *proxier.Fate) *pool {
	if f.Route.To == proxier.ToLocal {
		return v.local
	}
	return v.cluster
}

// serves reports whether a flow may stay with an endpoint.
func (v *version) serves(fate *proxier.Fate, addr netip.AddrPort) bool {
	for _, ep := range fate.Endpoints {
		if ep.Addr == addr {
			return true
		}
	}
	for _, kept := range v.spec.Kept {
		if kept == addr {
			return true
		}
	}
	return false
}

// leastConnections reads Service.Scheduler; what is not known is round robin.
func leastConnections(scheduler string) bool {
	name, _, _ := strings.Cut(scheduler, ",")
	return name == "lc" || name == "wlc"
}

// notesOn are what of a service's wishes the relay does not do.
func notesOn(s *proxier.Service) []proxier.Note {
	var notes []proxier.Note
	note := func(format string, args ...any) {
		notes = append(notes, proxier.Note{Service: s.Name, Protocol: s.Protocol, Text: fmt.Sprintf(format, args...)})
	}
	name, _, _ := strings.Cut(s.Scheduler, ",")
	switch name {
	case "", "rr", "wrr", "lc", "wlc":
	default:
		note("scheduler %q is not known to the relay: rr is used", s.Scheduler)
	}
	if s.Protocol == proxier.SCTP {
		note("the relay carries no SCTP: connections are refused")
	}
	if s.ProxyProtocol && s.Protocol == proxier.UDP {
		note("the PROXY protocol is sent on TCP only")
	}
	return notes
}
