package relay

import (
	"net/netip"
	"sync"

	"switchyard/proxier"
)

// destination is what a client asks: an address and port, or only the port of a
// NodePort.
type destination struct {
	protocol proxier.Protocol
	addr     netip.AddrPort
}

func destinationOf(s *proxier.Service, f *proxier.Frontend) destination {
	return destination{s.Protocol, f.Addr}
}

// place is a frontend of a service.
type place struct {
	service  *service
	version  *version
	frontend *proxier.Frontend
}

// table finds the service for what a client asked. A change costs what it changes:
// connections look up one entry, so entries may change one by one.
type table struct {
	mu     sync.RWMutex
	node   *proxier.Node
	places map[destination]place
}

// lookup returns the frontend that answers at an address. That of a Service wins
// over a node port.
func (t *table) lookup(d destination) (place, *proxier.Node, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if p, ok := t.places[d]; ok {
		return p, t.node, true
	}
	if t.node == nil || !t.node.ServesNodePort(d.addr.Addr()) {
		return place{}, t.node, false
	}
	p, ok := t.places[destination{d.protocol, netip.AddrPortFrom(netip.Addr{}, d.addr.Port())}]
	return p, t.node, ok
}

// put makes the frontends of a version answer.
func (t *table) put(s *service, v *version) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range v.spec.Frontends {
		f := &v.spec.Frontends[i]
		t.places[destinationOf(v.spec, f)] = place{s, v, f}
	}
}

// drop forgets the frontends of a version, unless something newer has their place.
func (t *table) drop(v *version) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range v.spec.Frontends {
		d := destinationOf(v.spec, &v.spec.Frontends[i])
		if t.places[d].version == v {
			delete(t.places, d)
		}
	}
}

func (t *table) setNode(n *proxier.Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.node = n
}

// decide returns the fate of a connection, and the frontend's place.
func (t *table) decide(p proxier.Packet) (place, proxier.Fate) {
	at, node, ok := t.lookup(destination{p.Protocol, p.Dst})
	if !ok {
		return place{}, proxier.Fate{}
	}
	return at, at.frontend.Decide(at.version.spec, node, p)
}

// asksInterfaces reports whether it matters by which interface a packet came in.
func (t *table) asksInterfaces() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.node != nil && len(t.node.PodInterfaces) > 0
}
