package userspace

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"switchyard/proxier"
	"switchyard/test/netlab"
)

// TestIPv6 holds the same in the other family: an address that is asked by TCP and by
// UDP, from a pod, the node and outside, a node port, an endpoint that refuses, and a
// Service without endpoints.
func TestIPv6(t *testing.T) {
	l := newLab(t)
	addr := func(pod string) netip.AddrPort {
		for _, p := range netlab.StandardPods() {
			if p.Name == pod {
				return netip.AddrPortFrom(p.Addrs[1], 8080)
			}
		}
		return netip.AddrPort{}
	}
	for _, p := range []proxier.Protocol{proxier.TCP, proxier.UDP} {
		for _, pod := range []string{"pod-a1", "pod-b1"} {
			if err := l.Serve(l.Host(pod), p, addr(pod), pod); err != nil {
				t.Fatal(err)
			}
		}
	}
	asked := netip.MustParseAddrPort("[fd00:172:30::41]:80")
	empty := netip.MustParseAddrPort("[fd00:172:30::42]:80")
	node := netip.MustParseAddr("fd00:192:168::2")
	service := func(name string, p proxier.Protocol, f proxier.Frontend, pods ...string) *proxier.Service {
		s := web(p)
		s.Name.Service = name
		to := proxier.ToReject
		for _, pod := range pods {
			to = proxier.ToCluster
			s.Cluster = append(s.Cluster, proxier.Endpoint{Addr: addr(pod)})
		}
		f.Routes = []proxier.Route{{From: proxier.FromAnyone, To: to}}
		s.Frontends = []proxier.Frontend{f}
		return s
	}
	clusterIP := proxier.Frontend{Kind: proxier.ClusterIP, Addr: asked}
	state := &proxier.State{Family: proxier.IPv6,
		Node: proxier.Node{Local: []netip.Addr{node}, NodePorts: proxier.NodePorts{Any: true}},
		Services: []*proxier.Service{
			service("empty", proxier.TCP, proxier.Frontend{Kind: proxier.ClusterIP, Addr: empty}),
			service("port", proxier.TCP, proxier.Frontend{Kind: proxier.NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, 30080)}, "pod-a1"),
			service("web", proxier.TCP, clusterIP, "pod-a1", "pod-a2", "pod-b1"), // nobody listens in pod-a2
			service("web", proxier.UDP, clusterIP, "pod-b1"),
		}}
	var b *Backend
	l.on(func() error {
		opened, about, err := open(context.Background(), proxier.IPv6, settings)
		if err == nil {
			t.Log(about)
			b = opened.(*Backend)
		}
		return err
	})
	defer b.Close()
	if r := l.apply(b, state); len(r.SetAside) > 0 {
		t.Fatal(r.SetAside)
	}
	ask := func(from string, p proxier.Protocol, to netip.AddrPort) netlab.Result {
		return l.Host(from).Probe(context.Background(), netlab.Probe{Protocol: p, Dst: to, Timeout: 3 * time.Second})
	}
	for _, from := range []string{"pod-a3", netlab.NodeA, netlab.Outside} {
		seen := map[string]int{}
		for range 6 {
			seen[ask(from, proxier.TCP, asked).Endpoint]++
		}
		if seen["pod-a1"]+seen["pod-b1"] != 6 || len(seen) != 2 {
			t.Errorf("from %s TCP reached %v", from, seen)
		}
		if r := ask(from, proxier.UDP, asked); r.Endpoint != "pod-b1" {
			t.Errorf("from %s UDP: %+v", from, r)
		}
		if r := ask(from, proxier.TCP, netip.AddrPortFrom(node, 30080)); r.Endpoint != "pod-a1" {
			t.Errorf("from %s the node port: %+v", from, r)
		}
		if r := ask(from, proxier.TCP, empty); r.Verdict != netlab.Refused {
			t.Errorf("from %s without endpoints: %+v", from, r)
		}
	}
	next := &proxier.State{Family: state.Family, Node: state.Node, Services: append(state.Services[:3:3],
		service("web", proxier.UDP, clusterIP, "pod-a2"))}
	l.apply(b, next)
	if r := ask("pod-a3", proxier.UDP, asked); r.Verdict != netlab.Refused {
		t.Errorf("nobody listens at the UDP endpoint: %+v", r)
	}
}
