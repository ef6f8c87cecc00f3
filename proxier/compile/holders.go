package compile

import (
	"net/netip"
	"slices"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
)

// holders knows who has the addresses that Services name as external IPs. Nothing is
// remembered of other addresses: a cluster without external IPs pays a look at each
// changed Service. A nil *holders knows nobody.
type holders struct {
	family proxier.Family
	wanted map[netip.Addr]int    // by how many Services
	of     map[netip.Addr]owners // of those that are wanted
}

// owners are the Services that have an address, sorted by name.
type owners struct {
	clusterIP []cluster.Name // as their own
	endpoint  []cluster.Name // as that of an endpoint
}

func newHolders(f proxier.Family) *holders {
	return &holders{family: f, wanted: map[netip.Addr]int{}, of: map[netip.Addr]owners{}}
}

// clusterIP is the first of the others whose ClusterIP it is.
func (h *holders) clusterIP(self cluster.Name, ip netip.Addr) (owner cluster.Name, found bool) {
	if h == nil {
		return owner, false
	}
	for _, name := range h.of[ip].clusterIP {
		if name != self {
			return name, true
		}
	}
	return owner, false
}

// endpoint is the first of those who have an endpoint there.
func (h *holders) endpoint(ip netip.Addr) (owner cluster.Name, found bool) {
	if h == nil || len(h.of[ip].endpoint) == 0 {
		return owner, false
	}
	return h.of[ip].endpoint[0], true
}

// turnover is what became of holders in one edit.
type turnover struct {
	fresh   map[netip.Addr]bool // wanted since now: who has them was not noted
	touched map[netip.Addr]bool // others have them than before
}

// replace takes one Service for another; either may be nil.
func (h *holders) replace(was, is *cluster.Service, t *turnover) {
	if was == is {
		return
	}
	h.want(is, 1, t)
	if len(h.wanted) > 0 {
		h.note(was, h.without, t)
		h.note(is, h.with, t)
	}
	h.want(was, -1, t)
}

func (h *holders) want(svc *cluster.Service, n int, t *turnover) {
	if svc == nil {
		return
	}
	for _, ip := range svc.ExternalIPs {
		if proxier.FamilyOf(ip) != h.family {
			continue
		}
		if h.wanted[ip] == 0 {
			t.fresh = mark(t.fresh, ip)
		}
		if h.wanted[ip] += n; h.wanted[ip] == 0 {
			delete(h.wanted, ip)
			delete(h.of, ip)
		}
	}
}

func mark(set map[netip.Addr]bool, ip netip.Addr) map[netip.Addr]bool {
	if set == nil {
		set = map[netip.Addr]bool{}
	}
	set[ip] = true
	return set
}

// note adds a Service to, or takes it from, the owners of the addresses that it has.
func (h *holders) note(svc *cluster.Service, change func([]cluster.Name, cluster.Name) []cluster.Name, t *turnover) {
	if svc == nil {
		return
	}
	for _, ip := range svc.ClusterIPs {
		if h.wanted[ip] > 0 {
			o := h.of[ip]
			o.clusterIP = change(o.clusterIP, svc.Name)
			h.of[ip], t.touched = o, mark(t.touched, ip)
		}
	}
	eachHost(svc, func(ip netip.Addr) {
		if h.wanted[ip] > 0 {
			o := h.of[ip]
			o.endpoint = change(o.endpoint, svc.Name)
			h.of[ip], t.touched = o, mark(t.touched, ip)
		}
	})
}

// eachHost visits the endpoints that run somewhere in the cluster: those with the name
// of a node, and those of the API server. Others are what a person wrote, and may well
// be another Service's external IP.
func eachHost(svc *cluster.Service, visit func(netip.Addr)) {
	always := svc.Name == cluster.Name{Namespace: "default", Name: "kubernetes"}
	for _, slice := range svc.Slices {
		for i := range slice.Endpoints {
			if always || slice.Endpoints[i].Node != "" {
				visit(slice.Endpoints[i].Addr)
			}
		}
	}
}

func (h *holders) with(names []cluster.Name, name cluster.Name) []cluster.Name {
	at, found := slices.BinarySearchFunc(names, name, cluster.Name.Compare)
	if found {
		return names // more than one endpoint there
	}
	return slices.Insert(names, at, name)
}

func (h *holders) without(names []cluster.Name, name cluster.Name) []cluster.Name {
	at, found := slices.BinarySearchFunc(names, name, cluster.Name.Compare)
	if !found {
		return names
	}
	return slices.Delete(names, at, at+1)
}

// settle looks up who has the addresses that are wanted since now, in one walk for
// all, and calls again for every Service that names an address whose owners changed.
func (h *holders) settle(services cluster.List, t turnover, again func(int, *cluster.Service)) {
	if len(t.fresh) > 0 {
		for _, svc := range services.All() {
			h.note(svc, h.with, &t)
		}
	}
	if len(t.touched) == 0 {
		return
	}
	for i, svc := range services.All() {
		if slices.ContainsFunc(svc.ExternalIPs, func(ip netip.Addr) bool { return t.touched[ip] }) {
			again(i, svc)
		}
	}
}
