package ipvs

import (
	"cmp"
	"net/netip"
	"slices"

	"switchyard/ipvs/ipset"
	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

// memory is what is wanted, rendered, and what the kernel is known to hold.
type memory struct {
	family proxier.Family
	config *Config
	state  *proxier.State // what was rendered last; nil: nothing yet
	known  bool           // the kernel was read

	services map[id]rendered
	noted    map[id]bool  // services with notes
	failed   map[id]error // services that cannot be rendered; an older version stays
	claims   map[vs.Key][]*claim
	servers  map[vs.Key]*standing
	touched  map[vs.Key]bool // servers that may differ from what is wanted
	draining map[vs.Key]bool // servers with destinations that are leaving
	total    tally
	entries  ledger[member]
	addrs    ledger[netip.Addr]
	lost     map[*claim]bool // claims that are not in force
}

// id names a service port.
type id struct {
	name     proxier.ServicePort
	protocol proxier.Protocol
}

func idOf(s *proxier.Service) id { return id{s.Name, s.Protocol} }

// claim is one portal's wish for its addresses.
type claim struct {
	*portal
	inForce bool
}

func newMemory(family proxier.Family, c *Config) *memory {
	return &memory{
		family: family, config: c,
		services: map[id]rendered{}, failed: map[id]error{}, noted: map[id]bool{},
		claims: map[vs.Key][]*claim{}, servers: map[vs.Key]*standing{},
		touched: map[vs.Key]bool{}, draining: map[vs.Key]bool{},
		entries: newLedger[member](), addrs: newLedger[netip.Addr](),
		lost: map[*claim]bool{},
	}
}

// move renders what changed on the way to a State. A change of what all services
// look at changes them all.
func (m *memory) move(want *proxier.State) {
	var last []*proxier.Service
	all := false
	if m.state != nil {
		last, all = m.state.Services, !sameToServices(&m.state.Node, &want.Node)
		m.nodeEntries(&m.state.Node, -1)
	}
	m.nodeEntries(&want.Node, 1)
	proxier.EachChange(last, want.Services, all, func(was, is *proxier.Service) {
		if is == nil {
			m.drop(idOf(was))
			delete(m.failed, idOf(was))
			return
		}
		m.render(is, &want.Node)
	})
	m.state = want
}

// render puts a service in the place of its older version.
func (m *memory) render(is *proxier.Service, node *proxier.Node) {
	key := idOf(is)
	next, err := renderService(is, m.family, node, m.config)
	if err != nil {
		m.failed[key] = err
		return
	}
	delete(m.failed, key)
	m.drop(key)
	m.put(key, next)
}

func sameToServices(a, b *proxier.Node) bool {
	return slices.Equal(a.PodRanges, b.PodRanges) && slices.Equal(a.PodInterfaces, b.PodInterfaces) &&
		slices.Equal(a.Local, b.Local) && slices.Equal(a.Held, b.Held) && a.NodePorts.Any == b.NodePorts.Any &&
		slices.Equal(a.NodePorts.Addrs, b.NodePorts.Addrs)
}

// nodeEntries wants, or no longer wants, what the node itself needs.
func (m *memory) nodeEntries(n *proxier.Node, by int32) {
	for _, a := range nodePortAddrs(n) {
		m.entries.want(member{nodeAddrs, ipset.Entry{Addr: a}}, by)
	}
}

func (m *memory) put(key id, r rendered) {
	m.services[key] = r
	if len(r.notes) > 0 {
		m.noted[key] = true
	}
	for _, e := range r.entries {
		m.entries.want(e, 1)
	}
	for _, p := range r.portals {
		c := &claim{portal: p}
		m.contest(c, func(list []*claim) []*claim {
			at, _ := slices.BinarySearchFunc(list, c, (*claim).compare)
			return slices.Insert(list, at, c)
		})
	}
}

func (m *memory) drop(key id) {
	r, ok := m.services[key]
	if !ok {
		return
	}
	delete(m.services, key)
	delete(m.noted, key)
	for _, e := range r.entries {
		m.entries.want(e, -1)
	}
	for _, p := range r.portals {
		c := m.claimOf(p)
		m.contest(c, func(list []*claim) []*claim {
			return slices.DeleteFunc(list, func(o *claim) bool { return o == c })
		})
		delete(m.lost, c)
	}
}

func (m *memory) claimOf(p *portal) *claim {
	list := m.claims[p.servers[0].key]
	return list[slices.IndexFunc(list, func(c *claim) bool { return c.portal == p })]
}

func (c *claim) compare(o *claim) int {
	return cmp.Or(cmp.Compare(c.rank, o.rank), c.service.Compare(o.service))
}

// contest changes the lists of claims for all keys of a claim, and then settles who
// has the better one.
func (m *memory) contest(c *claim, edit func([]*claim) []*claim) {
	affected := []*claim{c}
	for i := range c.servers {
		key := c.servers[i].key
		before := m.claims[key]
		affected = append(affected, before...)
		if list := edit(before); len(list) > 0 {
			m.claims[key] = list
		} else {
			delete(m.claims, key)
		}
	}
	for _, a := range affected { // who loses goes first
		if !m.wins(a) {
			m.enforce(a, false)
			m.lost[a] = true
		}
	}
	for _, a := range affected {
		if m.wins(a) {
			m.enforce(a, true)
			delete(m.lost, a)
		}
	}
}

// winner is who has an address that a claim lost, nil where that is as it should be: a
// node port gives way to an address of a service.
func (m *memory) winner(c *claim) *claim {
	for i := range c.servers {
		switch first := m.claims[c.servers[i].key][0]; {
		case first == c:
		case i == 0 && c.rank == ranks[proxier.NodePort]:
			return nil
		default:
			return first
		}
	}
	return nil
}

// wins reports whether nobody has a better claim to any of the keys.
func (m *memory) wins(c *claim) bool {
	for i := range c.servers {
		if list := m.claims[c.servers[i].key]; len(list) == 0 || list[0] != c {
			return false
		}
	}
	return true
}

// enforce wants all that a portal needs, or no longer wants it.
func (m *memory) enforce(c *claim, inForce bool) {
	if c.inForce == inForce {
		return
	}
	c.inForce = inForce
	by := int32(1)
	if !inForce {
		by = -1
	}
	for _, e := range c.entries {
		m.entries.want(e, by)
	}
	for _, a := range c.addrs {
		m.addrs.want(a, by)
	}
	for i := range c.servers {
		s := m.server(c.servers[i].key)
		s.want = nil
		if inForce {
			s.want, s.service = &c.servers[i], c.service
		}
	}
}

// server is a server that is about to be changed.
func (m *memory) server(key vs.Key) *standing {
	m.touched[key] = true
	s := m.servers[key]
	if s == nil {
		s = &standing{}
		m.servers[key] = s
	}
	return s
}

// outlasts has what established connections of a server need stay while nobody wants
// it, or lets go of it.
func (m *memory) outlasts(key vs.Key, stays bool) {
	s := m.servers[key]
	if stays == (s.linger != nil) {
		return
	}
	if stays {
		s.linger, s.lingerAddrs = m.lasting(key)
	}
	by := int32(1)
	if !stays {
		by = -1
	}
	for _, e := range s.linger {
		m.entries.want(e, by)
	}
	for _, a := range s.lingerAddrs {
		m.addrs.want(a, by)
	}
	if !stays {
		s.linger, s.lingerAddrs = nil, nil
	}
}

// lasting is what the kernel holds of what a server's connections need.
func (m *memory) lasting(key vs.Key) (entries []member, addrs []netip.Addr) {
	entries = []member{}
	for _, e := range records(key) {
		if m.entries.lines[e].holds {
			entries = append(entries, e)
		}
	}
	if a := key.Addr.Addr(); m.addrs.lines[a].holds {
		addrs = append(addrs, a)
	}
	return entries, addrs
}

// records are the entries by which a server is known to be ours, and not another
// program's, and which its packets need.
func records(key vs.Key) []member {
	e := ipset.Entry{Addr: key.Addr.Addr(), Protocol: key.Protocol, Port: key.Addr.Port()}
	nodePorts, _ := nodePortSets(key.Protocol)
	var out []member
	for _, s := range []set{clusterIPs, externalIPs, balancers, alternates, held, nodePorts, nodeAddrs} {
		out = append(out, member{s, inSet(s, e)})
	}
	return out
}

// ours reports whether a virtual server in the kernel is ours: one of our sets has
// its address and port, or kube-ipvs0 has its address. Servers for packet marks, and
// those in the excluded ranges, never are.
func (m *memory) ours(key vs.Key) bool {
	a := key.Addr.Addr()
	if key.Mark != 0 || m.excluded(a) {
		return false
	}
	if m.addrs.lines[a].holds {
		return true
	}
	isNodeAddr := m.entries.lines[member{nodeAddrs, ipset.Entry{Addr: a}}].holds
	for _, r := range records(key) {
		byPort := r.set.kind() == ipset.BitmapPort
		if m.entries.lines[r].holds && r.set != nodeAddrs && (!byPort || isNodeAddr) {
			return true
		}
	}
	return false
}

func (m *memory) excluded(a netip.Addr) bool {
	return slices.ContainsFunc(m.config.Exclude, func(p netip.Prefix) bool { return p.Contains(a) })
}
