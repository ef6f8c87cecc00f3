package netlab

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// The names of the standard network.
const (
	NodeA   = "node-a"
	NodeB   = "node-b"
	Outside = "outside"

	// PodBridge is the interface by which the packets of a node's pods enter it.
	PodBridge = "cbr0"
	// Uplink is the interface of nodes and clients to the network they share.
	Uplink = "eth0"
)

// Cluster is a lab with the standard network: node-a, which the proxy under
// test runs on, node-b, a client outside, and pods as they are added.
type Cluster struct {
	*Lab
	places map[string]place
}

// place is where a host sits: its addresses, first those it speaks with.
type place struct {
	uplink []netip.Prefix
	bridge []netip.Prefix // a node's: its pods' gateway and network
}

// Pod tells where a pod runs and which addresses it has.
type Pod struct {
	Name  string // at most 15 bytes: its cable has the same name
	Node  string // NodeA or NodeB
	Addrs []netip.Addr
}

// StandardPods are three pods on each node, with an address of each family.
func StandardPods() []Pod {
	var pods []Pod
	for i := range 3 {
		n := 11 + i
		pods = append(pods, Pod{
			Name: fmt.Sprintf("pod-a%d", i+1), Node: NodeA,
			Addrs: addrs(fmt.Sprintf("10.180.0.%d", n), fmt.Sprintf("fd00:10:180::%d", n)),
		}, Pod{
			Name: fmt.Sprintf("pod-b%d", i+1), Node: NodeB,
			Addrs: addrs(fmt.Sprintf("10.180.1.%d", n), fmt.Sprintf("fd00:10:180:0:1::%d", n)),
		})
	}
	return pods
}

func standardPlaces() map[string]place {
	return map[string]place{
		NodeA: {
			uplink: prefixes("192.168.0.2/24", "fd00:192:168::2/64", "192.168.7.2/24", "fd00:192:168:7::2/64"),
			bridge: prefixes("10.180.0.1/24", "fd00:10:180::1/80"),
		},
		NodeB: {
			uplink: prefixes("192.168.0.3/24", "fd00:192:168::3/64"),
			bridge: prefixes("10.180.1.1/24", "fd00:10:180:0:1::1/80"),
		},
		Outside: {
			uplink: prefixes("203.0.113.7/24", "2001:db8:113::7/64", "203.0.113.8/24", "2001:db8:113::8/64"),
		},
	}
}

// NewCluster makes a lab with the standard network and the pods. Its parts are
// removed if it fails.
func NewCluster(name string, pods ...Pod) (*Cluster, error) {
	lab, err := New(name)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Lab: lab, places: standardPlaces()}
	if err := c.build(pods); err != nil {
		return nil, errors.Join(fmt.Errorf("lay out the cluster: %w", err), lab.Close())
	}
	return c, nil
}

