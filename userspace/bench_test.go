package userspace

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"switchyard/proxier"
	"switchyard/test/netlab"
)

// childEnv makes this test binary a kube-proxy of one service: its endpoints.
const childEnv = "USERSPACE_BENCH_ENDPOINTS"

func TestMain(m *testing.M) {
	if eps := os.Getenv(childEnv); eps != "" {
		if err := serveChild(eps); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveChild relays until its input ends.
func serveChild(endpoints string) error {
	say := func(text string, about ...any) { fmt.Println(append([]any{text}, about...)...) }
	b, _, err := open(context.Background(), proxier.IPv4, proxier.Settings{MasqueradeBit: 14,
		Userspace: proxier.UserspaceSettings{Warn: say}})
	if err != nil {
		return err
	}
	var services []*proxier.Service
	for i, ep := range strings.Split(endpoints, ",") {
		s := web(proxier.TCP, proxier.Endpoint{Addr: netip.MustParseAddrPort(ep)})
		s.Name.Service = strconv.Itoa(i)
		s.Frontends[0].Addr = netip.AddrPortFrom(vip.Addr(), s.Cluster[0].Addr.Port())
		services = append(services, s)
	}
	if _, err := b.Apply(context.Background(), stateOf(services...)); err != nil {
		return err
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return b.Close()
}

// The servers of the benchmark: bytes are swallowed, connections are answered with one
// byte and closed, bytes are sent back.
const (
	sinkPort, onePort, echoPort = 7001, 7002, 7003
	haproxyOffset               = 1000 // haproxy's port for the same server
)

// BenchmarkSideBySide measures the ways to a server in a pod of node-a, for a client
// outside: by the node's routing, by the relay, by haproxy in TCP mode with splice. Each
// proxy has one thread. Programs and load share the machine.
func BenchmarkSideBySide(b *testing.B) {
	if _, err := exec.LookPath("haproxy"); err != nil {
		b.Skip("needs haproxy")
	}
	c, err := netlab.NewCluster("bench", netlab.StandardPods()...)
	if err != nil {
		b.Skip("needs root: network namespaces: ", err)
	}
	b.Cleanup(func() { _ = c.Close() })
	l := &course{Cluster: c, b: b}
	l.servers()
	relayPID, haproxyPID := l.startRelay(), l.startHAProxy()
	node := netip.MustParseAddr("192.168.0.2")
	ways := []*way{
		{name: "direct", addr: podAddr("pod-a1")},
		{name: "relay", addr: vip.Addr(), pid: relayPID},
		{name: "haproxy", addr: node, offset: haproxyOffset, pid: haproxyPID},
	}
	for range b.N {
		for range rounds { // in turn: what else the machine does meets all alike
			for _, w := range ways {
				l.measure(w)
			}
		}
	}
	for _, w := range ways {
		b.Logf("%-8s %6.0f MB/s, %6.0f connections/s at %4.0f µs of processor each, median %6.1f µs", w.name,
			median(w.bulk), median(w.rate), median(w.cost), median(w.delay))
	}
	direct, relay, haproxy := ways[0], ways[1], ways[2]
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ratio(relay.bulk, direct.bulk), "bulk/direct")
	b.ReportMetric(ratio(relay.bulk, haproxy.bulk), "bulk/haproxy")
	b.ReportMetric(ratio(relay.rate, haproxy.rate), "rate/haproxy")
	b.ReportMetric(ratio(relay.cost, haproxy.cost), "processor/haproxy")
	added := func(w *way) float64 { return median(w.delay) - median(direct.delay) }
	b.ReportMetric(added(relay)/added(haproxy), "added-p50/haproxy")
}

// rounds is how often each way is measured; the median of each figure counts.
const rounds = 9

// way is one way to the server, and what was measured on it.
type way struct {
	name   string
	addr   netip.Addr
	offset uint16 // of its ports
	pid    int    // of the proxy; 0: there is none

	bulk, rate, cost, delay []float64
}

func (l *course) measure(w *way) {
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(w.addr, port+w.offset) }
	w.bulk = append(w.bulk, l.bulk(at(sinkPort)))
	before := cpuTime(w.pid)
	rate := l.rate(at(onePort))
	w.rate = append(w.rate, rate)
	w.cost = append(w.cost, (cpuTime(w.pid)-before).Seconds()*1e6/(rate*runTime.Seconds()))
	w.delay = append(w.delay, float64(l.delay(at(echoPort)).Nanoseconds())/1e3)
}

// ratio is the median of the rounds' own ratios: what else the machine did in a round
// met both.
func ratio(of, to []float64) float64 {
	list := make([]float64, len(of))
	for i := range of {
		list[i] = of[i] / to[i]
	}
	return median(list)
}

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}

// course is the laboratory of the benchmark.
type course struct {
	*netlab.Cluster
	b testing.TB
}

