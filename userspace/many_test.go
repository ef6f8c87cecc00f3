package userspace

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"switchyard/test/netlab"
)

// Twenty thousand connections are to take less than this.
const (
	manyConnections = 20_000
	manyBytes       = 1200 << 20
)

// TestManyConnections holds as many connections at once as the limit of open files
// allows here, each after an exchange, and reckons what twenty thousand would take.
func TestManyConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds and nearly all files that a process may have: not with -short")
	}
	c, err := netlab.NewCluster("many", netlab.StandardPods()...)
	if err != nil {
		t.Skip("needs root: network namespaces: ", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	l := &course{Cluster: c, b: t}
	l.servers()
	pid := l.startRelay()
	want := manyConnections
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	// Two files for a connection, in the relay and in this process. A service may have half of all.
	want = min(want, int(files.Max-1500)/2*9/10)
	before := resident(t, pid)
	var open []net.Conn
	err = l.Host(netlab.Outside).Do(func() error {
		for i := range want {
			port := uint16(echoPort)
			if i%2 == 1 {
				port = sinkPort
			}
			c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.AddrPortFrom(vip.Addr(), port)))
			if err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
			open = append(open, c)
			if _, err := c.Write([]byte("x")); err != nil {
				return err
			}
			if port == echoPort {
				if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
					return fmt.Errorf("connection %d: %w", i, err)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	used := resident(t, pid)
	each := (used - before) / int64(len(open))
	t.Logf("%d connections: %d MiB resident, %d KiB for each; %d would take %d MiB", len(open), used>>20, each>>10,
		manyConnections, (before+each*manyConnections)>>20)
	if before+each*manyConnections > manyBytes {
		t.Errorf("%d connections would take more than %d MiB", manyConnections, manyBytes>>20)
	}
	for _, c := range open {
		_ = c.Close()
	}
}

// resident is the memory of a process, in bytes.
func resident(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		t.Fatal("no VmRSS")
	}
	kb, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}
