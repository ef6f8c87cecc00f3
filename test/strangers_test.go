package test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/iptables/ruleset"
	"switchyard/ipvs"
	"switchyard/proxier"
	"switchyard/proxier/proxiertest"
	"switchyard/test/netlab"
	"switchyard/test/uml"
	"switchyard/userspace"
)

// TestStrangersNFT and its like try what only somebody with bad intentions, or bad
// luck, does: packets to the node's loopback addresses over the wire, and connections
// to a Service's address on ports that the Service does not have, while programs of
// the node listen there on every address.
func TestStrangersNFT(t *testing.T) { strangers(t, iptablesTroupe(ruleset.NFT), true) }

// TestStrangersLegacy is the same through the legacy tables.
func TestStrangersLegacy(t *testing.T) { strangers(t, iptablesTroupe(ruleset.Legacy), true) }

// TestStrangersUserspace is the same through a relay.
func TestStrangersUserspace(t *testing.T) {
	strangers(t, userspaceTroupe(), userspace.Driver().Localnet)
}

// TestStrangersIPVS is the same where kube-ipvs0 holds the addresses.
func TestStrangersIPVS(t *testing.T) {
	uml.Tests(t, uml.Options{}, uml.Case{Name: "strangers", Test: func(t *testing.T) { strangers(t, ipvsTroupe(), ipvs.Driver().Localnet) }})
}

// guardedAddrs are the Service's.
var guardedAddrs = []string{"172.30.0.41", "192.0.2.5", "198.51.100.5", "fd00:172:30::41", "2001:db8:192::5", "2001:db8:198::5"}

// guarded is a Service that answers in every way, and one whose only endpoint is in
// the node's own network.
const guarded = `
A Service that strangers look at

[feature nodeport]
-- cluster.yaml --
apiVersion: v1
kind: Node
metadata: {name: node-a}
status:
  addresses:
  - {type: InternalIP, address: 192.168.0.2}
  - {type: InternalIP, address: 'fd00:192:168::2'}
---
apiVersion: v1
kind: Service
metadata: {namespace: default, name: web}
spec:
  type: LoadBalancer
  clusterIP: 172.30.0.41
  clusterIPs: [172.30.0.41, 'fd00:172:30::41']
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports:
  - {name: tcp, protocol: TCP, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: udp, protocol: UDP, port: 80, targetPort: 8080, nodePort: 30080}
  externalIPs: [192.0.2.5, '2001:db8:192::5']
status:
  loadBalancer: {ingress: [{ip: 198.51.100.5, ipMode: VIP}, {ip: '2001:db8:198::5', ipMode: VIP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: default, name: web-v4, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: tcp, protocol: TCP, port: 8080}, {name: udp, protocol: UDP, port: 8080}]
endpoints: [{addresses: [10.180.0.2], conditions: {ready: true}, nodeName: node-a}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: default, name: web-v6, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: tcp, protocol: TCP, port: 8080}, {name: udp, protocol: UDP, port: 8080}]
endpoints: [{addresses: ['fd00:10:180::2'], conditions: {ready: true}, nodeName: node-a}]
---
apiVersion: v1
kind: Service
metadata: {namespace: default, name: host}
spec:
  type: NodePort
  clusterIP: 172.30.0.42
  clusterIPs: [172.30.0.42]
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  selector: {app: host}
  ports: [{protocol: UDP, port: 80, targetPort: 8081, nodePort: 30081}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: default, name: host-v4, labels: {kubernetes.io/service-name: host}}
addressType: IPv4
ports: [{name: '', protocol: UDP, port: 8081}]
endpoints: [{addresses: [192.168.0.2], conditions: {ready: true}, nodeName: node-a}]
-- state --
-- packets --
tcp outside -> 172.30.0.41:80 forward masq 10.180.0.2:8080
`

