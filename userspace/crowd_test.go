package userspace

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/test/netlab"
	"switchyard/test/uml"
)

// The crowd is spread over some ports: a kernel looks long for a free port where one
// address and port has most of them.
const (
	crowd      = 20_000
	crowdBytes = 1200 << 20
	crowdPorts = 8
)

// TestCrowd holds twenty thousand connections at once, in a kernel of its own, where a
// process may have as many files as it likes.
func TestCrowd(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute: not with -short")
	}
	uml.Tests(t, uml.Options{Memory: "3072M", Timeout: 4 * time.Minute},
		uml.Case{Name: "20000", Test: holdCrowd})
}

// holdCrowd runs inside.
func holdCrowd(t *testing.T) {
	makeRoomForCrowd(t)
	c, err := netlab.NewCluster("crowd", netlab.StandardPods()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	l := &course{Cluster: c, b: t}
	m := &masses{course: l, t: t}
	pid := l.startRelayTo(m.listen()...)
	status := fmt.Sprintf("/proc/%d/status", pid)
	slabs, empty := inKiB(t, "/proc/meminfo", "SUnreclaim"), inKiB(t, status, "VmRSS")
	start := time.Now()
	m.come()
	took := time.Since(start)
	rss, kernel := inKiB(t, status, "VmRSS"), inKiB(t, "/proc/meminfo", "SUnreclaim")-slabs
	t.Logf("%d connections in %s; at the servers %d", len(m.clients), took.Round(time.Second/10), len(m.served))
	t.Logf("the relay: RSS %.1f MiB (%.1f without any); the kernel, for all four sockets of each: %.1f MiB; on the node %s",
		float64(rss)/(1<<20), float64(empty)/(1<<20), float64(kernel)/(1<<20), sockets(t, l))
	if len(m.served) != len(m.clients) {
		t.Errorf("%d connections are at the servers, not %d", len(m.served), len(m.clients))
	}
	if rss+kernel > crowdBytes {
		t.Errorf("%d MiB are more than %d", (rss+kernel)>>20, crowdBytes>>20)
	}
	m.echo(97)
}

// makeRoomForCrowd sets what bounds connections besides memory. conntrack's own limit
// goes by memory, and is what kube-proxy raises on a node at its start.
func makeRoomForCrowd(t *testing.T) {
	t.Helper()
	most := uint64(1 << 18)
	if err := os.WriteFile("/proc/sys/fs/nr_open", []byte(fmt.Sprint(most)), 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: most}); err != nil {
		t.Fatal(err)
	}
	const conntrack = "/proc/sys/net/netfilter/nf_conntrack_max"
	was, err := os.ReadFile(conntrack)
	if err == nil && os.Getenv("CROWD_CONNTRACK") == "" {
		err = os.WriteFile(conntrack, []byte("131072"), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("nf_conntrack_max was %s", strings.TrimSpace(string(was)))
}

// masses are connections whose both ends are held by one thread: where a call of the
// system is dear, waking another thread for each is dearer.
type masses struct {
	*course
	t                          *testing.T
	listeners, clients, served []int
}

func (m *masses) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *masses) listen() (addrs []string) {
	m.must(m.Host("pod-a1").Do(func() error {
		for i := range uint16(crowdPorts) {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				err = unix.Bind(fd, &unix.SockaddrInet4{Addr: podAddr("pod-a1").As4(), Port: int(sinkPort + i)})
			}
			if err == nil {
				err = unix.Listen(fd, 4096)
			}
			if err != nil {
				return err
			}
			m.listeners = append(m.listeners, fd)
			addrs = append(addrs, netip.AddrPortFrom(podAddr("pod-a1"), sinkPort+i).String())
		}
		return nil
	}))
	return addrs
}

// come makes the connections, some at a time.
func (m *masses) come() {
	m.must(m.Host(netlab.Outside).Do(func() error {
		for len(m.clients) < crowd {
			if err := m.wave(); err != nil {
				return fmt.Errorf("after %d connections: %w", len(m.clients), err)
			}
		}
		return nil
	}))
	for end := time.Now().Add(20 * time.Second); len(m.served) < len(m.clients) && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		m.accept()
	}
}

func (m *masses) wave() error {
	var wave []unix.PollFd
	for i := range 64 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: vip.Addr().As4(), Port: sinkPort + i%crowdPorts})
		if err != nil && err != unix.EINPROGRESS {
			return err
		}
		wave = append(wave, unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT})
	}
	for _, p := range wave {
		one := []unix.PollFd{p}
		if n, err := unix.Poll(one, 30_000); n != 1 || one[0].Revents&unix.POLLERR != 0 {
			return fmt.Errorf("a connect does not come about in 30 s: events %d, %v", one[0].Revents, err)
		}
		m.clients = append(m.clients, int(p.Fd))
	}
	m.accept()
	return nil
}

func (m *masses) accept() {
	for _, ln := range m.listeners {
		for {
			fd, _, err := unix.Accept4(ln, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if err != nil {
				break
			}
			m.served = append(m.served, fd)
		}
	}
}

// echo sends a byte on every nth connection and back.
func (m *masses) echo(nth int) {
	b := make([]byte, 1)
	want := 0
	for i := 0; i < len(m.clients); i += nth {
		_, err := unix.Write(m.clients[i], []byte{byte(i)})
		m.must(err)
		want++
	}
	got := 0
	for end := time.Now().Add(20 * time.Second); got < want && time.Now().Before(end); {
		for _, fd := range m.served {
			if n, _ := unix.Read(fd, b); n == 1 {
				_, err := unix.Write(fd, b)
				m.must(err)
				got++
			}
		}
	}
	for i := 0; i < len(m.clients); i += nth {
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(m.clients[i]), Events: unix.POLLIN}}, 10_000)
		if n, err := unix.Read(m.clients[i], b); n != 1 || b[0] != byte(i) {
			m.t.Fatalf("connection %d: %d bytes, %v", i, n, err)
		}
	}
	m.t.Logf("%d of them have echoed a byte", got)
}

// sockets is the kernel's own account.
func sockets(t *testing.T, l *course) string {
	t.Helper()
	var text []byte
	err := l.Host(netlab.NodeA).Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/sockstat")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "TCP:") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}
