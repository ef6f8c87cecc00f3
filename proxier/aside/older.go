package aside

import (
	"net/netip"
	"slices"

	"switchyard/proxier"
)

// older judges whether the older version of a service may stay while the kernel
// refuses the wanted one. What was right a moment ago is better than nothing, but for
// three things that are worse:
//
//   - it lets somebody in whom the wanted version keeps out;
//   - it holds an address that another service gets, which goes in;
//   - it sends to none but endpoints that are gone: their addresses may be anybody's.
type older struct {
	want  *proxier.State
	aside *Services
	owned map[address]bool // of the services of want that go in; nil: not asked for yet
}

// address is where a frontend answers; a node port's has no address.
type address struct {
	protocol proxier.Protocol
	at       netip.AddrPort
}

func (o *older) mayStay(was, is *proxier.Service) bool {
	if !sharesEndpoint(was, is) {
		return false
	}
	for i := range was.Frontends {
		f := &was.Frontends[i]
		now := frontendAt(is, f.Addr)
		if now == nil && o.isOwned(address{was.Protocol, f.Addr}) || now != nil && letsMoreIn(f, now) {
			return false
		}
	}
	return true
}

// isOwned reports whether some service that goes in has an address. All of them are
// gathered once: it is asked of few services and seldom.
func (o *older) isOwned(a address) bool {
	if o.owned == nil {
		o.owned = map[address]bool{}
		for _, svc := range o.want.Services {
			if o.aside.has(svc) {
				continue
			}
			for _, at := range addresses(svc) {
				o.owned[at] = true
			}
		}
	}
	return o.owned[a]
}

func addresses(s *proxier.Service) []address {
	if s == nil {
		return nil
	}
	out := make([]address, 0, len(s.Frontends))
	for _, f := range s.Frontends {
		out = append(out, address{s.Protocol, f.Addr})
	}
	return out
}

func frontendAt(s *proxier.Service, at netip.AddrPort) *proxier.Frontend {
	i := slices.IndexFunc(s.Frontends, func(f proxier.Frontend) bool { return f.Addr == at })
	if i < 0 {
		return nil
	}
	return &s.Frontends[i]
}

// letsMoreIn reports whether a frontend allows a source that its successor does not.
func letsMoreIn(was, is *proxier.Frontend) bool {
	if len(is.Allow) == 0 {
		return false
	}
	within := func(p netip.Prefix) bool {
		return slices.ContainsFunc(is.Allow, func(q netip.Prefix) bool {
			return q.Bits() <= p.Bits() && q.Contains(p.Addr())
		})
	}
	return len(was.Allow) == 0 || slices.ContainsFunc(was.Allow, func(p netip.Prefix) bool { return !within(p) })
}

// sharesEndpoint reports whether some endpoint of a version is, at whatever port, the
// other's too. One without endpoints sends nothing anywhere.
func sharesEndpoint(was, is *proxier.Service) bool {
	hosts := func(s *proxier.Service) []proxier.Endpoint { return slices.Concat(s.Cluster, s.Local) }
	still := map[netip.Addr]bool{}
	for _, ep := range hosts(is) {
		still[ep.Addr.Addr()] = true
	}
	old := hosts(was)
	return len(old) == 0 || slices.ContainsFunc(old, func(ep proxier.Endpoint) bool { return still[ep.Addr.Addr()] })
}
