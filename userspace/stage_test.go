package userspace

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/test/netlab"
	"switchyard/userspace/keeper"
	"switchyard/userspace/relay"
)

var vip = netip.MustParseAddrPort("172.30.0.41:80")

// podAddr is the IPv4 address of a standard pod.
func podAddr(name string) netip.Addr {
	for _, p := range netlab.StandardPods() {
		if p.Name == name {
			return p.Addrs[0]
		}
	}
	return netip.Addr{}
}

func endpointsOn(port uint16, pods ...string) []proxier.Endpoint {
	var list []proxier.Endpoint
	for _, p := range pods {
		list = append(list, proxier.Endpoint{Addr: netip.AddrPortFrom(podAddr(p), port)})
	}
	return list
}

// web is a ClusterIP service.
func web(p proxier.Protocol, eps ...proxier.Endpoint) *proxier.Service {
	to := proxier.ToCluster
	if len(eps) == 0 {
		to = proxier.ToReject
	}
	return &proxier.Service{
		Name: proxier.ServicePort{Namespace: "default", Service: "web"}, Protocol: p,
		Frontends: []proxier.Frontend{{Kind: proxier.ClusterIP, Addr: vip,
			Routes: []proxier.Route{{From: proxier.FromAnyone, To: to}}}},
		Cluster: eps,
	}
}

func stateOf(services ...*proxier.Service) *proxier.State {
	return &proxier.State{Family: proxier.IPv4, Services: services,
		Node: proxier.Node{Local: []netip.Addr{netip.MustParseAddr("192.168.0.2")}, NodePorts: proxier.NodePorts{Any: true}}}
}

// lab is a cluster whose node-a runs the backend.
type lab struct {
	*netlab.Cluster
	t *testing.T
}

func newLab(t *testing.T) *lab {
	t.Helper()
	c, err := netlab.NewCluster("relay", netlab.StandardPods()...)
	if err != nil {
		t.Skip("needs root: network namespaces: ", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return &lab{c, t}
}

// open starts a backend on node-a, as a process that comes beside those before would.
func (l *lab) open(s proxier.Settings) *Backend {
	l.t.Helper()
	var b *Backend
	l.on(func() error {
		opened, about, err := open(context.Background(), proxier.IPv4, s)
		if err != nil {
			return err
		}
		l.t.Log(about)
		b = opened.(*Backend)
		return nil
	})
	l.t.Cleanup(func() { _ = b.Close() })
	return b
}

// keep has a keeper of sockets on node-a, in this process.
func (l *lab) keep() {
	l.t.Helper()
	l.on(func() error {
		door, err := keeper.Listen(relay.Port)
		if err == nil {
			go keeper.Serve(door, time.Minute)
			l.t.Cleanup(func() { _ = door.Close() })
		}
		return err
	})
}

func (l *lab) on(f func() error) {
	l.t.Helper()
	if err := l.Host(netlab.NodeA).Do(f); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) apply(b *Backend, s *proxier.State) proxier.Report {
	l.t.Helper()
	var report proxier.Report
	l.on(func() (err error) {
		report, err = b.Apply(context.Background(), s)
		return err
	})
	return report
}

func (l *lab) serve(p proxier.Protocol, port uint16, pods ...string) {
	l.t.Helper()
	for _, pod := range pods {
		if err := l.Serve(l.Host(pod), p, netip.AddrPortFrom(podAddr(pod), port), pod); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *lab) probe(p proxier.Protocol) netlab.Result {
	return l.Host("pod-a3").Probe(context.Background(), netlab.Probe{Protocol: p, Dst: vip, Timeout: 3 * time.Second})
}

func (l *lab) save() string {
	l.t.Helper()
	out, err := l.Host(netlab.NodeA).Output(context.Background(), "sh", "-c",
		"iptables-nft-save -t nat; iptables-nft-save -t filter")
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

func counters(b *Backend, p proxier.Protocol) proxier.Traffic {
	for _, t := range b.Traffic() {
		if t.Service == (proxier.ServicePort{Namespace: "default", Service: "web"}) && t.Protocol == p {
			return t
		}
	}
	return proxier.Traffic{}
}

var _ kernel = (*ruleset.Tool)(nil)

// relayOpen opens a relay in the namespace of the calling thread.
func relayOpen() (*relay.Relay, string, error) {
	return relay.Open(relay.Options{Family: proxier.IPv4, Port: relay.Port, MarkBit: 14})
}
