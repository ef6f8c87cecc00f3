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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"switchyard/proxier"
	"switchyard/test/netlab"
	"switchyard/test/subject"
	"switchyard/userspace/keeper"
	"switchyard/userspace/relay"
)

// kubeProxy is the built program on node-a, which follows a folder.
type kubeProxy struct {
	*lab
	path, dir string
}

const shop = `apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  clusterIP: 172.30.0.41
  ports: [{port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop-x, labels: {kubernetes.io/service-name: shop}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.180.0.11], nodeName: node-a}
- {addresses: [10.180.0.12], nodeName: node-a}
`

func newKubeProxy(t *testing.T) *kubeProxy {
	t.Helper()
	p := &kubeProxy{lab: newLab(t), path: subject.Build(t), dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(p.dir, "shop.yaml"), []byte(shop), 0o644); err != nil {
		t.Fatal(err)
	}
	p.serve(proxier.TCP, 8080, "pod-a1", "pod-a2")
	t.Cleanup(func() { p.on(func() error { keeper.Dismiss(relay.Port); return nil }) })
	return p
}

// start starts one more process, and returns when the first State is in the kernel.
func (p *kubeProxy) start() *exec.Cmd {
	p.t.Helper()
	cmd := p.Host(netlab.NodeA).Command(context.Background(), p.path, "--manifest="+p.dir, "--proxy-mode=userspace",
		"--hostname-override=node-a", "--cluster-cidr=10.180.0.0/16", "--userspace-drain=2s",
		"--healthz-bind-address=", "--metrics-bind-address=")
	log, err := cmd.StderrPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	applied := make(chan string, 1)
	go func() {
		var text strings.Builder
		for lines := bufio.NewScanner(log); lines.Scan(); {
			fmt.Fprintln(&text, lines.Text())
			if strings.Contains(lines.Text(), "msg=applied family=IPv4") {
				applied <- ""
				break
			}
		}
		_, _ = io.Copy(io.Discard, log)
		select {
		case applied <- text.String():
		default:
		}
	}()
	select {
	case failed := <-applied:
		if failed != "" {
			p.t.Fatalf("ended: %s", failed)
		}
	case <-time.After(20 * time.Second):
		p.t.Fatal("nothing is applied")
	}
	return cmd
}

// underLoad makes connections all the time while do does what it does, and counts them.
func (p *kubeProxy) underLoad(do func()) (tried, failed int64) {
	var n, bad atomic.Int64
	stop := make(chan struct{})
	var wait sync.WaitGroup
	for _, from := range []string{"pod-a3", netlab.Outside, netlab.NodeA} {
		wait.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				n.Add(1)
				r := p.Host(from).Probe(context.Background(), netlab.Probe{Protocol: proxier.TCP, Dst: vip, Timeout: 5 * time.Second})
				if r.Verdict != netlab.Answered {
					bad.Add(1)
					if r.Verdict == netlab.Timeout {
						p.t.Errorf("from %s: %s after %s: %v", from, r.Verdict, r.Took, r.Err)
					}
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	do()
	close(stop)
	wait.Wait()
	return n.Load(), bad.Load()
}

// TestRollingRestart holds that no connect fails while the program is replaced by the
// next one, which starts before the one before is asked to end.
func TestRollingRestart(t *testing.T) {
	p := newKubeProxy(t)
	cmd := p.start()
	tried, failed := p.underLoad(func() {
		for range 5 {
			next := p.start()
			_ = cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			cmd = next
			time.Sleep(100 * time.Millisecond)
		}
	})
	t.Logf("%d connects over 5 rolling restarts, %d failed", tried, failed)
	if failed > 0 || tried < 100 {
		t.Errorf("%d of %d connects failed", failed, tried)
	}
}

// TestKill holds that through kill -9 and start, fifty times, no connect is refused or
// waits for ever: the kernel takes them for the sockets that the keeper holds. What the
// killed process had accepted is cut. The rules stay as they are.
func TestKill(t *testing.T) {
	p := newKubeProxy(t)
	cmd := p.start()
	rules := plain(p.save())
	started := time.Now()
	down := time.Duration(0)
	n := p.connects(func() {
		for range 50 {
			start := time.Now()
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			cmd = p.start()
			down += time.Since(start)
			time.Sleep(100 * time.Millisecond)
		}
	})
	t.Logf("50 kill -9 and starts in %s, %s of that without a process: %s", time.Since(started).Round(time.Second), down.Round(time.Second), n)
	if n.failed > 0 || n.tried < 1000 || n.answered+n.cut != n.tried || n.cut > n.tried/20 {
		t.Error(n)
	}
	if got := plain(p.save()); got != rules {
		t.Errorf("the rules are\n%s\nwere\n%s", got, rules)
	}
	p.keeperIsSmall(cmd.Process.Pid)
}

// TestTerm is the same with an end in peace, where nothing is cut, and the next process
// starts a while after the one before has ended.
func TestTerm(t *testing.T) {
	p := newKubeProxy(t)
	cmd := p.start()
	n := p.connects(func() {
		for range 5 {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			time.Sleep(200 * time.Millisecond)
			cmd = p.start()
			time.Sleep(100 * time.Millisecond)
		}
	})
	t.Logf("5 ends in peace, and starts: %s", n)
	if n.failed > 0 || n.cut > 0 || n.tried < 500 || n.answered != n.tried {
		t.Error(n)
	}
}

// TestKeeperIsFollowed holds that the proxy starts another keeper when its own is killed,
// and that the new one is as good.
func TestKeeperIsFollowed(t *testing.T) {
	p := newKubeProxy(t)
	cmd := p.start()
	first := p.keeper(cmd.Process.Pid)
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal("there is no keeper: ", err)
	}
	n := p.connects(func() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		next := ""
		for end := time.Now().Add(10 * time.Second); (next == "" || next == first) && time.Now().Before(end); next = p.keeper(cmd.Process.Pid) {
			time.Sleep(50 * time.Millisecond)
		}
		if next == "" || next == first {
			t.Fatal("no keeper follows")
		}
		time.Sleep(200 * time.Millisecond) // it is given the sockets
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		cmd = p.start()
	})
	if n.failed > 0 || n.tried < 100 || n.answered+n.cut != n.tried {
		t.Error(n)
	}
}

