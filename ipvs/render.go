package ipvs

import (
	"fmt"
	"net/netip"
	"slices"

	"switchyard/ipvs/ipset"
	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

// rendered is one service port in the kernel's words.
type rendered struct {
	service *proxier.Service
	portals []*portal
	entries []member // that belong to no portal
	notes   []proxier.Note
}

// portal is all that one address of a service needs. It is in force as a whole, or
// not at all where another service has a better claim to the address.
type portal struct {
	service *proxier.Service
	rank    int      // the lower wins the address
	servers []server // the first is the address's own, the second that of the short way
	addrs   []netip.Addr
	entries []member
	// lasting are those entries that packets of established connections need.
	lasting []member
}

// server is a virtual server as it is wanted.
type server struct {
	key vs.Key
	vs.Server
	pool []vs.Destination // sorted by address
	kept []netip.AddrPort // endpoints that get no new connections and keep theirs, sorted
	// mapped: conntrack translates the packets of established connections by itself,
	// so nothing has to be drained.
	mapped bool
}

// renderer renders one service port. Pure.
type renderer struct {
	config *Config
	family proxier.Family
	node   *proxier.Node
	svc    *proxier.Service
	out    rendered
}

// renderService renders one service port. The error names what this backend cannot
// express.
func renderService(svc *proxier.Service, family proxier.Family, node *proxier.Node, c *Config) (rendered, error) {
	r := renderer{config: c, family: family, node: node, svc: svc}
	r.out.service = svc
	for i := range svc.Frontends {
		f := &svc.Frontends[i]
		row, err := r.read(f)
		if err != nil {
			return rendered{}, fmt.Errorf("render %s: %w", f.Address(), err)
		}
		if err := r.frontend(f, row); err != nil {
			return rendered{}, fmt.Errorf("render %s: %w", f.Address(), err)
		}
	}
	r.hairpins()
	if svc.HealthPort != 0 {
		r.out.entries = append(r.out.entries, member{health, ipset.Entry{Port: svc.HealthPort}})
	}
	return r.out, nil
}

// meaning is a frontend's table in the terms of the rules.
type meaning struct {
	to    proxier.To // where those go who have no row of their own
	short bool       // pods and the node reach every endpoint
	masq  bool       // a ClusterIP whose packets are all masqueraded
}

// read finds out which of the tables that the rules know a frontend has.
func (r *renderer) read(f *proxier.Frontend) (meaning, error) {
	last := len(f.Routes) - 1
	if last < 0 || f.Routes[last].From != proxier.FromAnyone {
		return meaning{}, fmt.Errorf("no row for anyone: not expressible")
	}
	m := meaning{to: f.Routes[last].To, masq: f.Routes[last].Masq}
	for _, known := range r.known(f.Kind, m) {
		if slices.Equal(f.Routes[:last], known) {
			m.short = f.Kind != proxier.ClusterIP && last > 0
			return m, r.guarded(f)
		}
	}
	return meaning{}, fmt.Errorf("%v: not expressible", f.Routes)
}

// known are the rows that may stand before the last one.
func (r *renderer) known(kind proxier.Kind, m meaning) [][]proxier.Route {
	none := []proxier.Route{}
	ends := m.to == proxier.ToReject || m.to == proxier.ToDrop
	if ends && m.masq {
		return nil
	}
	if kind == proxier.ClusterIP {
		switch {
		case ends || m.masq || !r.node.DetectsPods():
			return [][]proxier.Route{none}
		}
		return [][]proxier.Route{{{From: proxier.FromNotPods, To: m.to, Masq: true}}}
	}
	toNode := proxier.Route{From: proxier.FromNode, To: proxier.ToCluster, Masq: true}
	short := []proxier.Route{toNode}
	if r.node.DetectsPods() {
		short = []proxier.Route{{From: proxier.FromPods, To: proxier.ToCluster}, toNode}
	}
	switch {
	case m.to == proxier.ToCluster && m.masq, m.to == proxier.ToReject:
		return [][]proxier.Route{none}
	case m.to == proxier.ToDrop:
		return [][]proxier.Route{none, short}
	case m.to == proxier.ToLocal && !m.masq:
		return [][]proxier.Route{short}
	}
	return nil
}

// guarded refuses source ranges where no set has a place for them.
func (r *renderer) guarded(f *proxier.Frontend) error {
	if len(f.Allow) > 0 && f.Kind == proxier.NodePort {
		return fmt.Errorf("a node port with allowed sources: not expressible")
	}
	return nil
}

// frontend appends the portals of a frontend: one, or for a node port one for each
// of the node's addresses.
func (r *renderer) frontend(f *proxier.Frontend, m meaning) error {
	addrs := []netip.Addr{f.Addr.Addr()}
	if f.Kind == proxier.NodePort {
		addrs = nodePortAddrs(r.node)
	}
	for _, a := range addrs {
		if slices.ContainsFunc(r.config.Exclude, func(p netip.Prefix) bool { return p.Contains(a) }) {
			r.note(fmt.Sprintf("%s is in the excluded ranges: nothing is done there", a))
			continue
		}
		if m.short && alternateRange(r.family).Contains(a) {
			return fmt.Errorf("%s is in %s, where the short way of policy Local leads: not expressible", a, alternateRange(r.family))
		}
		r.out.portals = append(r.out.portals, r.portal(f, m, netip.AddrPortFrom(a, f.Addr.Port())))
	}
	return nil
}

// nodePortAddrs are the addresses at which node ports answer. Those of 127.0.0.0/8
// do not: IPVS drops what is sent from there to another machine.
func nodePortAddrs(n *proxier.Node) []netip.Addr {
	if n.NodePorts.Any {
		return n.Local
	}
	return n.NodePorts.Addrs
}

// ranks order the claims to an address: one of a service wins over a node port.
var ranks = map[proxier.Kind]int{proxier.ClusterIP: 0, proxier.LoadBalancer: 1, proxier.ExternalIP: 2, proxier.NodePort: 3}

// portal is what one address of a frontend needs.
func (r *renderer) portal(f *proxier.Frontend, m meaning, at netip.AddrPort) *portal {
	p := &portal{service: r.svc, rank: ranks[f.Kind]}
	p.servers = append(p.servers, r.server(at, r.svc.Endpoints(m.to), false))
	entry := ipset.Entry{Addr: at.Addr(), Protocol: r.svc.Protocol, Port: at.Port()}
	base, short := r.setsOf(f.Kind)
	lasts := func(s set, e ipset.Entry) { p.lasting = append(p.lasting, member{s, e}) }
	needs := func(s set, e ipset.Entry) { p.entries = append(p.entries, member{s, e}) }

	lasts(base, inSet(base, entry))
	if r.node.Holds(at.Addr()) {
		lasts(elsewhere, ipset.Entry{Addr: at.Addr()})
	}
	if !r.node.IsLocal(at.Addr()) {
		// An address of the node's own stays one: other ports than this are not ours.
		p.addrs = append(p.addrs, at.Addr())
		lasts(held, ipset.Entry{Addr: at.Addr()})
	}
	if m.masq && f.Kind == proxier.ClusterIP {
		needs(clusterMasq, entry)
	}
	if m.short {
		other := alternate(at.Addr())
		p.addrs = append(p.addrs, other)
		p.servers = append(p.servers, r.server(netip.AddrPortFrom(other, at.Port()), r.svc.Cluster, true))
		needs(alternates, ipset.Entry{Addr: other, Protocol: r.svc.Protocol, Port: at.Port()})
		needs(short, inSet(short, entry))
	}
	if m.to == proxier.ToDrop && m.short {
		needs(noLocal, entry)
	} else if m.to == proxier.ToDrop {
		needs(dropped, entry)
	}
	for _, allowed := range f.Allow {
		for _, half := range ipset.Nets(allowed) {
			from := entry
			from.Net = half
			needs(ranges, from)
		}
	}
	if len(f.Allow) > 0 {
		needs(firewalled, entry)
	}
	p.entries = append(p.entries, p.lasting...)
	return p
}

// inSet is an entry in the form that a set has.
func inSet(s set, e ipset.Entry) ipset.Entry {
	switch s.kind() {
	case ipset.BitmapPort:
		return ipset.Entry{Port: e.Port}
	case ipset.HashIP:
		return ipset.Entry{Addr: e.Addr}
	}
	return e
}

// setsOf are the sets of a kind of frontend: all, and those with a short way.
func (r *renderer) setsOf(kind proxier.Kind) (all, short set) {
	switch kind {
	case proxier.ClusterIP:
		return clusterIPs, clusterIPs
	case proxier.ExternalIP:
		return externalIPs, shortExternal
	case proxier.LoadBalancer:
		return balancers, shortBalancer
	}
	return nodePortSets(r.svc.Protocol)
}

// server is a virtual server with a pool.
func (r *renderer) server(at netip.AddrPort, endpoints []proxier.Endpoint, mapped bool) server {
	s := server{key: vs.At(r.svc.Protocol, at), kept: r.svc.Kept, mapped: mapped}
	unequal := false
	for _, ep := range endpoints {
		s.pool = append(s.pool, vs.Destination{Addr: ep.Addr, Weight: ep.Share()})
		unequal = unequal || ep.Share() != endpoints[0].Share()
	}
	s.Server = r.schedule(unequal)
	s.Persistence = r.svc.Affinity
	return s
}

// schedule chooses the scheduler. What cannot be had is noted.
func (r *renderer) schedule(unequal bool) vs.Server {
	text := r.svc.Scheduler
	if text == "" {
		text = r.config.Scheduler
	}
	s, err := scheduled(text, r.config.missing)
	if err != nil {
		r.note(fmt.Sprintf("%v; %s is used", err, r.config.Scheduler))
		s, err = scheduled(r.config.Scheduler, r.config.missing)
	}
	if err != nil {
		s = vs.Server{Scheduler: "rr"}
	}
	if weighted, ok := map[string]string{"rr": "wrr", "lc": "wlc"}[s.Scheduler]; ok && unequal {
		s.Scheduler = weighted
	}
	return s
}

// scheduled is a server with a scheduler, by its name and flags.
func scheduled(text string, missing map[string]bool) (vs.Server, error) {
	name, flags, err := vs.ParseScheduler(text)
	if err != nil {
		return vs.Server{}, err
	}
	if missing[name] {
		return vs.Server{}, fmt.Errorf("scheduler %q is not in the kernel: load the module ip_vs_%s", name, name)
	}
	if name == "sh" || name == "mh" {
		// Else a client whose endpoint is drained would be refused, not sent elsewhere.
		flags |= vs.Fallback
	}
	return vs.Server{Scheduler: name, Flags: flags}, nil
}

// note adds a note once.
func (r *renderer) note(text string) {
	n := proxier.Note{Service: r.svc.Name, Protocol: r.svc.Protocol, Text: text}
	if !slices.Contains(r.out.notes, n) {
		r.out.notes = append(r.out.notes, n)
	}
}

// hairpins are the service's endpoints as their own clients.
func (r *renderer) hairpins() {
	for _, eps := range [][]proxier.Endpoint{r.svc.Cluster, r.svc.Local} {
		for _, ep := range eps {
			a := ep.Addr.Addr()
			m := member{hairpins, ipset.Entry{Addr: a, Protocol: r.svc.Protocol, Port: ep.Addr.Port(), Addr2: a}}
			r.out.entries = append(r.out.entries, m)
		}
	}
}
