package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
)

// key is what only one service port can have: an address and port, or a node
// port (no address), of one protocol.
type key struct {
	protocol proxier.Protocol
	addr     netip.AddrPort
}

// claim is one service port's wish for a key.
type claim struct {
	owner *proxier.Service
	kind  proxier.Kind
}

// rank orders kinds by how far their address is the cluster's own to give: the
// API server allocates ClusterIPs and node ports, a cloud the load balancer's
// IPs, and anybody may write any external IP.
func rank(k proxier.Kind) int {
	return slices.Index([]proxier.Kind{
		proxier.ClusterIP, proxier.NodePort, proxier.LoadBalancer, proxier.ExternalIP}, k)
}

func (c claim) compare(o claim) int {
	return cmp.Or(cmp.Compare(rank(c.kind), rank(o.kind)), c.owner.Compare(o.owner))
}

// claims knows who wants which key. Almost always that is one service port, so
// only the contested keys have a list.
type claims struct {
	single    map[key]claim
	contested map[key][]claim // sorted, at least two

	// addrs counts the claims of each address that is a Service's own.
	addrs map[netip.Addr]int
}

func newClaims() claims {
	return claims{map[key]claim{}, map[key][]claim{}, map[netip.Addr]int{}}
}

// count notes claims that come or, with -1, go.
func (c *claims) count(k key, cl claim, change int) {
	if cl.kind == proxier.NodePort {
		return
	}
	addr := k.addr.Addr()
	if n := c.addrs[addr] + change; n > 0 {
		c.addrs[addr] = n
	} else {
		delete(c.addrs, addr)
	}
}

// held are those of the node's addresses that Services have, and the Node has not.
func (c *claims) held(local, own []netip.Addr) []netip.Addr {
	var held []netip.Addr
	for _, a := range local {
		if c.addrs[a] > 0 && !slices.Contains(own, a) {
			held = append(held, a)
		}
	}
	return held
}

func eachClaim(services []*proxier.Service, do func(key, claim)) {
	for _, s := range services {
		for i := range s.Frontends {
			f := &s.Frontends[i]
			do(key{s.Protocol, f.Addr}, claim{s, f.Kind})
		}
	}
}

// add and remove report whether the key is, or was until now, contested: then
// its claimants have to be looked at again.
func (c *claims) add(k key, cl claim) bool {
	c.count(k, cl, 1)
	list, ok := c.contested[k]
	if !ok {
		first, taken := c.single[k]
		if !taken {
			c.single[k] = cl
			return false
		}
		delete(c.single, k)
		list = []claim{first}
	}
	at, _ := slices.BinarySearchFunc(list, cl, claim.compare)
	c.contested[k] = slices.Insert(slices.Clone(list), at, cl)
	return true
}

func (c *claims) remove(k key, cl claim) bool {
	c.count(k, cl, -1)
	list, ok := c.contested[k]
	if !ok {
		delete(c.single, k)
		return false
	}
	list = slices.DeleteFunc(slices.Clone(list), func(o claim) bool { return o == cl })
	if len(list) == 1 {
		delete(c.contested, k)
		c.single[k] = list[0]
		return true
	}
	c.contested[k] = list
	return true
}

// loses returns the claim that has the key instead of this one, if any.
func (c *claims) loses(k key, cl claim) (winner claim, lost bool) {
	list := c.contested[k]
	if len(list) == 0 || list[0] == cl {
		return claim{}, false
	}
	return list[0], true
}

// settle leaves out the frontends that a service port loses to another and says
// so; without any it returns the service as it is.
func (c *claims) settle(s *proxier.Service) (*proxier.Service, []cluster.Problem) {
	if len(c.contested) == 0 {
		return s, nil
	}
	var problems []cluster.Problem
	won := slices.DeleteFunc(slices.Clone(s.Frontends), func(f proxier.Frontend) bool {
		winner, lost := c.loses(key{s.Protocol, f.Addr}, claim{s, f.Kind})
		if lost {
			problems = append(problems, taken(s, f, winner))
		}
		return lost
	})
	if len(problems) == 0 {
		return s, nil
	}
	settled := *s
	settled.Frontends = won
	return &settled, problems
}

func taken(s *proxier.Service, f proxier.Frontend, winner claim) cluster.Problem {
	what := f.Addr.String()
	if f.Kind == proxier.NodePort {
		what = fmt.Sprintf("port %d", f.Addr.Port())
	}
	return cluster.Problem{
		Object: serviceObject(cluster.Name{Namespace: s.Name.Namespace, Name: s.Name.Service}),
		Field:  f.Kind.String(),
		Reason: fmt.Sprintf("%s %s is already the %s of %s: this service does not answer there",
			s.Protocol, what, winner.kind, winner.owner.Name),
	}
}
