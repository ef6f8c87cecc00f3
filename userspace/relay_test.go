package userspace

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/test/netlab"
	"switchyard/userspace/relay"
)

var settings = proxier.Settings{MasqueradeBit: 14, Userspace: proxier.UserspaceSettings{Drain: 2 * time.Second}}

// TestRetry holds that an endpoint that refuses, or is not there, costs clients
// nothing, and is remembered.
func TestRetry(t *testing.T) {
	l := newLab(t)
	l.serve(proxier.TCP, 8080, "pod-a1", "pod-b1")
	b := l.open(settings)
	gone := proxier.Endpoint{Addr: netip.MustParseAddrPort("10.180.0.99:8080")} // nobody has the address
	l.apply(b, stateOf(web(proxier.TCP, append(endpointsOn(8080, "pod-a1", "pod-a2", "pod-b1"), gone)...)))
	seen := map[string]int{}
	for range 40 {
		r := l.probe(proxier.TCP)
		if r.Verdict != netlab.Answered {
			t.Fatalf("%+v", r)
		}
		seen[r.Endpoint]++
	}
	if seen["pod-a1"] < 15 || seen["pod-b1"] < 15 {
		t.Errorf("not in turn: %v", seen)
	}
	if c := counters(b, proxier.TCP); c.Retries < 2 || c.Retries > 8 || c.Connections != 40 || c.Failed != 0 {
		t.Errorf("%+v", c)
	}
	l.apply(b, stateOf(web(proxier.TCP, endpointsOn(8080, "pod-a2")...)))
	if r := l.probe(proxier.TCP); r.Verdict != netlab.Refused {
		t.Errorf("without an endpoint that answers: %+v", r)
	}
}

// TestWeightsAndAffinity holds shares of new connections, and that a client stays with
// its endpoint until the time is over or the endpoint is gone.
func TestWeightsAndAffinity(t *testing.T) {
	l := newLab(t)
	l.serve(proxier.TCP, 8080, "pod-a1", "pod-a2")
	b := l.open(settings)
	eps := endpointsOn(8080, "pod-a1", "pod-a2")
	eps[0].Weight = 3
	l.apply(b, stateOf(web(proxier.TCP, eps...)))
	seen := map[string]int{}
	for range 40 {
		seen[l.probe(proxier.TCP).Endpoint]++
	}
	if seen["pod-a1"] != 30 || seen["pod-a2"] != 10 {
		t.Errorf("weights 3 and 1: %v", seen)
	}
	sticky := web(proxier.TCP, endpointsOn(8080, "pod-a1", "pod-a2")...)
	sticky.Affinity = time.Second
	l.apply(b, stateOf(sticky))
	first := l.probe(proxier.TCP).Endpoint
	for range 10 {
		if got := l.probe(proxier.TCP).Endpoint; got != first {
			t.Fatalf("went to %s, then to %s", first, got)
		}
	}
	other := map[string]string{"pod-a1": "pod-a2", "pod-a2": "pod-a1"}[first]
	without := web(proxier.TCP, endpointsOn(8080, other)...)
	without.Affinity = time.Second
	l.apply(b, stateOf(without))
	if got := l.probe(proxier.TCP).Endpoint; got != other {
		t.Errorf("the endpoint is gone, and the client went to %q", got)
	}
	l.apply(b, stateOf(sticky))
	time.Sleep(1100 * time.Millisecond)
	again := map[string]bool{}
	for range 6 {
		again[l.probe(proxier.TCP).Endpoint] = true
		time.Sleep(1100 * time.Millisecond)
	}
	if len(again) != 2 {
		t.Errorf("after the time was over: %v", again)
	}
}

// TestProxyProtocol reads the header with a library that others read it with.
func TestProxyProtocol(t *testing.T) {
	l := newLab(t)
	ln, err := l.Host("pod-a1").Listen("tcp", netip.AddrPortFrom(podAddr("pod-a1"), 8080).String())
	if err != nil {
		t.Fatal(err)
	}
	server := &proxyproto.Listener{Listener: ln, ConnPolicy: func(proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) { return proxyproto.REQUIRE, nil }}
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				line, _ := bufio.NewReader(c).ReadString('\n')
				fmt.Fprintf(c, "%s %s %s", c.RemoteAddr(), c.LocalAddr(), line)
			}()
		}
	}()
	svc := web(proxier.TCP, endpointsOn(8080, "pod-a1")...)
	svc.ProxyProtocol = true
	l.apply(l.open(settings), stateOf(svc))
	c, err := l.Host("pod-a3").Dial(context.Background(), "tcp", netip.AddrPort{}, vip)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, "hello")
	got, err := io.ReadAll(c)
	if want := fmt.Sprintf("%s %s hello\n", c.LocalAddr(), vip); err != nil || string(got) != want {
		t.Errorf("the server saw %q, %v; want %q", got, err, want)
	}
}

