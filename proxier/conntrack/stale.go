package conntrack

import (
	"net/netip"
	"slices"

	"switchyard/proxier"
)

// Flow is one entry of the kernel's connection tracking table. Src and Dst are
// of the client's packets as it sent them, ReplySrc and ReplyDst of the packets
// that are expected back: ReplySrc differs from Dst where the destination was
// translated.
type Flow struct {
	Protocol           proxier.Protocol
	Src, Dst           netip.AddrPort
	ReplySrc, ReplyDst netip.AddrPort
}

func (f *Flow) translated() bool { return f.ReplySrc != f.Dst }

// Policy tells stale flows from others. Immutable; a nil Policy is empty.
type Policy struct {
	node   *proxier.Node // of the wanted State
	relay  uint16        // the port of the node at which a relay takes flows; 0: none
	live   map[frontend]target
	former map[frontend][]former
	// inherited are the ways by which a process before led flows, to no frontend that is.
	inherited map[proxier.Way]bool
}

// frontend is a key. A NodePort has no address.
type frontend struct {
	protocol proxier.Protocol
	addr     netip.AddrPort
}

func nodePort(protocol proxier.Protocol, port uint16) frontend {
	return frontend{protocol, netip.AddrPortFrom(netip.Addr{}, port)}
}

// target is where a frontend leads now.
type target struct {
	svc      *proxier.Service
	front    *proxier.Frontend
	forwards bool // to some endpoint, for some source
}

// former is a Service that had a frontend which it may have no more. node is
// what the node was at that time.
type former struct {
	svc  *proxier.Service
	node *proxier.Node
}

// Plan returns the Policy after the kernel was brought from last to next. last
// is nil if it is not known what the kernel held, as at the start: then all flows
// are judged by next alone. The Policy is empty if no flow can have become stale
// by the change; the comparison costs a walk over pointers where Services are
// shared between the States.
func Plan(last, next *proxier.State) *Policy {
	c := diff(last, next)
	if !c.relevant {
		return nil
	}
	return build(next, c.former)
}

// build indexes every UDP and SCTP frontend of a State, not only the changed
// ones: the pass reads all flows anyhow, and so it also finds what an earlier one
// had to leave.
func build(next *proxier.State, formers []former) *Policy {
	p := &Policy{node: &next.Node, live: map[frontend]target{}, former: map[frontend][]former{}}
	for _, svc := range next.Services {
		for i := range svc.Frontends {
			key, tracked := keyOf(svc, &svc.Frontends[i])
			// Of two Services at one address the first is served, see State.Decide.
			if _, taken := p.live[key]; tracked && !taken {
				p.live[key] = target{svc, &svc.Frontends[i], forwards(svc, &svc.Frontends[i])}
			}
		}
	}
	for _, f := range formers {
		for i := range f.svc.Frontends {
			if key, tracked := keyOf(f.svc, &f.svc.Frontends[i]); tracked {
				p.former[key] = append(p.former[key], f)
			}
		}
	}
	return p
}

// keyOf reports false for the protocols whose flows are never stale.
func keyOf(svc *proxier.Service, f *proxier.Frontend) (frontend, bool) {
	if f.Kind == proxier.NodePort {
		return nodePort(svc.Protocol, f.Addr.Port()), stateless(svc.Protocol)
	}
	return frontend{svc.Protocol, f.Addr}, stateless(svc.Protocol)
}

// stateless protocols keep an entry alive by any packet that the client sends,
// whether or not somebody answers. SCTP is one of them: its client repeats
// heartbeats and INIT chunks.
func stateless(p proxier.Protocol) bool { return p == proxier.UDP || p == proxier.SCTP }

func forwards(svc *proxier.Service, f *proxier.Frontend) bool {
	return slices.ContainsFunc(f.Routes, func(r proxier.Route) bool {
		return len(svc.Endpoints(r.To)) > 0
	})
}

// Empty reports whether no flow can be stale, so that the table need not be read.
func (p *Policy) Empty() bool { return p == nil || len(p.live)+len(p.former)+len(p.inherited) == 0 }

