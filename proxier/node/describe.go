package node

import (
	"net/netip"
	"slices"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
)

// Mode is a way to tell a pod's packet from others (--detect-local-mode).
type Mode string

// The modes, spelled as in the configuration file. The empty Mode is
// ClusterCIDR.
const (
	ClusterCIDR         Mode = "ClusterCIDR"
	NodeCIDR            Mode = "NodeCIDR"
	BridgeInterface     Mode = "BridgeInterface"
	InterfaceNamePrefix Mode = "InterfaceNamePrefix"
)

// Detect tells how a pod's packet is known. Only the fields of its Mode count.
type Detect struct {
	Mode         Mode
	ClusterCIDRs []netip.Prefix // ClusterCIDR: the first of each family counts
	Bridge       string         // BridgeInterface: the bridge's name
	Prefix       string         // InterfaceNamePrefix: without wildcard
}

// Options is what the configuration says about the node.
type Options struct {
	Name               string // empty: the name of the Node object
	Detect             Detect
	NodePorts          Selection
	LocalhostNodePorts bool       // --iptables-localhost-nodeports
	BindAddress        netip.Addr // overrides the node's primary IP if specified
}

// Describe returns what the node adds to the State of one family: n is the Node
// of the API, nil while it is not known; local are all addresses of the machine,
// both families, in any order.
func Describe(family proxier.Family, n *cluster.Node, local []netip.Addr, o Options) proxier.Node {
	d := proxier.Node{Name: o.Name, Local: own(family, local)}
	if d.Name == "" && n != nil {
		d.Name = n.Name
	}
	d.PodRanges, d.PodInterfaces = o.Detect.pods(family, n)
	d.NodePorts = nodePorts(family, d.Local, NodeIPs(n, o.BindAddress), o)
	return d
}

// own leaves out what no other machine can reach as this node: loopback, and
// IPv6 link-local, which without its zone is everybody's address.
func own(family proxier.Family, local []netip.Addr) []netip.Addr {
	var own []netip.Addr
	for _, addr := range local {
		addr = addr.Unmap().WithZone("")
		linkLocal := addr.Is6() && addr.IsLinkLocalUnicast()
		if proxier.FamilyOf(addr) != family || addr.IsLoopback() || addr.IsUnspecified() || linkLocal {
			continue
		}
		own = append(own, addr)
	}
	slices.SortFunc(own, netip.Addr.Compare)
	return slices.Compact(own)
}

func (d Detect) pods(family proxier.Family, n *cluster.Node) (ranges []netip.Prefix, interfaces []string) {
	switch d.Mode {
	case ClusterCIDR, "":
		return first(family, d.ClusterCIDRs), nil
	case NodeCIDR:
		if n != nil {
			return first(family, n.PodCIDRs), nil
		}
	case BridgeInterface:
		if d.Bridge != "" {
			return nil, []string{d.Bridge}
		}
	case InterfaceNamePrefix:
		if d.Prefix != "" {
			return nil, []string{d.Prefix + "+"}
		}
	}
	return nil, nil
}

func first(family proxier.Family, cidrs []netip.Prefix) []netip.Prefix {
	for _, c := range cidrs {
		if proxier.FamilyOf(c.Addr()) == family {
			return []netip.Prefix{c.Masked()}
		}
	}
	return nil
}

// nodePorts takes the primary IP whether or not the machine has it at this
// moment: an address that is renewed must not close its NodePorts meanwhile.
func nodePorts(family proxier.Family, own, nodeIPs []netip.Addr, o Options) proxier.NodePorts {
	s := o.NodePorts
	ports := proxier.NodePorts{
		// The kernel routes 127.0.0.0/8 out of the host on request
		// (route_localnet); it never does so for ::1.
		Localhost: family == proxier.IPv4 && o.LocalhostNodePorts && s.loopback(family),
	}
	if s.everything(family) {
		ports.Any = true
		return ports
	}
	for _, addr := range own {
		if s.contains(addr) {
			ports.Addrs = append(ports.Addrs, addr)
		}
	}
	for _, ip := range nodeIPs {
		if s.Primary && proxier.FamilyOf(ip) == family {
			ports.Addrs = append(ports.Addrs, ip)
		}
	}
	slices.SortFunc(ports.Addrs, netip.Addr.Compare)
	ports.Addrs = slices.Compact(ports.Addrs)
	return ports
}

// NodeIPs returns the node's IP of each family that it has one of, the primary
// family first: the first address of the Node object, then the first of the
// other family. A specified bind address (valid and not 0.0.0.0 or ::) takes the
// place of its family's and is the primary. Loopback addresses are nobody's node
// IP.
func NodeIPs(n *cluster.Node, bind netip.Addr) []netip.Addr {
	candidates := []netip.Addr{bind}
	if n != nil {
		candidates = append(candidates, n.Addresses...)
	}
	var ips []netip.Addr
	for _, c := range candidates {
		c = c.Unmap()
		family := proxier.FamilyOf(c)
		if family == 0 || c.IsUnspecified() || c.IsLoopback() {
			continue
		}
		taken := slices.ContainsFunc(ips, func(ip netip.Addr) bool { return proxier.FamilyOf(ip) == family })
		if !taken {
			ips = append(ips, c)
		}
	}
	return ips
}

// PrimaryFamily is the family of the node's first IP, see NodeIPs; IPv4 while
// the node has none.
func PrimaryFamily(n *cluster.Node, bind netip.Addr) proxier.Family {
	if ips := NodeIPs(n, bind); len(ips) > 0 {
		return proxier.FamilyOf(ips[0])
	}
	return proxier.IPv4
}