func (l *course) servers() {
	serve := func(port uint16, do func(net.Conn)) {
		ln, err := l.Host("pod-a1").Listen("tcp", netip.AddrPortFrom(podAddr("pod-a1"), port).String())
		if err != nil {
			l.b.Fatal(err)
		}
		l.b.Cleanup(func() { _ = ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					do(c)
				}()
			}
		}()
	}
	serve(sinkPort, func(c net.Conn) {
		buf := make([]byte, 2)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if n == len(buf) && n < 1<<20 {
				buf = make([]byte, 1<<20) // this one sends more than a byte
			}
		}
	})
	serve(onePort, func(c net.Conn) { _, _ = c.Write([]byte{1}) })
	serve(echoPort, func(c net.Conn) {
		buf := make([]byte, 1<<10)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	})
}

func (l *course) startRelay() (pid int) {
	var eps []string
	for _, port := range []uint16{sinkPort, onePort, echoPort} {
		eps = append(eps, netip.AddrPortFrom(podAddr("pod-a1"), port).String())
	}
	return l.startRelayTo(eps...)
}

// startRelayTo starts a relay of a service for each endpoint, at the endpoint's port.
func (l *course) startRelayTo(eps ...string) (pid int) {
	self, err := os.Executable()
	if err != nil {
		l.b.Fatal(err)
	}
	cmd := l.Host(netlab.NodeA).Command(context.Background(), self)
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(eps, ","), "GOMAXPROCS=1")
	out, in := l.run(cmd)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		l.b.Fatalf("the relay said %q: %v", line, err)
	}
	l.b.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

func (l *course) run(cmd *exec.Cmd) (io.Reader, io.Closer) {
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	in, inErr := cmd.StdinPipe()
	if err := errors.Join(err, inErr, cmd.Start()); err != nil {
		l.b.Fatal(err)
	}
	return out, in
}

func (l *course) startHAProxy() (pid int) {
	config := `global
  nbthread 1
  maxconn 4000
defaults
  mode tcp
  option splice-auto
  option splice-request
  option splice-response
  timeout connect 5s
  timeout client 1m
  timeout server 1m
`
	for _, port := range []uint16{sinkPort, onePort, echoPort} {
		config += fmt.Sprintf("listen p%d\n  bind 192.168.0.2:%d\n  server s %s:%d\n", port, port+haproxyOffset, podAddr("pod-a1"), port)
	}
	file := filepath.Join(l.b.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		l.b.Fatal(err)
	}
	cmd := l.Host(netlab.NodeA).Command(context.Background(), "haproxy", "-db", "-q", "-f", file)
	l.run(cmd)
	l.b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 50 {
		c, err := l.dial(netip.MustParseAddrPort("192.168.0.2:" + strconv.Itoa(echoPort+haproxyOffset)))
		if err == nil {
			_ = c.Close()
			return cmd.Process.Pid
		}
		time.Sleep(50 * time.Millisecond)
	}
	l.b.Fatal("haproxy does not answer")
	return 0
}

// cpuTime is what a process has used of processors, in steps of 10 ms (proc(5)).
func cpuTime(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	user, _ := strconv.Atoi(fields[13])
	system, _ := strconv.Atoi(fields[14])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func (l *course) dial(to netip.AddrPort) (net.Conn, error) {
	return l.Host(netlab.Outside).Dial(context.Background(), "tcp", netip.AddrPort{}, to)
}

// runTime is how long one measurement takes.
const runTime = time.Second

// bulk is the throughput of one connection, in MB/s.
func (l *course) bulk(to netip.AddrPort) float64 {
	c, err := l.dial(to)
	if err != nil {
		l.b.Fatal(err)
	}
	defer c.Close()
	buf, n := make([]byte, 1<<18), 0
	start := time.Now()
	for time.Since(start) < runTime {
		m, err := c.Write(buf)
		if err != nil {
			l.b.Fatal(err)
		}
		n += m
	}
	return float64(n) / 1e6 / time.Since(start).Seconds()
}

// rate is how many connections a second are made, answered and closed, eight at a
// time. The server closes first.
func (l *course) rate(to netip.AddrPort) float64 {
	var n atomic.Int64
	var wait sync.WaitGroup
	start := time.Now()
	for range 8 {
		wait.Go(func() {
			err := l.Host(netlab.Outside).Do(func() error {
				buf := make([]byte, 1)
				for time.Since(start) < runTime {
					c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
					if err != nil {
						return err
					}
					_, err = io.ReadFull(c, buf)
					_ = c.SetLinger(0)
					_ = c.Close()
					if err != nil {
						return err
					}
					n.Add(1)
				}
				return nil
			})
			if err != nil {
				l.b.Error(err)
			}
		})
	}
	wait.Wait()
	return float64(n.Load()) / time.Since(start).Seconds()
}

// delay is the median time of a request of one byte on a kept connection.
func (l *course) delay(to netip.AddrPort) time.Duration {
	c, err := l.dial(to)
	if err != nil {
		l.b.Fatal(err)
	}
	defer c.Close()
	var took []time.Duration
	buf := make([]byte, 1)
	for start := time.Now(); time.Since(start) < runTime/2; {
		sent := time.Now()
		if _, err := c.Write(buf); err != nil {
			l.b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			l.b.Fatal(err)
		}
		took = append(took, time.Since(sent))
	}
	slices.Sort(took)
	return took[len(took)/2]
}