// Stale reports whether a flow goes where it must not. Its cost does not grow
// with the number of Services, and with the logarithm of one Service's endpoints.
func (p *Policy) Stale(f Flow) bool {
	if p.Empty() || !stateless(f.Protocol) {
		return false
	}
	if t, ok := p.lookup(&f); ok {
		switch {
		case serves(t.svc, f.ReplySrc):
			return p.bare(t, &f)
		case p.relayed(f.ReplySrc):
			return !t.forwards // which endpoint is right, the relay knows
		case f.translated():
			return true
		}
		return t.forwards // it passed by before there were rules
	}
	return f.translated() && (p.relayed(f.ReplySrc) || p.inherited[wayOf(&f)] || p.formerly(&f))
}

func wayOf(f *Flow) proxier.Way {
	return proxier.Way{Protocol: f.Protocol, To: f.Dst, Endpoint: f.ReplySrc}
}

// bare reports whether a flow has its endpoint, and the endpoint's answers do not come
// back: they go past the node to a client that does not know the endpoint, since the
// flow began while the rule that masquerades was gone. An endpoint on this node answers
// through it. Where pods are known by their interfaces, of which a flow does not tell,
// nothing is known.
func (p *Policy) bare(t target, f *Flow) bool {
	src := f.Src.Addr()
	if f.ReplyDst.Addr() != src || p.node.IsLocal(src) || len(p.node.PodInterfaces) > 0 {
		return false
	}
	fate := t.front.Decide(t.svc, p.node, proxier.Packet{Protocol: f.Protocol, Src: src, Dst: f.Dst, In: "unknown"})
	i := slices.IndexFunc(fate.Endpoints, func(e proxier.Endpoint) bool { return e.Addr == f.ReplySrc })
	return i >= 0 && fate.Masquerades(fate.Endpoints[i]) && (!fate.Endpoints[i].Local || src == f.ReplySrc.Addr())
}

// relayed reports whether a flow ends in a relay on this node.
func (p *Policy) relayed(addr netip.AddrPort) bool {
	return p.relay != 0 && addr.Port() == p.relay && p.node.IsLocal(addr.Addr())
}

func (p *Policy) lookup(f *Flow) (target, bool) {
	if t, ok := p.live[frontend{f.Protocol, f.Dst}]; ok {
		return t, true
	}
	t, ok := p.live[nodePort(f.Protocol, f.Dst.Port())]
	return t, ok && p.node.ServesNodePort(f.Dst.Addr())
}

// formerly reports whether the flow was sent to its endpoint by a frontend that
// is no more.
func (p *Policy) formerly(f *Flow) bool {
	led := func(o former) bool { return serves(o.svc, f.ReplySrc) }
	return slices.ContainsFunc(p.former[frontend{f.Protocol, f.Dst}], led) ||
		slices.ContainsFunc(p.former[nodePort(f.Protocol, f.Dst.Port())], func(o former) bool {
			return o.node.ServesNodePort(f.Dst.Addr()) && led(o)
		})
}

// serves reports whether a flow may stay at an address: one of the Service's
// endpoints, those included that get no new flows.
func serves(svc *proxier.Service, addr netip.AddrPort) bool {
	byAddr := func(e proxier.Endpoint, addr netip.AddrPort) int { return e.Addr.Compare(addr) }
	if _, found := slices.BinarySearchFunc(svc.Cluster, addr, byAddr); found {
		return true
	}
	if _, found := slices.BinarySearchFunc(svc.Local, addr, byAddr); found {
		return true
	}
	_, found := slices.BinarySearchFunc(svc.Kept, addr, netip.AddrPort.Compare)
	return found
}

// protocols are those that a stale flow may have.
func (p *Policy) protocols() []proxier.Protocol {
	var found []proxier.Protocol
	for _, protocol := range []proxier.Protocol{proxier.UDP, proxier.SCTP} {
		if p.concerns(protocol) {
			found = append(found, protocol)
		}
	}
	return found
}

func (p *Policy) concerns(protocol proxier.Protocol) bool {
	for key := range p.live {
		if key.protocol == protocol {
			return true
		}
	}
	for key := range p.former {
		if key.protocol == protocol {
			return true
		}
	}
	for way := range p.inherited {
		if way.Protocol == protocol {
			return true
		}
	}
	return false
}
