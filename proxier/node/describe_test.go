package node

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
)

func addrs(list string) []netip.Addr {
	var addrs []netip.Addr
	for f := range strings.FieldsSeq(list) {
		addrs = append(addrs, netip.MustParseAddr(f))
	}
	return addrs
}

func cidrs(list string) []netip.Prefix {
	var cidrs []netip.Prefix
	for f := range strings.FieldsSeq(list) {
		cidrs = append(cidrs, netip.MustParsePrefix(f))
	}
	return cidrs
}

// The machine of these tests: two addresses a family, and what every machine has.
const machine = "127.0.0.1 ::1 fe80::1 192.168.0.2 10.0.0.1 10.0.0.1 fd00::2 fd00::1 169.254.1.1"

func TestNodePortAddresses(t *testing.T) {
	const any = "any"
	for _, c := range []struct {
		selection    string // nodePortAddresses
		node         string // addresses of the Node object
		v4, v6       string // where NodePorts answer
		localhost    bool   // and on 127.0.0.1, with localhost NodePorts on
		bind, reason string
	}{
		{selection: "", v4: any, v6: any, localhost: true},
		{selection: "all", v4: any, v6: any, localhost: true},
		{selection: "0.0.0.0/0", v4: any, v6: "", localhost: true},
		{selection: "::/0", v4: "", v6: any},
		{selection: "10.0.0.0/8", v4: "10.0.0.1", v6: ""},
		{selection: "10.0.0.0/8 192.168.0.0/16 fd00::1/128", v4: "10.0.0.1 192.168.0.2", v6: "fd00::1"},
		{selection: "10.0.0.0/8 10.0.0.1/32", v4: "10.0.0.1", v6: "", reason: "no address twice"},
		{selection: "172.16.0.0/12", v4: "", v6: ""},
		{selection: "localhost", v4: "", v6: "", localhost: true},
		{selection: "localhost 10.0.0.0/8", v4: "10.0.0.1", v6: "", localhost: true},
		{selection: "127.0.0.0/8", v4: "", v6: "", localhost: true},
		{selection: "127.0.0.1/32", v4: "", v6: "", localhost: true},
		{selection: "126.0.0.0/7", v4: "", v6: "", localhost: true},
		{selection: "::1/128", v4: "", v6: "", reason: "never on ::1"},
		{selection: "primary", node: "10.0.0.1 fd00::1", v4: "10.0.0.1", v6: "fd00::1"},
		{selection: "primary", node: "10.0.0.1", v4: "10.0.0.1", v6: "", reason: "no IPv6 node IP: closed, not open"},
		{selection: "primary", node: "", v4: "", v6: "", reason: "node unknown: closed, not open"},
		{selection: "primary", node: "127.0.0.1", v4: "", v6: "", reason: "loopback is no node IP"},
		{selection: "primary", node: "10.0.0.1 192.168.0.2", v4: "10.0.0.1", v6: "", reason: "the first"},
		{selection: "primary", node: "10.0.0.1", bind: "192.168.0.2", v4: "192.168.0.2", v6: ""},
		{selection: "primary", node: "10.0.0.1", bind: "0.0.0.0", v4: "10.0.0.1", v6: ""},
		{selection: "primary", node: "10.9.9.9", v4: "10.9.9.9", v6: "", reason: "also while the machine lacks it"},
		{selection: "primary fd00::/64", node: "10.0.0.1", v4: "10.0.0.1", v6: "fd00::1 fd00::2"},
		{selection: "primary 192.168.0.0/16", node: "10.0.0.1", v4: "10.0.0.1 192.168.0.2", v6: ""},
	} {
		t.Run(fmt.Sprintf("%s on %s bind %s", c.selection, c.node, c.bind), func(t *testing.T) {
			s, err := ParseSelection(strings.Fields(c.selection))
			if err != nil {
				t.Fatal(err)
			}
			o := Options{NodePorts: s, LocalhostNodePorts: true}
			if c.bind != "" {
				o.BindAddress = netip.MustParseAddr(c.bind)
			}
			var n *cluster.Node
			if c.node != "" {
				n = &cluster.Node{Addresses: addrs(c.node)}
			}
			v4 := Describe(proxier.IPv4, n, addrs(machine), o).NodePorts
			v6 := Describe(proxier.IPv6, n, addrs(machine), o).NodePorts
			check := func(family proxier.Family, got proxier.NodePorts, want string) {
				if got.Any != (want == any) || want != any && !slices.Equal(got.Addrs, addrs(want)) {
					t.Errorf("%s: any %v, addresses %v; want %q (%s)", family, got.Any, got.Addrs, want, c.reason)
				}
			}
			check(proxier.IPv4, v4, c.v4)
			check(proxier.IPv6, v6, c.v6)
			if v4.Localhost != c.localhost || v6.Localhost {
				t.Errorf("localhost: IPv4 %v, want %v; IPv6 %v, want false (%s)", v4.Localhost, c.localhost, v6.Localhost, c.reason)
			}
			o.LocalhostNodePorts = false
			if Describe(proxier.IPv4, n, addrs(machine), o).NodePorts.Localhost {
				t.Error("localhost although localhost NodePorts are off")
			}
		})
	}
}

