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
	"syscall"
	"testing"
	"time"

	"switchyard/iptables"
	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/proxier/node"
	"switchyard/proxier/proxiertest"
	"switchyard/test/netlab"
)

// TestTruthNFT and TestTruthLegacy play every scenario with real packets through
// the real kernel: hosts are network namespaces, the rules are programmed by the
// backend, one scenario after the other on the same node.
func TestTruthNFT(t *testing.T) { playAll(t, ruleset.NFT) }

// TestTruthLegacy is the same through the legacy tables.
func TestTruthLegacy(t *testing.T) { playAll(t, ruleset.Legacy) }

func playAll(t *testing.T, flavour ruleset.Flavour) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	l := newTheatre(t, flavour)
	for _, s := range scenarios(t) {
		t.Run(s.Name, func(t *testing.T) { l.play(t, s) })
	}
	t.Logf("%d packets sent, %d of SCTP left out: the kernel has no SCTP sockets", l.sent, l.sctp)
	if l.sent < 500 {
		t.Errorf("only %d packets were sent", l.sent)
	}
}

// theatre is the laboratory made real.
type theatre struct {
	*netlab.Cluster
	flavour  ruleset.Flavour
	backends map[proxier.Family]*iptables.Backend
	pods     map[netip.Addr]*netlab.Host
	served   map[server]bool
	lent     map[netip.Addr]bool // addresses that a host has for this scenario
	masked   map[netip.Addr]bool // addresses of node-a that masquerading can choose
	sent     int
	sctp     int
}

type server struct {
	protocol proxier.Protocol
	addr     netip.AddrPort
}

func newTheatre(t *testing.T, flavour ruleset.Flavour) *theatre {
	t.Helper()
	c, err := netlab.NewCluster("truth")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := routeServices(c); err != nil {
		t.Fatal(err)
	}
	l := &theatre{
		Cluster: c, flavour: flavour, backends: map[proxier.Family]*iptables.Backend{},
		pods: map[netip.Addr]*netlab.Host{}, served: map[server]bool{}, lent: map[netip.Addr]bool{}, masked: map[netip.Addr]bool{},
	}
	err = c.Host(netlab.NodeA).Do(func() error {
		for _, f := range families {
			tool, err := ruleset.Find(context.Background(), f, flavour)
			if err != nil {
				return err
			}
			l.backends[f] = iptables.New(tool, proxier.Settings{MasqueradeBit: 14})
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
	for _, f := range families {
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
		if p.Protocol == proxier.SCTP {
			l.sctp++
			continue
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

// act is one packet line, played until it is clear what becomes of it.
type act struct {
	*theatre
	packet proxiertest.Packet
	host   *netlab.Host
	src    netip.Addr
	short  bool // do not wait long for an answer: not all come back
}

func (a *act) play() error {
	if a.packet.Want.Verdict == proxier.Forward {
		return a.playForward()
	}
	return a.judge(a.probe())
}

func (a *act) probe() netlab.Result {
	p := netlab.Probe{Protocol: a.packet.Protocol, Dst: a.packet.Dst, Timeout: 300 * time.Millisecond}
	if a.src.IsValid() {
		p.Src = netip.AddrPortFrom(a.src, 0)
	}
	switch {
	case a.packet.Want.Verdict == proxier.Forward && !a.short:
		p.Timeout = 3 * time.Second
	case a.packet.Want.Verdict == proxier.Reject:
		// Between namespaces an ICMPv6 error comes while connect still holds the
		// socket, which takes note only of the one for its second SYN, a second later.
		p.Timeout = 2 * time.Second
	}
	return a.host.Probe(context.Background(), p)
}

// judge compares what happened to a packet that no endpoint may see.
func (a *act) judge(r netlab.Result) error {
	ok := false
	switch a.packet.Want.Verdict {
	case proxier.Reject:
		ok = r.Verdict == netlab.Refused
	case proxier.Drop:
		// The kernel tells a sender on the node itself that its datagram was dropped.
		ok = r.Verdict == netlab.Timeout || errors.Is(r.Err, syscall.EPERM)
	case proxier.Pass:
		ok = r.Verdict != netlab.Answered || r.Endpoint == a.packet.Dst.String()
	}
	if !ok {
		return fmt.Errorf("it was %s by %q (%v)", r.Verdict, r.Endpoint, r.Err)
	}
	return nil
}

// playForward probes until every endpoint answered; none else may, and each must
// see the client that it should.
func (a *act) playForward() error {
	seen := map[string]int{}
	want := a.answering()
	a.short = len(want) < len(a.packet.Want.Endpoints)
	for range a.tries(len(want)) {
		r := a.probe()
		if a.short && r.Verdict == netlab.Timeout {
			continue
		}
		if r.Verdict != netlab.Answered {
			return fmt.Errorf("it was %s: %v", r.Verdict, r.Err)
		}
		if err := a.check(r); err != nil {
			return err
		}
		if seen[r.Endpoint]++; len(seen) == len(want) && !a.packet.Want.Sticky {
			return nil
		}
	}
	switch {
	case a.packet.Want.Sticky && len(seen) > 1:
		return fmt.Errorf("one client went to several endpoints: %v", seen)
	case a.packet.Want.Sticky || len(want) == 0:
		return nil
	}
	return fmt.Errorf("only %v answered", seen)
}

// tries is how often a packet is sent at most: until it would be a wonder (one in
// a million) if an endpoint had not been chosen, a few times to see that a client
// stays, and once where no answer can come back.
func (a *act) tries(answering int) int {
	switch {
	case answering == 0:
		return 1
	case a.packet.Want.Sticky && a.short:
		return 3
	case a.packet.Want.Sticky:
		return 10
	}
	return 20 * len(a.packet.Want.Endpoints)
}

func (a *act) check(r netlab.Result) error {
	i := slices.IndexFunc(a.packet.Want.Endpoints, func(e proxiertest.Endpoint) bool { return e.Addr.String() == r.Endpoint })
	if i < 0 {
		return fmt.Errorf("it was answered by %s", r.Endpoint)
	}
	client, masq := r.ClientSeen.Addr().Unmap(), a.packet.Want.Endpoints[i].Masq
	if masq && !a.masked[client] {
		return fmt.Errorf("%s saw %s, which is no address of the node", r.Endpoint, client)
	}
	if !masq && client != a.packet.Src {
		return fmt.Errorf("%s saw %s, not the client", r.Endpoint, client)
	}
	return nil
}

// answering are the endpoints whose answers come back by way of node-a, where
// they are translated back. An endpoint elsewhere answers a client elsewhere
// directly, who cannot know it.
func (a *act) answering() []proxiertest.Endpoint {
	pods := proxiertest.LabOf(proxier.FamilyOf(a.packet.Dst.Addr())).NodePods
	here := func(addr netip.Addr) bool { return pods.Contains(addr) || a.masked[addr] }
	var out []proxiertest.Endpoint
	for _, e := range a.packet.Want.Endpoints {
		if e.Masq || here(e.Addr.Addr()) || here(a.packet.Src) || a.host == a.Host(netlab.NodeA) {
			out = append(out, e)
		}
	}
	return out
}
