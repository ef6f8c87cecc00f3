package compile

import (
	"net/netip"
	"slices"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
)

// frontends lists the addresses of one service port in order of Kind, each
// address once.
func frontends(svc *cluster.Service, port cluster.Port, ch choice, env *Env) []proxier.Frontend {
	s := situation{
		endpoints: len(ch.cluster) > 0,
		onNode:    len(ch.local) > 0,
		detects:   env.DetectsPods,
		masqAll:   env.MasqueradeAll,
	}
	s.policy = svc.InternalLocal
	inside := internalRoutes(s)
	s.policy = svc.ExternalLocal
	outside := externalRoutes(s)

	l := list{family: env.Family, port: port.Port}
	l.add(proxier.ClusterIP, svc.ClusterIPs, inside, nil)
	l.addLoadBalancers(svc, outside, env)
	l.add(proxier.ExternalIP, env.honoured(svc), outside, nil)
	if port.NodePort != 0 {
		addr := netip.AddrPortFrom(netip.Addr{}, port.NodePort)
		l.fronts = append(l.fronts, proxier.Frontend{Kind: proxier.NodePort, Addr: addr, Routes: outside})
	}
	slices.SortStableFunc(l.fronts, func(a, b proxier.Frontend) int { return int(a.Kind) - int(b.Kind) })
	return l.fronts
}

// list gathers frontends of one family; of two kinds that name the same address
// the one added first stays.
type list struct {
	family proxier.Family
	port   uint16
	fronts []proxier.Frontend
}

func (l *list) add(kind proxier.Kind, addrs []netip.Addr, routes []proxier.Route, allow []netip.Prefix) {
	for _, a := range addrs {
		if proxier.FamilyOf(a) != l.family {
			continue
		}
		addr := netip.AddrPortFrom(a, l.port)
		if slices.ContainsFunc(l.fronts, func(f proxier.Frontend) bool { return f.Addr == addr }) {
			continue
		}
		l.fronts = append(l.fronts, proxier.Frontend{Kind: kind, Addr: addr, Allow: allow, Routes: routes})
	}
}

func (l *list) addLoadBalancers(svc *cluster.Service, routes []proxier.Route, env *Env) {
	allow, closed := sources(svc, env)
	if closed {
		routes = closedRoutes()
	}
	l.add(proxier.LoadBalancer, svc.LoadBalancers, routes, allow)
}

// sources is who may use the load balancer's IPs: nobody if closed, everyone if
// the list is empty. A range of all addresses opens the family. Where the node
// itself is admitted, so are the load balancer's IPs as sources: a node that has
// such an address on an interface connects to it from it.
func sources(svc *cluster.Service, env *Env) (allow []netip.Prefix, closed bool) {
	if !svc.Restricted {
		return nil, false
	}
	for _, p := range svc.SourceRanges {
		switch {
		case proxier.FamilyOf(p.Addr()) != env.Family:
			continue
		case p.Bits() == 0:
			return nil, false
		case !slices.Contains(allow, p):
			allow = append(allow, p)
		}
	}
	if len(allow) == 0 {
		return nil, true
	}
	if slices.ContainsFunc(allow, env.holdsNode) {
		allow = append(allow, ownSources(svc, env.Family)...)
	}
	return allow, false
}

func ownSources(svc *cluster.Service, family proxier.Family) []netip.Prefix {
	var own []netip.Prefix
	for _, vip := range svc.LoadBalancers {
		if proxier.FamilyOf(vip) == family {
			own = append(own, netip.PrefixFrom(vip, vip.BitLen()))
		}
	}
	return own
}
