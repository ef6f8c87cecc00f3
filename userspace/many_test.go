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
	"time"

	"golang.org/x/sys/unix"

	"switchyard/test/netlab"
)

// Twenty thousand connections are to take less than this, in the relay and in the
// kernel together.
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
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	// Two files for a connection, in the relay and in this process. A service may have half of all.
	holdMany(t, min(manyConnections, int(files.Max-1500)/2*9/10))
}

// amount is what is held at one moment.
type amount struct {
	connections      int
	resident, kernel int64 // bytes: of the relay; of the whole machine, in slabs
}

// holdMany opens connections, measures four times on the way, and compares the slope
// with what twenty thousand may take.
func holdMany(t *testing.T, want int) {
	c, err := netlab.NewCluster("many", netlab.StandardPods()...)
	if err != nil {
		t.Skip("needs root: network namespaces: ", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	l := &course{Cluster: c, b: t}
	l.servers()
	pid := l.startRelay()
	measure := func(n int) amount {
		a := amount{n, inKiB(t, fmt.Sprintf("/proc/%d/status", pid), "VmRSS"), inKiB(t, "/proc/meminfo", "SUnreclaim")}
		t.Logf("%6d connections: relay %4d MiB, slabs of the machine %4d MiB", n, a.resident>>20, a.kernel>>20)
		return a
	}
	open := []net.Conn{}
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	first := measure(0)
	last := first
	for quarter := range 4 {
		err := l.Host(netlab.Outside).Do(func() (err error) {
			open, err = exchangeOn(open, want*(quarter+1)/4)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		last = measure(len(open))
	}
	n := int64(last.connections)
	relay, kernel := (last.resident-first.resident)/n, (last.kernel-first.kernel)/n
	total := first.resident + (relay+kernel)*manyConnections
	t.Logf("slope: %.1f KiB in the relay and %.1f KiB in the kernel for each, client's and server's sockets included; %d would take %d MiB",
		float64(relay)/1024, float64(kernel)/1024, manyConnections, total>>20)
	if total > manyBytes && !raced {
		t.Errorf("%d connections would take more than %d MiB", manyConnections, manyBytes>>20)
	}
	for i, c := range open { // all of them still work
		if err := exchange(c, i%2 == 0); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
}

// exchangeOn opens connections until there are so many, every second to a server that
// does not answer, and uses each once.
func exchangeOn(open []net.Conn, want int) ([]net.Conn, error) {
	for i := len(open); i < want; i++ {
		port := uint16(echoPort)
		if i%2 == 1 {
			port = sinkPort
		}
		c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.AddrPortFrom(vip.Addr(), port)))
		if err != nil {
			return open, fmt.Errorf("connection %d: %w", i, err)
		}
		open = append(open, c)
		if err := exchange(c, port == echoPort); err != nil {
			return open, fmt.Errorf("connection %d: %w", i, err)
		}
	}
	return open, nil
}

func exchange(c net.Conn, answered bool) error {
	if _, err := c.Write([]byte("x")); err != nil || !answered {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

// inKiB is a figure of a file of /proc that the kernel gives in KiB, in bytes.
func inKiB(t *testing.T, file, name string) int64 {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("no %s in %s", name, file)
	}
	kib, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