func (c *Cluster) build(pods []Pod) error {
	fabric, err := c.AddHost("fabric")
	if err != nil {
		return err
	}
	if err := errors.Join(fabric.Sysctl(fabricSysctls...), fabric.AddBridge("br0")); err != nil {
		return err
	}
	for _, name := range []string{NodeA, NodeB, Outside} {
		if err := c.addPlace(fabric, name); err != nil {
			return err
		}
	}
	if err := c.addUplinkRoutes(); err != nil {
		return err
	}
	for _, pod := range pods {
		if _, err := c.AddPod(pod); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) addPlace(fabric *Host, name string) error {
	host, err := c.AddHost(name)
	if err != nil {
		return err
	}
	where := c.places[name]
	if where.bridge != nil {
		err = errors.Join(host.Sysctl(nodeSysctls...), host.AddBridge(PodBridge),
			host.AddAddr(PodBridge, where.bridge...))
	}
	return errors.Join(err,
		Wire(End{host, Uplink}, End{fabric, name}),
		fabric.Plug(name, "br0"),
		host.AddAddr(Uplink, where.inOrder()...))
}

// inOrder are the uplink's addresses in the order that makes the first of each
// family the one that the kernel prefers as a source (and for masquerading): the
// oldest of IPv4, the newest of IPv6.
func (p place) inOrder() []netip.Prefix {
	var v4, v6 []netip.Prefix
	for _, a := range p.uplink {
		if a.Addr().Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	slices.Reverse(v6)
	return append(v4, v6...)
}

// addUplinkRoutes tells everyone on the fabric of the others. All networks are
// on the one link; what is beyond a node goes through it. The nodes' way to the
// rest of the world is the client, which forwards nothing, so that a packet to
// an address that nobody serves is lost as it would be outside.
func (c *Cluster) addUplinkRoutes() error {
	for name, where := range c.places {
		host := c.Host(name)
		for other, there := range c.places {
			if other == name {
				continue
			}
			if err := host.AddRoute(where.links(there)...); err != nil {
				return err
			}
		}
		if err := c.addGateways(host); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) addGateways(host *Host) error {
	where := c.places[host.name]
	gateway := Outside
	if host.name == Outside {
		gateway = NodeA
	}
	for i, anywhere := range prefixes("0.0.0.0/0", "::/0") {
		src := where.uplink[i].Addr()
		err := host.AddRoute(Route{To: anywhere, Device: Uplink, Via: c.places[gateway].uplink[i].Addr(), Src: src})
		if err != nil {
			return err
		}
		for _, node := range []string{NodeA, NodeB} {
			if node == host.name {
				continue
			}
			to := c.places[node]
			err := host.AddRoute(Route{To: to.bridge[i].Masked(), Device: Uplink, Via: to.uplink[i].Addr(), Src: src})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// AddPod adds a pod to a node. Addresses may lie outside of the node's pod
// range: everyone gets a route to them.
func (c *Cluster) AddPod(p Pod) (*Host, error) {
	node, where := c.Host(p.Node), c.places[p.Node]
	if node == nil || where.bridge == nil {
		return nil, fmt.Errorf("add pod %s: %q is no node", p.Name, p.Node)
	}
	pod, err := c.AddHost(p.Name)
	if err != nil {
		return nil, err
	}
	err = errors.Join(Wire(End{pod, Uplink}, End{node, p.Name}), node.Plug(p.Name, PodBridge))
	if err != nil {
		return nil, fmt.Errorf("add pod %s: %w", p.Name, err)
	}
	for _, addr := range p.Addrs {
		if err := c.addPodAddr(pod, p.Node, addr); err != nil {
			return nil, fmt.Errorf("add pod %s: %w", p.Name, err)
		}
	}
	return pod, nil
}

func (c *Cluster) addPodAddr(pod *Host, nodeName string, addr netip.Addr) error {
	own := netip.PrefixFrom(addr, addr.BitLen())
	if err := pod.AddAddr(Uplink, own); err != nil {
		return err
	}
	where, i := c.places[nodeName], family(addr)
	gateway := where.bridge[i].Addr()
	err := pod.AddRoute(
		Route{To: netip.PrefixFrom(gateway, gateway.BitLen()), Device: Uplink, Src: addr},
		Route{To: prefixes("0.0.0.0/0", "::/0")[i], Device: Uplink, Via: gateway, Src: addr})
	if err != nil || where.bridge[i].Contains(addr) {
		return err
	}
	for name := range c.places {
		route := Route{To: own, Device: Uplink, Via: where.uplink[i].Addr()}
		if name == nodeName {
			route = Route{To: own, Device: PodBridge}
		}
		if err := c.Host(name).AddRoute(route); err != nil {
			return err
		}
	}
	return nil
}

// Addr returns the address that a node or the client outside speaks with: of
// the family of like.
func (c *Cluster) Addr(host string, like netip.Addr) netip.Addr {
	return c.places[host].first(like)
}

func (p place) first(like netip.Addr) netip.Addr {
	if len(p.uplink) == 0 {
		return netip.Addr{}
	}
	return p.uplink[family(like)].Addr()
}

// links are the routes to the networks of another place on the fabric. The
// kernel made those to the networks that both have.
func (p place) links(other place) []Route {
	own := map[netip.Prefix]bool{}
	for _, a := range p.uplink {
		own[a.Masked()] = true
	}
	var routes []Route
	for _, a := range other.uplink {
		if !own[a.Masked()] {
			routes = append(routes, Route{To: a.Masked(), Device: Uplink, Src: p.first(a.Addr())})
		}
	}
	return routes
}

// family is the index of an address in lists that have IPv4 first.
func family(addr netip.Addr) int {
	if addr.Is6() {
		return 1
	}
	return 0
}

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, t := range texts {
		list[i] = netip.MustParsePrefix(t)
	}
	return list
}

func addrs(texts ...string) []netip.Addr {
	list := make([]netip.Addr, len(texts))
	for i, t := range texts {
		list[i] = netip.MustParseAddr(t)
	}
	return list
}