// TestUDP holds that answers come from the address that was asked, also if one socket
// asks two services; that a flow ends with its endpoint; and that a client learns of an
// endpoint that is not there.
func TestUDP(t *testing.T) {
	l := newLab(t)
	l.serve(proxier.UDP, 8080, "pod-a1", "pod-a2", "pod-b1")
	b := l.open(settings)
	other := web(proxier.UDP, endpointsOn(8080, "pod-b1")...)
	other.Name.Service = "zother"
	other.Frontends[0].Addr = netip.MustParseAddrPort("172.30.0.42:80")
	l.apply(b, stateOf(web(proxier.UDP, endpointsOn(8080, "pod-a1")...), other))

	pc, err := l.Host("pod-a3").ListenPacket("udp", netip.AddrPortFrom(podAddr("pod-a3"), 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	ask := func(to netip.AddrPort) string {
		t.Helper()
		if _, err := pc.WriteTo([]byte("?\n"), net.UDPAddrFromAddrPort(to)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		_ = pc.SetReadDeadline(time.Now().Add(3 * time.Second))
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if from.String() != to.String() {
			t.Errorf("asked %s and was answered from %s", to, from)
		}
		var who string
		fmt.Sscan(string(buf[:n]), &who)
		return who
	}
	for range 3 {
		if a, z := ask(vip), ask(other.Frontends[0].Addr); a != "pod-a1" || z != "pod-b1" {
			t.Errorf("answered by %s and %s", a, z)
		}
	}
	if c := counters(b, proxier.UDP); c.Active != 1 || c.Connections != 1 || c.Received != 6 {
		t.Errorf("%+v", c)
	}
	l.apply(b, stateOf(web(proxier.UDP, endpointsOn(8080, "pod-a2")...), other))
	if c := counters(b, proxier.UDP); c.Active != 0 {
		t.Errorf("the endpoint is gone: %+v", c)
	}
	if who := ask(vip); who != "pod-a2" {
		t.Errorf("after the change answered by %s", who)
	}
	// Somebody destroys the flow's socket: the client's next datagram gets another.
	if out, err := l.Host(netlab.NodeA).Output(context.Background(), "ss", "-K", "-u", "state", "established"); err != nil {
		t.Fatal(err, out)
	}
	if who := ask(vip); who != "pod-a2" {
		t.Errorf("after its socket was destroyed answered by %s", who)
	}
	l.apply(b, stateOf(web(proxier.UDP, endpointsOn(9999, "pod-a2")...), other))
	for _, from := range []string{"pod-a3", netlab.Outside, netlab.NodeA} {
		r := l.Host(from).Probe(context.Background(), netlab.Probe{Protocol: proxier.UDP, Dst: vip, Timeout: time.Second})
		if r.Verdict != netlab.Refused {
			t.Errorf("from %s, nobody listens at the endpoint: %+v", from, r)
		}
	}
}

// TestEstablished holds that a connection stays with an endpoint that is removed, and
// that Close waits for it, but not for ever.
func TestEstablished(t *testing.T) {
	l := newLab(t)
	ln, err := l.Host("pod-a1").Listen("tcp", netip.AddrPortFrom(podAddr("pod-a1"), 8080).String())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()
	b := l.open(settings)
	l.apply(b, stateOf(web(proxier.TCP, endpointsOn(8080, "pod-a1")...)))
	c, err := l.Host(netlab.Outside).Dial(context.Background(), "tcp", netip.AddrPort{}, vip)
	if err != nil {
		t.Fatal(err)
	}
	echo := func() error {
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		_, err := io.WriteString(c, "x")
		_, readErr := io.ReadFull(c, make([]byte, 1))
		return errors.Join(err, readErr)
	}
	l.apply(b, stateOf())
	if err := echo(); err != nil {
		t.Errorf("after the service was removed: %v", err)
	}
	start := time.Now()
	closed := make(chan error)
	go func() { closed <- b.Close() }()
	time.Sleep(200 * time.Millisecond)
	if err := echo(); err != nil {
		t.Errorf("while it drains: %v", err)
	}
	if err := <-closed; err != nil || time.Since(start) < settings.Userspace.Drain {
		t.Errorf("closed after %s: %v", time.Since(start), err)
	}
	if err := echo(); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("after the drain: %v", err)
	}
}

// TestHandover holds that no connect fails while one process takes over from another,
// and that connections of the one before go on meanwhile.
func TestHandover(t *testing.T) {
	l := newLab(t)
	l.serve(proxier.TCP, 8080, "pod-a1", "pod-b1")
	state := stateOf(web(proxier.TCP, endpointsOn(8080, "pod-a1", "pod-b1")...))
	l.keep()
	b := l.open(settings)
	l.apply(b, state)

	var tried, failed atomic.Int64
	stop := make(chan struct{})
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				tried.Add(1)
				if r := l.probe(proxier.TCP); r.Verdict != netlab.Answered {
					failed.Add(1)
					t.Errorf("%+v", r)
				}
			}
		})
	}
	for range 10 {
		time.Sleep(50 * time.Millisecond)
		next := l.open(settings)
		l.apply(next, state)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		b = next
	}
	close(stop)
	wait.Wait()
	t.Logf("%d connects over 10 handovers, %d failed", tried.Load(), failed.Load())
	if tried.Load() < 200 {
		t.Error("too few to tell")
	}
	if counters(b, proxier.TCP).Connections == 0 {
		t.Error("the last process has carried nothing")
	}
}

