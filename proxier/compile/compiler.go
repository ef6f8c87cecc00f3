package compile

import (
	"net/netip"
	"slices"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
)

// Options are the settings that decide something for a Service.
type Options struct {
	MasqueradeAll bool        // --masquerade-all
	ExternalIPs   ExternalIPs // --service-external-ips
	// ClusterCIDRs are the pods' ranges (--cluster-cidr), whether or not they are what
	// pods are known by.
	ClusterCIDRs []netip.Prefix
}

// Compiler turns Snapshots into the States of one family. It remembers the last
// results, nothing else: a new Compiler gives an equal State. Not safe for
// concurrent use.
type Compiler struct {
	family  proxier.Family
	options Options

	env    Env
	source cluster.List // the last snapshot's
	groups []*group     // one for each of source
	claims claims
	holds  *holders
	state  *proxier.State

	refusing int // groups that have something refused
}

// group is what one Service compiled to: raw is every frontend it asks for,
// services what is left of that once claims are settled.
type group struct {
	raw, services []*proxier.Service
	stood         int               // how many services there were before
	refused       []cluster.Problem // external IPs
	problems      []cluster.Problem // claims that were lost
}

// New makes a Compiler for one family.
func New(family proxier.Family, o Options) *Compiler {
	return &Compiler{family: family, options: o, claims: newClaims(), holds: newHolders(family)}
}

// Compile returns the State for a Snapshot. If nothing that matters changed it is
// the very State returned before; a service that did not change keeps its
// pointer. Costs the compilation of the changed Services, and a copy of the
// State's pointers.
func (c *Compiler) Compile(snap cluster.Snapshot, node proxier.Node) *proxier.State {
	env := c.envOf(snap, &node)
	known := c.state != nil && env.equal(&c.env)
	c.env = env

	e := edit{c: c, known: known}
	e.to(snap.Services)
	e.settle()
	node.Held = c.claims.held(node.Local, env.OwnAddrs)
	switch {
	case c.state != nil && !e.changed() && sameNode(&c.state.Node, &node):
		return c.state
	case c.state != nil && !e.changed():
		c.state = &proxier.State{Family: c.family, Node: node, Services: c.state.Services}
	default:
		c.state = &proxier.State{Family: c.family, Node: node, Services: e.services()}
	}
	return c.state
}

// Problems lists what this family's State leaves out of Services: addresses that
// another one has already, and external IPs that are not honoured. In order of the
// Services.
func (c *Compiler) Problems() []cluster.Problem {
	if len(c.claims.contested) == 0 && c.refusing == 0 {
		return nil
	}
	var all []cluster.Problem
	for _, g := range c.groups {
		all = append(all, g.refused...)
		all = append(all, g.problems...)
	}
	return all
}

func (c *Compiler) envOf(snap cluster.Snapshot, node *proxier.Node) Env {
	env := Env{
		Family:        c.family,
		NodeName:      node.Name,
		NodeAddrs:     node.Local,
		ServiceCIDRs:  snap.ServiceCIDRs,
		DetectsPods:   node.DetectsPods(),
		MasqueradeAll: c.options.MasqueradeAll,
		ExternalIPs:   c.options.ExternalIPs,
		OwnAddrs:      node.Local, // better than nothing, while the Node is not known
		PodRanges:     podRanges(c.family, c.options.ClusterCIDRs, node.PodRanges),
		holders:       c.holds,
	}
	if snap.Node != nil {
		env.Zone = snap.Node.Zone
		env.OwnAddrs = snap.Node.Addresses
		env.PodRanges = podRanges(c.family, env.PodRanges, snap.Node.PodCIDRs)
	}
	return env
}

func sameNode(a, b *proxier.Node) bool {
	return a.Name == b.Name && slices.Equal(a.PodRanges, b.PodRanges) &&
		slices.Equal(a.PodInterfaces, b.PodInterfaces) && slices.Equal(a.Local, b.Local) && slices.Equal(a.Held, b.Held) &&
		a.NodePorts.Any == b.NodePorts.Any && a.NodePorts.Localhost == b.NodePorts.Localhost &&
		slices.Equal(a.NodePorts.Addrs, b.NodePorts.Addrs)
}
