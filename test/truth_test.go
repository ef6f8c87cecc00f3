package test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"switchyard/iptables"
	"switchyard/iptables/ruleset"
	"switchyard/ipvs"
	"switchyard/proxier"
	"switchyard/proxier/node"
	"switchyard/proxier/proxiertest"
	"switchyard/test/netlab"
	"switchyard/test/uml"
	"switchyard/userspace"
)

// TestTruthNFT and its like play every scenario with real packets through a real
// kernel: hosts are network namespaces, a backend programs node-a, one scenario
// after the other. A new backend is one more of them.
func TestTruthNFT(t *testing.T) { playAll(t, iptablesTroupe(ruleset.NFT)) }

// TestTruthLegacy is the same through the legacy tables.
func TestTruthLegacy(t *testing.T) { playAll(t, iptablesTroupe(ruleset.Legacy)) }

// TestTruthIPVS is the same in a kernel that has IPVS, and SCTP.
func TestTruthIPVS(t *testing.T) {
	uml.Tests(t, uml.Options{Timeout: 20 * time.Minute},
		uml.Case{Name: "scenarios", Test: func(t *testing.T) { playAll(t, ipvsTroupe()) }})
}

// TestTruthUserspace is the same through a relay.
func TestTruthUserspace(t *testing.T) { playAll(t, userspaceTroupe()) }

// TestTruthInUML shows that what the other kernel tells can be believed: a backend
// that is known from this one fares the same in it. A few scenarios of each kind do.
func TestTruthInUML(t *testing.T) {
	uml.Tests(t, uml.Options{}, uml.Case{Name: "scenarios", Test: func(t *testing.T) {
		l := newTheatre(t, iptablesTroupe(ruleset.Legacy))
		for i, s := range scenarios(t) {
			if i%30 == 0 || strings.Contains(s.Name, "sctp") {
				t.Run(s.Name, func(t *testing.T) { l.play(t, s) })
			}
		}
		if l.leftOut > 0 || l.sent == 0 {
			t.Errorf("%d packets sent, %d left out", l.sent, l.leftOut)
		}
	}})
}

// troupe is who plays.
type troupe struct {
	open func(context.Context, proxier.Family) (proxier.Backend, error)
	// flavour is that of iptables by which the stage is set.
	flavour ruleset.Flavour
	// differs changes what a packet is to expect where this backend cannot do as the
	// others do, and names the difference, as docs/differences.md does; "": there is
	// none. nil: nowhere.
	differs func(*proxiertest.Packet) string
	// perform brings a scenario to node-a; nil: by Apply of the backends that open
	// opens.
	perform func(*testing.T, proxiertest.Scenario)
}

// truthSettings are those of all backends that play.
var truthSettings = proxier.Settings{MasqueradeBit: 14}

func iptablesTroupe(flavour ruleset.Flavour) troupe {
	return troupe{flavour: flavour, open: func(ctx context.Context, f proxier.Family) (proxier.Backend, error) {
		tool, err := ruleset.Find(ctx, f, flavour)
		if err != nil {
			return nil, err
		}
		return iptables.New(tool, truthSettings), nil
	}}
}

// driverTroupe opens a backend as kube-proxy does.
func driverTroupe(d proxier.Driver) troupe {
	flavour := ruleset.NFT
	if uml.Inside() {
		flavour = ruleset.Legacy
	}
	return troupe{flavour: flavour, open: func(ctx context.Context, f proxier.Family) (proxier.Backend, error) {
		b, _, err := d.Open(ctx, f, truthSettings)
		return b, err
	}}
}

func ipvsTroupe() troupe {
	who := driverTroupe(ipvs.Driver())
	who.differs = func(p *proxiertest.Packet) string {
		switch {
		case p.Want.Verdict != proxier.Forward:
		case p.Dst.Addr().IsLoopback():
			p.Want.Verdict, p.Want.Endpoints = proxier.Reject, nil
			return localhost
		case p.From == string(proxiertest.FromNode) && masquerade(p):
			return ownSource
		}
		return ""
	}
	return who
}

func userspaceTroupe() troupe {
	who := driverTroupe(userspace.Driver())
	who.differs = func(p *proxiertest.Packet) string {
		if p.Want.Verdict == proxier.Forward && masquerade(p) {
			return "an endpoint sees the relay, not the client"
		}
		return ""
	}
	return who
}