// TestLoop holds that an endpoint that is a Service's own address makes no loop.
func TestLoop(t *testing.T) {
	l := newLab(t)
	b := l.open(settings)
	l.apply(b, stateOf(web(proxier.TCP, proxier.Endpoint{Addr: vip})))
	r := l.Host("pod-a3").Probe(context.Background(), netlab.Probe{Protocol: proxier.TCP, Dst: vip, Timeout: 500 * time.Millisecond})
	if c := counters(b, proxier.TCP); r.Verdict == netlab.Answered || c.Connections != 1 {
		t.Errorf("%+v, %+v", r, c)
	}
}

// TestLimit holds that connections over the limit of a service are refused and counted,
// and that there is room again when one ends.
func TestLimit(t *testing.T) {
	l := newLab(t)
	ln, err := l.Host("pod-a1").Listen("tcp", netip.AddrPortFrom(podAddr("pod-a1"), 8080).String())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var b *Backend
	l.on(func() error {
		tool, err := ruleset.Find(context.Background(), proxier.IPv4, "")
		if err != nil {
			return err
		}
		r, _, err := relay.Open(relay.Options{Family: proxier.IPv4, Port: relay.Port, MarkBit: 14, PerService: 2})
		b = New(tool, r, settings)
		return err
	})
	defer b.Close()
	l.apply(b, stateOf(web(proxier.TCP, endpointsOn(8080, "pod-a1")...)))
	dial := func() (net.Conn, error) {
		defer time.Sleep(50 * time.Millisecond)
		return l.Host("pod-a3").Dial(context.Background(), "tcp", netip.AddrPort{}, vip)
	}
	var held [2]net.Conn
	for i := range held {
		if held[i], err = dial(); err != nil {
			t.Fatal(err)
		}
	}
	third, err := dial()
	if err == nil { // else the reset came while it was still connecting
		_ = third.SetReadDeadline(time.Now().Add(time.Second))
		_, err = third.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the third connection: %v", err)
	}
	if c := counters(b, proxier.TCP); c.Active != 2 || c.Refused != 1 || c.Connections != 3 {
		t.Errorf("%+v", c)
	}
	_ = held[0].(*net.TCPConn).SetLinger(0)
	_ = held[0].Close()
	time.Sleep(50 * time.Millisecond)
	if c := counters(b, proxier.TCP); c.Active != 1 {
		t.Errorf("after one ended: %+v", c)
	}
	_ = held[1].Close()
}