// strangers plays all of it. localnet: the mode opens the loopback range, so it has to
// guard it; else the kernel does.
func strangers(t *testing.T, who troupe, localnet bool) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	l := newTheatre(t, who)
	if localnet {
		t.Run("loopback over the wire, unguarded", l.wireReaches)
	}
	s, err := proxiertest.Parse("strangers.txtar", []byte(strings.TrimPrefix(guarded, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	st := stageScenario(t, s)
	for f := range l.backends {
		l.apply(t, st.states[f])
	}
	if !localnet {
		if err := l.Host(netlab.NodeA).Sysctl(netlab.Setting{Path: "net/ipv4/conf/all/route_localnet", Value: "0"}); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("loopback over the wire", l.martians)
	t.Run("listeners of the node", func(t *testing.T) { l.listeners(t, s) })
}

// wire sends one UDP datagram as a neighbour would that forges everything: a frame to
// the node's own link address, whatever its routes say of the destination.
func (l *theatre) wire(t *testing.T, src, dst netip.AddrPort, payload string) {
	t.Helper()
	to, err := l.Host(netlab.NodeA).Output(context.Background(), "cat", "/sys/class/net/eth0/address")
	if err != nil {
		t.Fatal(err)
	}
	mac, err := net.ParseMAC(strings.TrimSpace(to))
	if err != nil {
		t.Fatal(err)
	}
	err = l.Host(netlab.Outside).Do(func() error {
		device, err := net.InterfaceByName(netlab.Uplink)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		link := &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: device.Index, Halen: 6} // ETH_P_IP in network order
		copy(link.Addr[:], mac)
		return unix.Sendto(fd, datagram(src, dst, payload), 0, link)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// datagram is an IPv4 packet with UDP in it, without a UDP checksum.
func datagram(src, dst netip.AddrPort, payload string) []byte {
	n := 28 + len(payload)
	b := []byte{0x45, 0, byte(n >> 8), byte(n), 0, 1, 0, 0, 64, 17, 0, 0}
	b = append(append(b, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	b[10], b[11] = byte(^sum>>8), byte(^sum)
	b = append(b, byte(src.Port()>>8), byte(src.Port()), byte(dst.Port()>>8), byte(dst.Port()))
	n -= 20
	return append(append(b, byte(n>>8), byte(n), 0, 0), payload...)
}

// ear hears what arrives at an address.
func ear(t *testing.T, h *netlab.Host, addr string) net.PacketConn {
	t.Helper()
	pc, err := h.ListenPacket("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc
}

// hears reports whether the payload arrives.
func hears(t *testing.T, pc net.PacketConn, payload string) bool {
	t.Helper()
	buf := make([]byte, 100)
	for {
		if err := pc.SetReadDeadline(time.Now().Add(silence())); err != nil {
			t.Fatal(err)
		}
		n, _, err := pc.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		if string(buf[:n]) == payload {
			return true
		}
	}
}

var (
	stranger = netip.MustParseAddrPort("203.0.113.7:4444")
	loopback = netip.MustParseAddr("127.0.0.1")
)

// wireReaches shows that these frames arrive where nobody minds: what the other parts
// find is the doing of the rules.
func (l *theatre) wireReaches(t *testing.T) {
	pc := ear(t, l.Host(netlab.NodeA), "127.0.0.1:9953")
	l.wire(t, stranger, netip.AddrPortFrom(loopback, 9953), "unguarded")
	if !hears(t, pc, "unguarded") {
		t.Error("the frame does not arrive: this test could not fail")
	}
}

// martians: what says that it goes to a loopback address does not come from a wire.
func (l *theatre) martians(t *testing.T) {
	node, pod := l.Host(netlab.NodeA), l.hostOf(t, netip.MustParseAddr("10.180.0.2"))
	local, host, server := ear(t, node, "127.0.0.1:9954"), ear(t, node, "192.168.0.2:8081"), ear(t, pod, "10.180.0.2:8080")
	l.wire(t, stranger, netip.MustParseAddrPort("192.168.0.2:30080"), "node port")
	if !hears(t, server, "node port") {
		t.Error("a datagram to the node port does not arrive: this test could not fail")
	}
	for i, from := range []string{"203.0.113.7:4445", "127.0.0.1:4446", "192.168.0.2:4447"} {
		for port, pc := range map[uint16]net.PacketConn{9954: local, 30080: server, 30081: host} {
			for _, to := range []string{"127.0.0.1", "127.9.9.9"} {
				payload := fmt.Sprintf("martian %d %d %s", i, port, to)
				l.wire(t, netip.MustParseAddrPort(from), netip.AddrPortFrom(netip.MustParseAddr(to), port), payload)
				if hears(t, pc, payload) {
					t.Errorf("from %s a frame from the wire to %s:%d arrives", from, to, port)
				}
			}
		}
	}
}

// listeners: no program of the node answers at a Service's address, whether or not
// the node holds that address.
func (l *theatre) listeners(t *testing.T, s proxiertest.Scenario) {
	const port = 9955
	node := l.Host(netlab.NodeA)
	for _, network := range []string{"tcp4", "tcp6"} {
		ln, err := node.Listen(network, fmt.Sprintf(":%d", port))
		if err != nil {
			t.Fatal(err)
		}
		l.start9955(t, ln, network)
	}
	from := map[string]*netlab.Host{
		"node": node, "other node": l.Host(netlab.NodeB), "outside": l.Host(netlab.Outside),
	}
	for _, f := range families {
		from["pod "+f.String()] = l.hostOf(t, proxiertest.LabOf(f).PodA)
	}
	probe := func(h *netlab.Host, dst netip.AddrPort) netlab.Result {
		return h.Probe(t.Context(), netlab.Probe{Protocol: proxier.TCP, Dst: dst, Timeout: silence()})
	}
	if r := probe(l.Host(netlab.Outside), netip.MustParseAddrPort("192.168.0.2:9955")); r.Verdict != netlab.Answered {
		t.Errorf("the listener does not answer at the node's own address: %s %v", r.Verdict, r.Err)
	}
	look := func(when string) {
		for _, vip := range guardedAddrs {
			for name, h := range from {
				if strings.HasPrefix(name, "pod") && name != "pod "+proxier.FamilyOf(netip.MustParseAddr(vip)).String() {
					continue
				}
				r := probe(h, netip.AddrPortFrom(netip.MustParseAddr(vip), port))
				if r.Verdict == netlab.Answered || r.Verdict == netlab.Failed {
					t.Errorf("%s: %s reaches the node's listener at %s: %s %v", when, name, vip, r.Verdict, r.Err)
				}
			}
		}
	}
	look("as programmed")

	// An agent puts the addresses on an interface. The node itself may reach its programs.
	delete(from, "node")
	held := l.hold(t, guardedAddrs)
	r := probe(l.Host(netlab.Outside), netip.AddrPortFrom(held[0], port))
	if r.Verdict != netlab.Answered && !uml.Inside() { // kube-ipvs0 has them already
		t.Errorf("before the proxy knows that the node holds %s: %s; this test could not fail", held[0], r.Verdict)
	}
	st := stageOf(t, objectsOf(t, s), s.Flags, held...)
	for f := range l.backends {
		l.apply(t, st.states[f])
	}
	look("held by the node")
}

// hold puts addresses on the node's loopback interface.
func (l *theatre) hold(t *testing.T, addrs []string) (held []netip.Addr) {
	t.Helper()
	for _, a := range addrs {
		addr := netip.MustParseAddr(a)
		if err := l.Host(netlab.NodeA).AddAddr("lo", netip.PrefixFrom(addr, addr.BitLen())); err != nil {
			t.Fatal(err)
		}
		held = append(held, addr)
	}
	return held
}

func (l *theatre) start9955(t *testing.T, ln net.Listener, name string) {
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "%s %s\n", name, conn.RemoteAddr())
			conn.Close()
		}
	}()
}