func TestLocalAddresses(t *testing.T) {
	for family, want := range map[proxier.Family]string{
		proxier.IPv4: "10.0.0.1 169.254.1.1 192.168.0.2",
		proxier.IPv6: "fd00::1 fd00::2",
	} {
		if got := Describe(family, nil, addrs(machine), Options{}).Local; !slices.Equal(got, addrs(want)) {
			t.Errorf("%s: %v, want %s", family, got, want)
		}
	}
}

func TestDetectPods(t *testing.T) {
	n := &cluster.Node{Name: "n1", PodCIDRs: cidrs("fd01::/64 10.1.0.0/24 10.2.0.0/24")}
	dual := cidrs("10.0.0.0/8 fd00::/48 172.16.0.0/12")
	for name, c := range map[string]struct {
		detect     Detect
		node       *cluster.Node
		v4, v6     string // ranges
		interfaces string
	}{
		"nothing configured":     {node: n},
		"no mode is ClusterCIDR": {detect: Detect{ClusterCIDRs: dual}, v4: "10.0.0.0/8", v6: "fd00::/48"},
		"first of each family":   {detect: Detect{Mode: ClusterCIDR, ClusterCIDRs: dual}, v4: "10.0.0.0/8", v6: "fd00::/48"},
		"one family only":        {detect: Detect{Mode: ClusterCIDR, ClusterCIDRs: dual[:1]}, v4: "10.0.0.0/8"},
		"NodeCIDR":               {detect: Detect{Mode: NodeCIDR, ClusterCIDRs: dual}, node: n, v4: "10.1.0.0/24", v6: "fd01::/64"},
		"NodeCIDR, no node":      {detect: Detect{Mode: NodeCIDR, ClusterCIDRs: dual}},
		"bridge":                 {detect: Detect{Mode: BridgeInterface, Bridge: "cni0", Prefix: "veth"}, node: n, interfaces: "cni0"},
		"prefix":                 {detect: Detect{Mode: InterfaceNamePrefix, Bridge: "cni0", Prefix: "veth"}, node: n, interfaces: "veth+"},
		"no prefix, not all":     {detect: Detect{Mode: InterfaceNamePrefix}},
		"unknown mode":           {detect: Detect{Mode: "Magic", ClusterCIDRs: dual}},
	} {
		t.Run(name, func(t *testing.T) {
			for family, want := range map[proxier.Family]string{proxier.IPv4: c.v4, proxier.IPv6: c.v6} {
				got := Describe(family, c.node, nil, Options{Detect: c.detect})
				if !slices.Equal(got.PodRanges, cidrs(want)) {
					t.Errorf("%s: ranges %v, want %q", family, got.PodRanges, want)
				}
				if !slices.Equal(got.PodInterfaces, strings.Fields(c.interfaces)) {
					t.Errorf("%s: interfaces %q, want %q", family, got.PodInterfaces, c.interfaces)
				}
			}
		})
	}
}

func TestName(t *testing.T) {
	n := &cluster.Node{Name: "n1"}
	for _, c := range []struct {
		option string
		node   *cluster.Node
		want   string
	}{{"n2", n, "n2"}, {"", n, "n1"}, {"", nil, ""}} {
		if got := Describe(proxier.IPv4, c.node, nil, Options{Name: c.option}).Name; got != c.want {
			t.Errorf("option %q, node %v: name %q, want %q", c.option, c.node, got, c.want)
		}
	}
}

func TestNodeIPs(t *testing.T) {
	for _, c := range []struct {
		node, bind string
		want       string
		primary    proxier.Family
	}{
		{node: "", want: "", primary: proxier.IPv4},
		{node: "10.0.0.1 fd00::1", want: "10.0.0.1 fd00::1", primary: proxier.IPv4},
		{node: "fd00::1 10.0.0.1", want: "fd00::1 10.0.0.1", primary: proxier.IPv6},
		{node: "10.0.0.1 10.0.0.2 fd00::1 fd00::2", want: "10.0.0.1 fd00::1", primary: proxier.IPv4},
		{node: "fd00::1", want: "fd00::1", primary: proxier.IPv6},
		{node: "10.0.0.1 fd00::1", bind: "fd00::9", want: "fd00::9 10.0.0.1", primary: proxier.IPv6},
		{node: "10.0.0.1 fd00::1", bind: "0.0.0.0", want: "10.0.0.1 fd00::1", primary: proxier.IPv4},
		{node: "10.0.0.1 fd00::1", bind: "::", want: "10.0.0.1 fd00::1", primary: proxier.IPv4},
		{node: "", bind: "10.0.0.9", want: "10.0.0.9", primary: proxier.IPv4},
	} {
		var bind netip.Addr
		if c.bind != "" {
			bind = netip.MustParseAddr(c.bind)
		}
		n := &cluster.Node{Addresses: addrs(c.node)}
		if got := NodeIPs(n, bind); !slices.Equal(got, addrs(c.want)) {
			t.Errorf("node %q, bind %q: %v, want %q", c.node, c.bind, got, c.want)
		}
		if got := PrimaryFamily(n, bind); got != c.primary {
			t.Errorf("node %q, bind %q: primary family %s, want %s", c.node, c.bind, got, c.primary)
		}
	}
}
