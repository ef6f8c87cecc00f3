package proxier

import (
	"net/netip"
	"slices"
	"strings"
)

// Packet is the first packet of a connection or flow, as the node sees it.
type Packet struct {
	Protocol Protocol
	Src      netip.Addr
	Dst      netip.AddrPort
	// In is the interface by which the packet entered the node; empty for a
	// packet that the node itself sends.
	In string
}

// Verdict is what happens to a packet.
type Verdict uint8

// The verdicts.
const (
	Pass    Verdict = iota // not a Service's packet: left alone
	Reject                 // refused with an ICMP port unreachable
	Drop                   // silently dropped
	Forward                // sent to one of Fate.Endpoints
)

func (v Verdict) String() string {
	switch v {
	case Pass:
		return "pass"
	case Reject:
		return "reject"
	case Drop:
		return "drop"
	case Forward:
		return "forward"
	}
	return "no verdict"
}

// Fate is what a State does with a Packet, and why. Service and Frontend are nil
// for Pass, and for a Reject at an address that the node holds; Route is the row that decided, the zero Route where Frontend.Allow
// dropped the packet.
type Fate struct {
	Verdict   Verdict
	Endpoints []Endpoint // Forward: each may be chosen, by its weight
	Masq      bool       // Forward: to whichever endpoint
	Service   *Service
	Frontend  *Frontend
	Route     Route

	node   *Node
	packet Packet
}

// Masquerades reports whether the packet reaches an endpoint with the node's
// address as its source. An endpoint that reaches itself (hairpin) always sees
// the node's address. A packet that came in and ends at an address of the node
// itself is delivered as it is: nothing is masqueraded that does not leave.
func (f *Fate) Masquerades(ep Endpoint) bool {
	if f.packet.In != "" && f.node != nil && f.node.IsLocal(ep.Addr.Addr()) {
		return false
	}
	return f.Masq || f.packet.Src == ep.Addr.Addr()
}

// Decide returns the fate of a packet. It walks all services: it is the meaning
// of a State, not its fast path.
func (s *State) Decide(p Packet) Fate {
	if FamilyOf(p.Src) != s.Family || FamilyOf(p.Dst.Addr()) != s.Family {
		return Fate{}
	}
	for _, svc := range s.Services {
		if svc.Protocol != p.Protocol {
			continue
		}
		for i := range svc.Frontends {
			if f := &svc.Frontends[i]; f.Kind != NodePort && f.Addr == p.Dst {
				return f.Decide(svc, &s.Node, p)
			}
		}
	}
	if fate, ok := s.decideNodePort(p); ok {
		return fate
	}
	return s.decideHeld(p)
}

// decideNodePort is apart because an address of a Service wins over a node port
// at the same address.
func (s *State) decideNodePort(p Packet) (fate Fate, ok bool) {
	if !s.Node.ServesNodePort(p.Dst.Addr()) || p.Dst.Addr().IsLoopback() && !s.Node.IsLocal(p.Src) {
		return Fate{}, false // what comes from elsewhere and names localhost is no business of Services
	}
	for _, svc := range s.Services {
		if svc.Protocol != p.Protocol {
			continue
		}
		for i := range svc.Frontends {
			if f := &svc.Frontends[i]; f.Kind == NodePort && f.Addr.Port() == p.Dst.Port() {
				return f.Decide(svc, &s.Node, p), true
			}
		}
	}
	return Fate{}, false
}

// decideHeld keeps others from the node's own programs behind an address of a Service
// that the node holds. Health checks of load balancers are for them, and the node reaches
// its programs anyway.
func (s *State) decideHeld(p Packet) Fate {
	if !s.Node.Holds(p.Dst.Addr()) || s.Node.IsLocal(p.Src) {
		return Fate{}
	}
	checks := func(svc *Service) bool { return svc.HealthPort == p.Dst.Port() }
	if p.Protocol == TCP && s.Node.ServesNodePort(p.Dst.Addr()) && slices.ContainsFunc(s.Services, checks) {
		return Fate{}
	}
	return Fate{Verdict: Reject, node: &s.Node, packet: p}
}

// Decide returns the fate of a packet that has this frontend as its destination.
func (f *Frontend) Decide(svc *Service, node *Node, p Packet) Fate {
	fate := Fate{Verdict: Drop, Service: svc, Frontend: f, node: node, packet: p}
	if !f.allows(p.Src) {
		return fate
	}
	for _, r := range f.Routes {
		if node.matches(r.From, p) {
			return f.follow(fate, r)
		}
	}
	return fate
}

func (f *Frontend) allows(src netip.Addr) bool {
	return len(f.Allow) == 0 ||
		slices.ContainsFunc(f.Allow, func(p netip.Prefix) bool { return p.Contains(src) })
}

func (f *Frontend) follow(fate Fate, r Route) Fate {
	fate.Route = r
	switch r.To {
	case ToReject:
		fate.Verdict = Reject
	case ToCluster, ToLocal:
		fate.Verdict = Forward
		fate.Endpoints = fate.Service.Endpoints(r.To)
		fate.Masq = r.Masq
	}
	return fate
}

func (n *Node) matches(from From, p Packet) bool {
	switch from {
	case FromAnyone:
		return true
	case FromPods:
		return n.isPod(p)
	case FromNotPods:
		return !n.isPod(p)
	case FromNode:
		return n.IsLocal(p.Src)
	}
	return false
}

func (n *Node) isPod(p Packet) bool {
	for _, r := range n.PodRanges {
		if r.Contains(p.Src) {
			return true
		}
	}
	return slices.ContainsFunc(n.PodInterfaces, func(name string) bool {
		return MatchInterface(name, p.In)
	})
}

// MatchInterface reports whether an interface has the name, or the prefix if
// the name ends in "+". No name matches the empty interface of a packet that the
// node itself sends.
func MatchInterface(name, iface string) bool {
	if iface == "" {
		return false
	}
	if prefix, ok := strings.CutSuffix(name, "+"); ok {
		return strings.HasPrefix(iface, prefix)
	}
	return name == iface
}

// IsLocal reports whether an address is one of the node's own, the loopback
// range included.
func (n *Node) IsLocal(addr netip.Addr) bool {
	_, found := slices.BinarySearchFunc(n.Local, addr, netip.Addr.Compare)
	return found || addr.IsLoopback()
}

// Holds reports whether an address is one of Held.
func (n *Node) Holds(addr netip.Addr) bool {
	_, found := slices.BinarySearchFunc(n.Held, addr, netip.Addr.Compare)
	return found
}

// ServesNodePort reports whether NodePorts answer at an address.
func (n *Node) ServesNodePort(addr netip.Addr) bool {
	if addr.IsLoopback() {
		return n.NodePorts.Localhost
	}
	if n.NodePorts.Any {
		return n.IsLocal(addr)
	}
	_, found := slices.BinarySearchFunc(n.NodePorts.Addrs, addr, netip.Addr.Compare)
	return found
}
