package userspace

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"switchyard/proxier"
	"switchyard/test/netlab"
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
	p := &kubeProxy{lab: newLab(t), path: filepath.Join(t.TempDir(), "kube-proxy"), dir: t.TempDir()}
	build := exec.Command("go", "build", "-o", p.path, "../cmd/kube-proxy")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(p.dir, "shop.yaml"), []byte(shop), 0o644); err != nil {
		t.Fatal(err)
	}
	p.serve(proxier.TCP, 8080, "pod-a1", "pod-a2")
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

// TestKill holds that after kill -9 and a start everything works as before, that the
// rules stay as they are, and that in between no client is left waiting: connects are
// refused, and connections of the killed process end.
func TestKill(t *testing.T) {
	p := newKubeProxy(t)
	cmd := p.start()
	rules := plain(p.save())
	down := time.Duration(0)
	tried, failed := p.underLoad(func() {
		for range 3 {
			start := time.Now()
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			cmd = p.start()
			down += time.Since(start)
			time.Sleep(300 * time.Millisecond)
		}
	})
	t.Logf("%d connects through 3 kill -9 and starts, %d failed, %s without a process", tried, failed, down)
	if got := plain(p.save()); got != rules {
		t.Errorf("the rules are\n%s\nwere\n%s", got, rules)
	}
	if failed == tried || failed == 0 {
		t.Errorf("%d of %d connects failed", failed, tried)
	}
	if tried, failed = p.underLoad(func() { time.Sleep(500 * time.Millisecond) }); failed > 0 {
		t.Errorf("afterwards %d of %d connects failed", failed, tried)
	}
}
