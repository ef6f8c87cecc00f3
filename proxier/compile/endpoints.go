package compile

import (
	"net/netip"
	"slices"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
)

// candidate is one endpoint of one service port before anything is chosen.
type candidate struct {
	addr   netip.AddrPort
	from   *cluster.Endpoint
	weight uint16 // 0: the default
	asleep bool   // it asks for no new connections
}

// weigh gives the candidate the weight that the Service's annotation has for its
// address. 1 is what all others have.
func (c *candidate) weigh(b *cluster.Balance) {
	weight, own := b.WeightOf(c.addr.Addr())
	c.asleep = own && weight == 0
	if weight > 1 {
		c.weight = weight
	}
}

// serves reports whether existing connections may stay, and, while there is no
// ready endpoint, whether new ones may come (KEP-1669).
func (c candidate) serves() bool { return c.from.Serving || c.from.Ready }

// draining endpoints are the ones used when no endpoint is ready (KEP-1669).
func (c candidate) draining() bool { return c.from.Serving && c.from.Terminating }

// candidates collects the endpoints of one service port from all its slices,
// sorted by address. Where an address stands more than once the last entry that
// does not terminate wins.
func candidates(svc *cluster.Service, port cluster.Port, family proxier.Family) []candidate {
	var all []candidate
	for _, slice := range svc.Slices {
		if slice.Family != family {
			continue
		}
		for _, p := range slice.Ports {
			if p.Name != port.Name || p.Protocol != port.Protocol {
				continue
			}
			all = slices.Grow(all, len(slice.Endpoints))
			for i := range slice.Endpoints {
				ep := &slice.Endpoints[i]
				c := candidate{addr: netip.AddrPortFrom(ep.Addr, p.Port), from: ep}
				c.weigh(&svc.Balance)
				all = append(all, c)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return a.addr.Compare(b.addr) })
	return foldDuplicates(all)
}

func foldDuplicates(all []candidate) []candidate {
	out := all[:0]
	for _, c := range all {
		switch last := len(out) - 1; {
		case last < 0 || out[last].addr != c.addr:
			out = append(out, c)
		case !c.from.Terminating:
			out[last] = c
		}
	}
	return out
}

// awake are the endpoints that may get new connections by their weight. Those
// with weight 0 are kept for the connections that they have.
func awake(all []candidate) []candidate {
	asleep := func(c candidate) bool { return c.asleep }
	if !slices.ContainsFunc(all, asleep) {
		return all
	}
	return filter(all, func(c candidate) bool { return !c.asleep })
}

// choice is what a service port can be sent to.
type choice struct {
	cluster, local []proxier.Endpoint
}

// choose picks the endpoints for traffic from anywhere and for traffic that must
// stay on the node.
func choose(all []candidate, env *Env) choice {
	ready := filter(all, func(c candidate) bool { return c.from.Ready })
	draining := filter(all, candidate.draining)
	onNode := func(c candidate) bool { return c.from.Node == env.NodeName }
	pick := func(preferred, fallback []candidate) []proxier.Endpoint {
		if len(preferred) > 0 {
			return endpoints(preferred, onNode)
		}
		return endpoints(fallback, onNode)
	}
	return choice{
		cluster: pick(byTopology(ready, env), draining),
		local:   pick(filter(ready, onNode), filter(draining, onNode)),
	}
}

// byTopology narrows ready endpoints to those hinted for this node, else for
// this node's zone. Hints count only if every endpoint has them and one of them
// names us (KEP-2433, KEP-4444, KEP-3015).
func byTopology(ready []candidate, env *Env) []candidate {
	forNode := func(c candidate) bool {
		return c.from.Hints != nil && slices.Contains(c.from.Hints.Nodes, env.NodeName)
	}
	forZone := func(c candidate) bool {
		return c.from.Hints != nil && slices.Contains(c.from.Hints.Zones, env.Zone)
	}
	lacksNode := func(c candidate) bool { return c.from.Hints == nil || len(c.from.Hints.Nodes) == 0 }
	lacksZone := func(c candidate) bool { return c.from.Hints == nil || len(c.from.Hints.Zones) == 0 }
	switch {
	case !slices.ContainsFunc(ready, lacksNode) && slices.ContainsFunc(ready, forNode):
		return filter(ready, forNode)
	case env.Zone != "" && !slices.ContainsFunc(ready, lacksZone) && slices.ContainsFunc(ready, forZone):
		return filter(ready, forZone)
	}
	return ready
}

// kept lists the endpoints that serve but are in neither choice.
func kept(all []candidate, ch choice) []netip.AddrPort {
	var out []netip.AddrPort
	for _, c := range all {
		if c.serves() && !contains(ch.cluster, c.addr) && !contains(ch.local, c.addr) {
			out = append(out, c.addr)
		}
	}
	return out
}

func contains(sorted []proxier.Endpoint, addr netip.AddrPort) bool {
	_, found := slices.BinarySearchFunc(sorted, addr, func(e proxier.Endpoint, a netip.AddrPort) int {
		return e.Addr.Compare(a)
	})
	return found
}

func endpoints(from []candidate, onNode func(candidate) bool) []proxier.Endpoint {
	if len(from) == 0 {
		return nil
	}
	out := make([]proxier.Endpoint, len(from))
	for i, c := range from {
		out[i] = proxier.Endpoint{Addr: c.addr, Local: onNode(c), Terminating: c.from.Terminating, Weight: c.weight}
	}
	return out
}

func filter(in []candidate, keep func(candidate) bool) []candidate {
	var out []candidate
	for _, c := range in {
		if keep(c) {
			out = append(out, c)
		}
	}
	return out
}
