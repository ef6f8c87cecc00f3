package proxiertest

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"switchyard/proxier"
)

func TestSource(t *testing.T) {
	for _, c := range []struct{ place, dst, src, in string }{
		{"node", "172.30.0.1", "192.168.0.2", ""},
		{"node", "192.168.7.2", "192.168.7.2", ""}, // routing's choice for its own address
		{"node", "127.0.0.1", "127.0.0.1", ""},
		{"node", "fd00:172:30::1", "fd00:192:168::2", ""},
		{"node-lo", "127.0.0.1", "127.0.0.1", ""},
		{"node-lo", "::1", "::1", ""},
		{"node@198.51.100.5", "198.51.100.5", "198.51.100.5", ""},
		{"node-b", "172.30.0.1", "192.168.0.3", "eth0"},
		{"pod-a", "172.30.0.1", "10.180.0.100", "cbr0"},
		{"pod-a", "fd00:172:30::1", "fd00:10:180::100", "cbr0"},
		{"pod-b", "fd00:172:30::1", "fd00:10:180:0:1::100", "eth0"},
		{"pod@10.180.0.2", "172.30.0.1", "10.180.0.2", "cbr0"},
		{"pod@10.180.1.2", "172.30.0.1", "10.180.1.2", "eth0"},
		{"outside", "172.30.0.1", "203.0.113.7", "eth0"},
		{"outside2", "fd00:172:30::1", "2001:db8:113::8", "eth0"},
	} {
		src, in, err := Source(c.place, netip.MustParseAddr(c.dst))
		if err != nil || src.String() != c.src || in != c.in {
			t.Errorf("%s to %s: %v by %q, %v; want %s by %q", c.place, c.dst, src, in, err, c.src, c.in)
		}
	}
}

func TestLabRangesAreApart(t *testing.T) {
	for _, f := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		l := LabOf(f)
		apart := []netip.Prefix{l.NodePods, l.OtherPods, l.ClusterIPs, l.Externals, l.VIPs}
		for i, p := range apart {
			for _, q := range apart[:i] {
				if p.Overlaps(q) {
					t.Errorf("%s and %s overlap", p, q)
				}
			}
		}
		for _, addr := range []netip.Addr{l.PodA, l.PodA2, l.PodAt(2), l.PodAt(99)} {
			if !l.NodePods.Contains(addr) || !l.Pods.Contains(addr) {
				t.Errorf("%s is not in %s", addr, l.NodePods)
			}
		}
		for _, addr := range []netip.Addr{l.PodB, l.OtherPodAt(2), l.OtherPodAt(99)} {
			if !l.OtherPods.Contains(addr) || !l.Pods.Contains(addr) {
				t.Errorf("%s is not in %s", addr, l.OtherPods)
			}
		}
		if !slices.IsSortedFunc(l.Local(), netip.Addr.Compare) {
			t.Errorf("%v is not sorted", l.Local())
		}
	}
}

func TestFateOf(t *testing.T) {
	ap := netip.MustParseAddrPort
	p := proxier.Packet{Protocol: proxier.TCP, Src: netip.MustParseAddr("10.180.0.2"), Dst: ap("172.30.0.1:80"), In: PodBridge}
	to := func(to proxier.To, masq bool) proxier.Frontend {
		return proxier.Frontend{Kind: proxier.ClusterIP, Addr: p.Dst,
			Routes: []proxier.Route{{From: proxier.FromAnyone, To: to, Masq: masq}}}
	}
	for _, c := range []struct {
		frontend proxier.Frontend
		affinity time.Duration
		want     string
	}{
		{to(proxier.ToCluster, false), 0, "forward 10.180.0.2:80(masq) 10.180.1.2:80"},
		{to(proxier.ToCluster, true), 0, "forward masq 10.180.0.2:80 10.180.1.2:80"},
		{to(proxier.ToCluster, false), 1, "forward sticky 10.180.0.2:80(masq) 10.180.1.2:80"},
		{to(proxier.ToDrop, false), 1, "drop"},
		{proxier.Frontend{Kind: proxier.ClusterIP, Addr: ap("172.30.0.2:80")}, 0, "pass"},
	} {
		state := proxier.State{Family: proxier.IPv4, Services: []*proxier.Service{{
			Protocol: proxier.TCP, Affinity: c.affinity, Frontends: []proxier.Frontend{c.frontend},
			Cluster: []proxier.Endpoint{{Addr: ap("10.180.1.2:80")}, {Addr: ap("10.180.0.2:80")}},
		}}}
		if got := FateOf(p, state.Decide(p)); got.String() != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
