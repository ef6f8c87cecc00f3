package userspace

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"switchyard/test/netlab"
)

// TestFilesRunOut: where no file is left a connection is refused at once and the log
// says so; the relay does not spin, and serves again when there is room.
func TestFilesRunOut(t *testing.T) {
	c, err := netlab.NewCluster("files", netlab.StandardPods()...)
	if err != nil {
		t.Skip("needs root: network namespaces: ", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	l := &course{Cluster: c, b: t}
	l.servers()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := l.Host(netlab.NodeA).Command(context.Background(), "sh", "-c",
		`ulimit -n 100; exec setpriv --bounding-set=-sys_resource --inh-caps=-all -- "$0"`, self)
	var eps []string
	for _, port := range []uint16{sinkPort, onePort + 10, echoPort} {
		eps = append(eps, netip.AddrPortFrom(podAddr("pod-a1"), port).String())
	}
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(eps, ","), "GOMAXPROCS=1")
	out, in := l.run(cmd)
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("it says %q", lines.Text())
	}
	said := make(chan string, 1)
	go func() {
		if lines.Scan() {
			said <- lines.Text()
		}
	}()
	var held []net.Conn
	refused := 0
	for i := range 80 {
		port := []uint16{sinkPort, echoPort}[i%2]
		c, err := l.dial(netip.AddrPortFrom(vip.Addr(), port))
		if err == nil {
			held = append(held, c)
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			_, err = c.Read(make([]byte, 1))
		}
		if errors.Is(err, syscall.ECONNRESET) {
			refused++
		}
	}
	if refused < 20 || refused > 60 {
		t.Errorf("%d of 80 refused", refused)
	}
	select {
	case line := <-said:
		t.Logf("%d of 80 refused; the log: %s", refused, line)
	case <-time.After(3 * time.Second):
		t.Error("the log says nothing")
	}
	before := cpuTime(cmd.Process.Pid)
	time.Sleep(time.Second)
	if used := cpuTime(cmd.Process.Pid) - before; used > 200*time.Millisecond {
		t.Errorf("it spins: %s of processor in a second", used)
	}
	for _, c := range held {
		_ = c.Close()
	}
	time.Sleep(300 * time.Millisecond)
	again, err := l.dial(netip.AddrPortFrom(vip.Addr(), echoPort))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := exchange(again, true); err != nil {
		t.Errorf("when there is room again: %v", err)
	}
}