// masquerade makes all endpoints expect an address of the node, and reports whether
// one did not before.
func masquerade(p *proxiertest.Packet) (changed bool) {
	p.Want.Endpoints = slices.Clone(p.Want.Endpoints)
	for i := range p.Want.Endpoints {
		changed = changed || !p.Want.Endpoints[i].Masq
		p.Want.Endpoints[i].Masq = true
	}
	return changed
}

func playAll(t *testing.T, who troupe) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	l := newTheatre(t, who)
	for _, s := range scenarios(t) {
		t.Run(s.Name, func(t *testing.T) { l.play(t, s) })
	}
	t.Logf("%d packets sent, %d of SCTP left out (the kernel has SCTP sockets: %v)", l.sent, l.leftOut, netlab.HasSCTP())
	for name, n := range l.differed {
		t.Logf("%d packets of a named difference: %s", n, name)
	}
	if l.sent < 500 {
		t.Errorf("only %d packets were sent", l.sent)
	}
}

// theatre is the laboratory made real.
type theatre struct {
	*netlab.Cluster
	troupe
	backends map[proxier.Family]proxier.Backend
	pods     map[netip.Addr]*netlab.Host
	served   map[server]bool
	lent     map[netip.Addr]bool // addresses that a host has for this scenario
	masked   map[netip.Addr]bool // addresses of node-a that masquerading can choose
	sent     int
	leftOut  int // packets of SCTP, where the kernel has none
	differed map[string]int
}

type server struct {
	protocol proxier.Protocol
	addr     netip.AddrPort
}

