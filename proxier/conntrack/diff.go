package conntrack

import (
	"net/netip"
	"slices"

	"switchyard/proxier"
)

// change is what the step from one State to the next means for flows.
type change struct {
	relevant bool     // some flow may have become stale
	former   []former // Services that lost a frontend
}

// diff walks two States. A Service that they share costs a comparison of
// pointers. last is nil if it is not known.
func diff(last, next *proxier.State) change {
	if next == nil {
		return change{}
	}
	if last == nil {
		return change{relevant: slices.ContainsFunc(next.Services, concerned)}
	}
	var c change
	moved := !sameNodePorts(&last.Node, &next.Node)
	proxier.EachChange(last.Services, next.Services, moved, func(was, is *proxier.Service) {
		c.add(former{was, &last.Node}, is, moved)
	})
	return c
}

// add takes in what became of one Service; was.svc or is may be nil. moved:
// NodePorts answer at other addresses than before.
func (c *change) add(was former, is *proxier.Service, moved bool) {
	if was.svc == nil {
		c.relevant = c.relevant || concerned(is)
		return
	}
	if !concerned(was.svc) {
		c.relevant = c.relevant || is != nil && concerned(is)
		return
	}
	moved = moved && slices.ContainsFunc(was.svc.Frontends, isNodePort)
	if moved || is == nil || lostFrontend(was.svc, is) {
		c.former = append(c.former, was)
		c.relevant = true
		return
	}
	if was.svc != is {
		c.relevant = c.relevant || opened(was.svc, is) || lostEndpoint(was.svc, is)
	}
}

func concerned(svc *proxier.Service) bool {
	return stateless(svc.Protocol) && len(svc.Frontends) > 0
}

func isNodePort(f proxier.Frontend) bool { return f.Kind == proxier.NodePort }

func sameNodePorts(a, b *proxier.Node) bool {
	p, q := a.NodePorts, b.NodePorts
	return p.Any == q.Any && p.Localhost == q.Localhost && slices.Equal(p.Addrs, q.Addrs) &&
		(!p.Any || slices.Equal(a.Local, b.Local))
}

func lostFrontend(was, is *proxier.Service) bool {
	return slices.ContainsFunc(was.Frontends, func(f proxier.Frontend) bool {
		return find(is, &f) == nil
	})
}

// opened reports whether an address forwards that did not before: flows may have
// passed it by.
func opened(was, is *proxier.Service) bool {
	return slices.ContainsFunc(is.Frontends, func(f proxier.Frontend) bool {
		old := find(was, &f)
		return old == nil || forwards(is, &f) && !forwards(was, old)
	})
}

// find walks: a Service has a handful of frontends.
func find(svc *proxier.Service, like *proxier.Frontend) *proxier.Frontend {
	i := slices.IndexFunc(svc.Frontends, func(f proxier.Frontend) bool {
		return isNodePort(f) == isNodePort(*like) && f.Addr == like.Addr
	})
	if i < 0 {
		return nil
	}
	return &svc.Frontends[i]
}

func lostEndpoint(was, is *proxier.Service) bool {
	gone := func(e proxier.Endpoint) bool { return !serves(is, e.Addr) }
	return slices.ContainsFunc(was.Cluster, gone) || slices.ContainsFunc(was.Local, gone) ||
		slices.ContainsFunc(was.Kept, func(a netip.AddrPort) bool { return !serves(is, a) })
}
