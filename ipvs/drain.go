package ipvs

import (
	"net/netip"
	"time"

	"switchyard/proxier"
)

// maxDrain is how long the connections of an endpoint that is gone may last. A
// client that uses its ports again and again would keep it for ever.
const maxDrain = 15 * time.Minute

// drainEvery is how often draining destinations are looked at.
const drainEvery = 10 * time.Second

// leavings are the moments since when destinations of a server are leaving.
type leavings map[netip.AddrPort]time.Time

// leaving is a destination that gets no new connections.
type leaving struct {
	addr        netip.AddrPort
	connections int       // it has now
	since       time.Time // when it was first seen leaving
	kept        bool      // its endpoint still serves those that it has
}

// drained reports whether a leaving destination can be deleted now. TCP connections
// end by themselves; a UDP flow of an endpoint that is gone must find another at
// once, and an SCTP association has other paths.
//
//	kept: endpoint serves ─► weight 0 while it has connections
//	gone, TCP             ─► weight 0 while it has connections, maxDrain at most
//	gone, UDP or SCTP     ─► deleted
func (l leaving) drained(p proxier.Protocol, now time.Time) bool {
	switch {
	case l.connections == 0:
		return true
	case l.kept:
		return false
	}
	return p != proxier.TCP || now.Sub(l.since) >= maxDrain
}