const resolver = `apiVersion: v1
kind: Service
metadata: {name: resolver}
spec:
  clusterIP: 172.30.0.42
  ports: [{port: 53, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: resolver-x, labels: {kubernetes.io/service-name: resolver}}
addressType: IPv4
ports: [{port: 8053, protocol: UDP}]
endpoints:
- {addresses: [10.180.0.11], nodeName: node-a}
`

// TestDatagramsWait holds that what a client sends while no proxy runs is answered by the
// next one, on the same socket.
func TestDatagramsWait(t *testing.T) {
	p := newKubeProxy(t)
	if err := os.WriteFile(filepath.Join(p.dir, "resolver.yaml"), []byte(resolver), 0o644); err != nil {
		t.Fatal(err)
	}
	p.serve(proxier.UDP, 8053, "pod-a1")
	cmd := p.start()
	to := netip.MustParseAddrPort("172.30.0.42:53")
	c, err := p.Host("pod-a3").Dial(context.Background(), "udp", netip.AddrPortFrom(podAddr("pod-a3"), 0), to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answered := func() error {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, err := c.Read(make([]byte, 100))
		return err
	}
	for round := range 5 {
		if _, err := c.Write([]byte("?\n")); err != nil || answered() != nil {
			t.Fatal("while a process runs: ", err)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if _, err := c.Write([]byte("?\n")); err != nil {
			t.Fatalf("round %d, while none runs: %v", round, err)
		}
		time.Sleep(200 * time.Millisecond)
		cmd = p.start()
		if err := answered(); err != nil {
			t.Errorf("round %d: what was sent while no process ran: %v", round, err)
		}
	}
}

// connects are what became of connections from outside, one each 2 ms.
type connects struct {
	tried, failed, answered, cut, open int64
	longest, latest                    time.Duration // until connected, until answered
	why                                error
}

func (c connects) String() string {
	return fmt.Sprintf("%d connects, %d failed (%v), %d answered, %d cut, %d neither; the longest connect %s, the latest answer %s",
		c.tried, c.failed, c.why, c.answered, c.cut, c.open, c.longest.Round(time.Millisecond/10), c.latest.Round(time.Millisecond))
}

func (p *kubeProxy) connects(do func()) (n connects) {
	var mu sync.Mutex
	var wait sync.WaitGroup
	stop := make(chan struct{})
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	one := func() {
		start := time.Now()
		c, err := net.DialTimeout("tcp", vip.String(), 5*time.Second)
		mu.Lock()
		defer mu.Unlock()
		n.tried++
		n.longest = max(n.longest, time.Since(start))
		if err != nil {
			n.failed, n.why = n.failed+1, err
			return
		}
		wait.Go(func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			_, _ = c.Write([]byte("?\n"))
			_, err := c.Read(make([]byte, 100))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				n.answered++
				n.latest = max(n.latest, time.Since(start))
			case errors.Is(err, os.ErrDeadlineExceeded):
				n.open++
			default:
				n.cut++
			}
		})
	}
	wait.Go(func() {
		_ = p.Host(netlab.Outside).Do(func() error {
			for {
				select {
				case <-stop:
					return nil
				case <-tick.C:
					one()
				}
			}
		})
	})
	do()
	close(stop)
	wait.Wait()
	return n
}

// keeperIsSmall holds what the keeper beside a process is: few files, no privileges,
// little memory; and that it goes with the rules.
func (p *kubeProxy) keeperIsSmall(proxy int) {
	p.t.Helper()
	pid := p.keeper(proxy)
	if pid == "" {
		p.t.Fatal("there is no keeper")
	}
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		p.t.Fatal(err)
	}
	if !strings.Contains(string(status), "CapPrm:\t0000000000000000") || !strings.Contains(string(status), "NoNewPrivs:\t1") {
		p.t.Errorf("its privileges: %s", status)
	}
	files, _ := os.ReadDir("/proc/" + pid + "/fd")
	rss := inKiB(p.t, "/proc/"+pid+"/status", "VmRSS")
	own := inKiB(p.t, "/proc/"+pid+"/status", "RssAnon")
	p.t.Logf("the keeper: %d files, RSS %.1f MiB, of that its own %.1f MiB", len(files), float64(rss)/(1<<20), float64(own)/(1<<20))
	if len(files) > 16 || rss > 40<<20 {
		p.t.Error("it holds more than it needs")
	}
	out, err := p.Host(netlab.NodeA).Output(context.Background(), p.path, "cleanup")
	if err != nil || !strings.Contains(out, "keeper") || p.keeper(proxy) != "" {
		p.t.Errorf("cleanup says %q, %v; the keeper is %q", out, err, p.keeper(proxy))
	}
}

// keeper finds the keeper in the network namespace of a process, "" if there is none.
func (p *kubeProxy) keeper(proxy int) string {
	here, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", proxy))
	if err != nil {
		p.t.Fatal(err)
	}
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		text, _ := os.ReadFile(name)
		if there, _ := os.Readlink(filepath.Dir(name) + "/ns/net"); strings.HasPrefix(string(text), "kube-proxy-keeper") && there == here {
			return filepath.Base(filepath.Dir(name))
		}
	}
	return ""
}
