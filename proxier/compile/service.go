package compile

import (
	"net/netip"
	"slices"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
)

// Env is everything besides a Service itself that its compilation depends on.
type Env struct {
	Family         proxier.Family
	NodeName, Zone string
	NodeAddrs      []netip.Addr // this machine's addresses of the family
	OwnAddrs       []netip.Addr // those that the cluster knows it by
	ServiceCIDRs   []netip.Prefix
	PodRanges      []netip.Prefix // of the family
	DetectsPods    bool
	MasqueradeAll  bool
	ExternalIPs    ExternalIPs

	holders *holders // of the addresses that are wanted as external IPs
}

func (e *Env) equal(o *Env) bool {
	return e.Family == o.Family && e.NodeName == o.NodeName && e.Zone == o.Zone &&
		e.DetectsPods == o.DetectsPods && e.MasqueradeAll == o.MasqueradeAll &&
		slices.Equal(e.ServiceCIDRs, o.ServiceCIDRs) && e.ExternalIPs.equal(o.ExternalIPs) &&
		slices.Equal(e.NodeAddrs, o.NodeAddrs) && slices.Equal(e.OwnAddrs, o.OwnAddrs) &&
		slices.Equal(e.PodRanges, o.PodRanges)
}

func (e *Env) holdsNode(p netip.Prefix) bool {
	return slices.ContainsFunc(e.NodeAddrs, p.Contains)
}

func serviceObject(name cluster.Name) cluster.Object {
	return cluster.Object{Kind: "Service", Name: name}
}

// Service compiles all ports of one Service for one family, sorted. A Service
// without a ClusterIP of the family has none. Pure.
func Service(svc *cluster.Service, env *Env) []*proxier.Service {
	ofFamily := func(a netip.Addr) bool { return proxier.FamilyOf(a) == env.Family }
	if !slices.ContainsFunc(svc.ClusterIPs, ofFamily) {
		return nil
	}
	out := make([]*proxier.Service, 0, len(svc.Ports))
	for _, port := range svc.Ports {
		out = append(out, servicePort(svc, port, env))
	}
	slices.SortFunc(out, (*proxier.Service).Compare)
	return slices.CompactFunc(out, func(a, b *proxier.Service) bool { return a.Compare(b) == 0 })
}

func servicePort(svc *cluster.Service, port cluster.Port, env *Env) *proxier.Service {
	all := candidates(svc, port, env.Family)
	ch := choose(awake(all), env)
	s := &proxier.Service{
		Name:       proxier.ServicePort{Namespace: svc.Name.Namespace, Service: svc.Name.Name, Port: port.Name},
		Protocol:   port.Protocol,
		Frontends:  frontends(svc, port, ch, env),
		Affinity:   svc.Affinity,
		HealthPort: svc.HealthPort,
		Scheduler:  svc.Balance.Scheduler,

		ProxyProtocol: svc.Balance.ProxyProtocol,
	}
	if asks(s.Frontends, proxier.ToCluster) {
		s.Cluster = ch.cluster
	}
	if asks(s.Frontends, proxier.ToLocal) {
		s.Local = ch.local
	}
	s.Kept = kept(all, choice{s.Cluster, s.Local})
	return s
}

// equal reports whether two compiled services mean the same, so that the older
// pointer can stay.
func equal(a, b *proxier.Service) bool {
	return a.Name == b.Name && a.Protocol == b.Protocol && a.Affinity == b.Affinity &&
		a.HealthPort == b.HealthPort && a.Scheduler == b.Scheduler && a.ProxyProtocol == b.ProxyProtocol &&
		slices.Equal(a.Cluster, b.Cluster) && slices.Equal(a.Local, b.Local) &&
		slices.Equal(a.Kept, b.Kept) && slices.EqualFunc(a.Frontends, b.Frontends, sameFrontend)
}

func sameFrontend(a, b proxier.Frontend) bool {
	return a.Kind == b.Kind && a.Addr == b.Addr &&
		slices.Equal(a.Allow, b.Allow) && slices.Equal(a.Routes, b.Routes)
}
