package proxiertest

import (
	"fmt"
	"net/netip"
	"strings"

	"switchyard/proxier"
)

// Names of the laboratory: the node under test, another node, the bridge of the
// pods of the node under test, and its interface to everybody else.
const (
	NodeName       = "node-a"
	OtherNodeName  = "node-b"
	PodBridge      = "cbr0"
	OuterInterface = "eth0"
)

// Lab is the laboratory's addresses of one family. The laboratory is fixed, so
// that an address read in a failing test means something to the reader.
type Lab struct {
	Family proxier.Family

	Node      netip.Addr // primary address of node-a, the node under test
	NodeExtra netip.Addr // another address of node-a that its Node object does not list
	OtherNode netip.Addr // node-b
	Loopback  netip.Addr

	PodA, PodA2, PodB netip.Addr // pods that are no endpoints, two of node-a and one of node-b
	Outside, Outside2 netip.Addr // clients outside of the cluster

	Pods       netip.Prefix // of all nodes: the cluster CIDR
	NodePods   netip.Prefix // of node-a
	OtherPods  netip.Prefix // of node-b
	ClusterIPs netip.Prefix
	Externals  netip.Prefix // externalIPs
	VIPs       netip.Prefix // of load balancers
}

// LabOf returns the addresses of one family.
func LabOf(f proxier.Family) Lab {
	if f == proxier.IPv6 {
		return labIPv6()
	}
	return labIPv4()
}

func labIPv4() Lab {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	return Lab{
		Family:     proxier.IPv4,
		Node:       addr("192.168.0.2"),
		NodeExtra:  addr("192.168.7.2"),
		OtherNode:  addr("192.168.0.3"),
		Loopback:   addr("127.0.0.1"),
		PodA:       addr("10.180.0.100"),
		PodA2:      addr("10.180.0.101"),
		PodB:       addr("10.180.1.100"),
		Outside:    addr("203.0.113.7"),
		Outside2:   addr("203.0.113.8"),
		Pods:       prefix("10.180.0.0/16"),
		NodePods:   prefix("10.180.0.0/24"),
		OtherPods:  prefix("10.180.1.0/24"),
		ClusterIPs: prefix("172.30.0.0/16"),
		Externals:  prefix("192.0.2.0/24"),
		VIPs:       prefix("198.51.100.0/24"),
	}
}

func labIPv6() Lab {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	return Lab{
		Family:     proxier.IPv6,
		Node:       addr("fd00:192:168::2"),
		NodeExtra:  addr("fd00:192:168:7::2"),
		OtherNode:  addr("fd00:192:168::3"),
		Loopback:   addr("::1"),
		PodA:       addr("fd00:10:180::100"),
		PodA2:      addr("fd00:10:180::101"),
		PodB:       addr("fd00:10:180:0:1::100"),
		Outside:    addr("2001:db8:113::7"),
		Outside2:   addr("2001:db8:113::8"),
		Pods:       prefix("fd00:10:180::/64"),
		NodePods:   prefix("fd00:10:180::/80"),
		OtherPods:  prefix("fd00:10:180:0:1::/80"),
		ClusterIPs: prefix("fd00:172:30::/112"),
		Externals:  prefix("2001:db8:192::/64"),
		VIPs:       prefix("2001:db8:198::/64"),
	}
}

// Local returns the node's own addresses as proxier.Node.Local has them: sorted,
// loopback left out.
func (l Lab) Local() []netip.Addr { return []netip.Addr{l.Node, l.NodeExtra} }

// PodAt is the n-th address for endpoints of node-a (n from 2 to 99).
func (l Lab) PodAt(n int) netip.Addr { return at(l.NodePods, n) }

// OtherPodAt is the n-th address for endpoints of node-b (n from 2 to 99).
func (l Lab) OtherPodAt(n int) netip.Addr { return at(l.OtherPods, n) }

// at returns the address of a prefix with its last byte set. IPv6 addresses are
// written as people do: the decimal digits of n, read as hexadecimal.
func at(p netip.Prefix, n int) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	if p.Addr().Is6() {
		n = n/10*16 + n%10
	}
	b[len(b)-1] = byte(n)
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

// Host is a place of the laboratory that packets come from.
type Host string

// The hosts.
const (
	FromNode         Host = "node"     // node-a, from the address that its routing chooses
	FromNodeLoopback Host = "node-lo"  // node-a, from 127.0.0.1 or ::1
	FromOtherNode    Host = "node-b"   // another node
	FromPodA         Host = "pod-a"    // a pod of node-a that is no endpoint
	FromPodA2        Host = "pod-a2"   // another one
	FromPodB         Host = "pod-b"    // a pod of node-b
	FromPod          Host = "pod"      // any pod, by its address: "pod@10.180.0.2"
	FromOutside      Host = "outside"  // a client outside of the cluster
	FromOutside2     Host = "outside2" // another one
)

// Hosts lists every Host.
func Hosts() []Host {
	return []Host{FromNode, FromNodeLoopback, FromOtherNode, FromPodA, FromPodA2,
		FromPodB, FromPod, FromOutside, FromOutside2}
}

// Source returns the source address and the input interface of a packet from a
// place ("pod-a", "node@198.51.100.1") to an address. It is an error if the place
// does not exist or has no address of that family.
func Source(place string, dst netip.Addr) (netip.Addr, string, error) {
	name, given, explicit := strings.Cut(place, "@")
	lab := LabOf(proxier.FamilyOf(dst))
	src, err := lab.address(Host(name), dst)
	if explicit && (err == nil || Host(name) == FromPod) {
		src, err = netip.ParseAddr(given)
	}
	if err != nil {
		return netip.Addr{}, "", fmt.Errorf("source %q: %w", place, err)
	}
	if proxier.FamilyOf(src) != lab.Family {
		return netip.Addr{}, "", fmt.Errorf("source %q: %s is not an %s address, as %s is", place, src, lab.Family, dst)
	}
	return src, lab.enters(Host(name), src), nil
}

func (l Lab) address(h Host, dst netip.Addr) (netip.Addr, error) {
	addrs := map[Host]netip.Addr{
		FromNode:         l.nodeSource(dst),
		FromNodeLoopback: l.Loopback,
		FromOtherNode:    l.OtherNode,
		FromPodA:         l.PodA,
		FromPodA2:        l.PodA2,
		FromPodB:         l.PodB,
		FromOutside:      l.Outside,
		FromOutside2:     l.Outside2,
	}
	if addr, ok := addrs[h]; ok {
		return addr, nil
	}
	if h == FromPod {
		return netip.Addr{}, fmt.Errorf("an address must follow: %q", "pod@10.180.0.2")
	}
	return netip.Addr{}, fmt.Errorf("no such host, there are %v", Hosts())
}

// nodeSource is what routing chooses on the node: the kernel answers a packet to
// one of the node's own addresses from that address.
func (l Lab) nodeSource(dst netip.Addr) netip.Addr {
	if dst.IsLoopback() || dst == l.NodeExtra {
		return dst
	}
	return l.Node
}

// enters tells the interface by which a packet enters the node.
func (l Lab) enters(h Host, src netip.Addr) string {
	switch {
	case h == FromNode || h == FromNodeLoopback:
		return ""
	case l.NodePods.Contains(src):
		return PodBridge
	}
	return OuterInterface
}