func newTheatre(t *testing.T, who troupe) *theatre {
	t.Helper()
	c, err := netlab.NewCluster("truth")
	if err != nil {
		t.Fatal(err)
	}
	backends := map[proxier.Family]proxier.Backend{}
	t.Cleanup(func() {
		var errs []error
		for _, b := range backends {
			errs = append(errs, b.Close())
		}
		if err := errors.Join(append(errs, c.Close())...); err != nil {
			t.Error(err)
		}
	})
	if err := routeServices(c); err != nil {
		t.Fatal(err)
	}
	l := &theatre{
		Cluster: c, troupe: who, backends: backends,
		pods: map[netip.Addr]*netlab.Host{}, served: map[server]bool{}, lent: map[netip.Addr]bool{}, masked: map[netip.Addr]bool{},
		differed: map[string]int{},
	}
	err = c.Host(netlab.NodeA).Do(func() (err error) {
		for _, f := range families {
			if who.open == nil {
				break
			}
			if backends[f], err = who.open(context.Background(), f); err != nil {
				return err
			}
		}
		addrs, err := node.Addresses()
		for _, a := range addrs {
			l.masked[a] = true
		}
		_, errLocal := node.EnableRouteLocalnet()
		return errors.Join(err, errLocal)
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// routeServices makes node-b, which runs no proxy, take node-a's.
func routeServices(c *netlab.Cluster) error {
	for _, f := range families {
		lab := proxiertest.LabOf(f)
		for _, to := range []netip.Prefix{lab.ClusterIPs, lab.VIPs, lab.Externals} {
			route := netlab.Route{To: to, Device: netlab.Uplink, Via: lab.Node, Src: lab.OtherNode}
			if err := c.Host(netlab.NodeB).AddRoute(route); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *theatre) play(t *testing.T, s proxiertest.Scenario) {
	st := stageScenario(t, s)
	if l.perform != nil {
		l.perform(t, s)
	}
	for f := range l.backends {
		l.apply(t, st.states[f])
	}
	if err := l.Host(netlab.NodeA).ForgetFlows(); err != nil {
		t.Fatal(err)
	}
	if s.Has("feature forward-accept") {
		l.policy(t, "DROP")
		t.Cleanup(func() { l.policy(t, "ACCEPT") })
	}
	var acts []*act
	for _, p := range s.Packets {
		if p.Protocol == proxier.SCTP && !netlab.HasSCTP() {
			l.leftOut++
			continue
		}
		if l.differs != nil {
			if name := l.differs(&p); name != "" {
				l.differed[name]++
			}
		}
		host, src := l.source(t, p)
		for _, ep := range p.Want.Endpoints {
			l.serve(t, p.Protocol, ep.Addr)
		}
		acts = append(acts, &act{theatre: l, packet: p, host: host, src: src})
	}
	l.sent += len(acts)
	var wait sync.WaitGroup
	for _, a := range acts {
		wait.Go(func() {
			if err := a.play(); err != nil {
				p := a.packet
				t.Errorf("line %d: %s %s -> %s %s: %v", p.Line, p.Protocol, p.From, p.Dst, p.Want, err)
			}
		})
		if a.packet.Want.Sticky {
			wait.Wait() // a client that comes by two ways at once is remembered twice
		}
	}
	wait.Wait()
}

func (l *theatre) apply(t *testing.T, state *proxier.State) {
	t.Helper()
	var report proxier.Report
	err := l.Host(netlab.NodeA).Do(func() (err error) {
		report, err = l.backends[state.Family].Apply(context.Background(), state)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range report.SetAside {
		t.Errorf("set aside: %s", s)
	}
}

// policy is what becomes of forwarded packets on node-a that no rule decides.
func (l *theatre) policy(t *testing.T, verdict string) {
	for _, program := range []string{"iptables", "ip6tables"} {
		program += "-" + string(l.flavour)
		if _, err := l.Host(netlab.NodeA).Output(context.Background(), program, "-P", "FORWARD", verdict); err != nil {
			t.Error(err)
		}
	}
}

// source is the host that sends a packet, and from which address; no address:
// routing chooses. Pods come into being when they are first needed.
func (l *theatre) source(t *testing.T, p proxiertest.Packet) (*netlab.Host, netip.Addr) {
	t.Helper()
	place, _, explicit := strings.Cut(p.From, "@")
	switch proxiertest.Host(place) {
	case proxiertest.FromNode:
		if explicit {
			l.lend(t, l.Host(netlab.NodeA), p.Src)
			return l.Host(netlab.NodeA), p.Src
		}
		return l.Host(netlab.NodeA), netip.Addr{}
	case proxiertest.FromNodeLoopback:
		return l.Host(netlab.NodeA), p.Src
	case proxiertest.FromOtherNode:
		return l.Host(netlab.NodeB), p.Src
	case proxiertest.FromOutside, proxiertest.FromOutside2:
		if explicit {
			l.lend(t, l.Host(netlab.Outside), p.Src)
		}
		return l.Host(netlab.Outside), p.Src
	}
	return l.hostOf(t, p.Src), p.Src
}

// lend gives a host an address for the rest of the scenario, as a load balancer's
// agent would.
func (l *theatre) lend(t *testing.T, host *netlab.Host, addr netip.Addr) {
	t.Helper()
	if l.lent[addr] {
		return
	}
	if err := host.AddAddr("lo", netip.PrefixFrom(addr, addr.BitLen())); err != nil {
		t.Fatal(err)
	}
	l.lent[addr] = true
	t.Cleanup(func() {
		delete(l.lent, addr)
		if _, err := host.Output(context.Background(), "ip", "addr", "del", addr.String(), "dev", "lo"); err != nil {
			t.Error(err)
		}
	})
}

// hostOf is the host that has an address: a node, or a pod that is made now.
func (l *theatre) hostOf(t *testing.T, addr netip.Addr) *netlab.Host {
	t.Helper()
	lab := proxiertest.LabOf(proxier.FamilyOf(addr))
	switch {
	case l.masked[addr]:
		return l.Host(netlab.NodeA)
	case addr == lab.OtherNode:
		return l.Host(netlab.NodeB)
	}
	if h := l.pods[addr]; h != nil {
		return h
	}
	on := netlab.NodeA
	if lab.OtherPods.Contains(addr) {
		on = netlab.NodeB
	}
	h, err := l.AddPod(netlab.Pod{Name: fmt.Sprintf("pod-%d", len(l.pods)), Node: on, Addrs: []netip.Addr{addr}})
	if err != nil {
		t.Fatal(err)
	}
	l.pods[addr] = h
	return h
}

func (l *theatre) serve(t *testing.T, protocol proxier.Protocol, addr netip.AddrPort) {
	t.Helper()
	if l.served[server{protocol, addr}] {
		return
	}
	l.served[server{protocol, addr}] = true
	if err := l.Serve(l.hostOf(t, addr.Addr()), protocol, addr, addr.String()); err != nil {
		t.Fatal(err)
	}
}
