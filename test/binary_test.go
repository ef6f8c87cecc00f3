package test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"switchyard/proxier"
	"switchyard/test/netlab"
	"switchyard/test/subject"
)

// shopManifest is a Service of TCP and UDP with one endpoint.
const shopManifest = `apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  type: NodePort
  clusterIP: 172.30.0.41
  ports:
  - {name: http, port: 80, nodePort: 30080}
  - {name: dns, protocol: UDP, port: 53}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop-x, labels: {kubernetes.io/service-name: shop}}
addressType: IPv4
ports:
- {name: http, port: 8080}
- {name: dns, protocol: UDP, port: 5353}
endpoints:
- {addresses: [%s], nodeName: node-a}
`

var (
	oldPod  = netip.MustParseAddr("10.180.0.11")
	newPod  = netip.MustParseAddr("10.180.0.12")
	shopTCP = netip.MustParseAddrPort("172.30.0.41:80")
	shopUDP = netip.MustParseAddrPort("172.30.0.41:53")
)

// program is the built binary at work on node-a of a lab.
type program struct {
	t    *testing.T
	lab  *netlab.Cluster
	path string
	dir  string
	cmd  *exec.Cmd
	log  *subject.Log
}

func newProgram(t *testing.T) *program {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	lab, err := netlab.NewCluster("binary", netlab.StandardPods()...)
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, lab: lab, path: subject.Build(t), dir: t.TempDir()}
	t.Cleanup(func() {
		p.stop(syscall.SIGKILL)
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	for pod, host := range map[netip.Addr]string{oldPod: "pod-a1", newPod: "pod-a2"} {
		for proto, port := range map[proxier.Protocol]uint16{proxier.TCP: 8080, proxier.UDP: 5353} {
			if err := lab.Serve(lab.Host(host), proto, netip.AddrPortFrom(pod, port), pod.String()); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.write(oldPod)
	return p
}

// write makes a pod the endpoint.
func (p *program) write(pod netip.Addr) {
	p.t.Helper()
	text := fmt.Sprintf(shopManifest, pod)
	if err := os.WriteFile(filepath.Join(p.dir, "shop.yaml"), []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

func (p *program) start() {
	p.t.Helper()
	p.log = &subject.Log{}
	p.cmd = p.lab.Host(netlab.NodeA).Command(context.Background(), p.path, "--manifest="+p.dir,
		"--hostname-override=node-a", "--cluster-cidr=10.180.0.0/16")
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// stop ends the program and waits for it; it reports how it ended.
func (p *program) stop(sig syscall.Signal) error {
	if p.cmd == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(sig)
	err := p.cmd.Wait()
	p.cmd = nil
	return err
}

// until waits for something to be so.
func (p *program) until(what string, within time.Duration, so func() bool) time.Duration {
	p.t.Helper()
	for start := time.Now(); time.Since(start) < within; time.Sleep(5 * time.Millisecond) {
		if so() {
			return time.Since(start)
		}
	}
	p.t.Fatalf("not within %s: %s\n%s", within, what, p.log)
	return 0
}

func (p *program) answers(dst netip.AddrPort, protocol proxier.Protocol, pod netip.Addr) bool {
	r := p.lab.Host(netlab.Outside).Probe(context.Background(), netlab.Probe{Protocol: protocol, Dst: dst, Timeout: 300 * time.Millisecond})
	return r.Endpoint == pod.String()
}

func (p *program) saved() string {
	p.t.Helper()
	out, err := p.lab.Host(netlab.NodeA).Output(context.Background(), "iptables-save")
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// inSync waits for the line of the first apply of IPv4, and returns it.
func (p *program) inSync() string {
	p.t.Helper()
	var line string
	p.until("in sync", 10*time.Second, func() bool {
		for l := range strings.Lines(p.log.String()) {
			if strings.Contains(l, "msg=applied family=IPv4") {
				line = l
			}
		}
		return line != ""
	})
	return line
}

// TestBinary runs the built program through a day: start, an edit, a file that is
// broken for a while, a stale UDP flow, kill -9 under load, SIGTERM, cleanup.
func TestBinary(t *testing.T) {
	p := newProgram(t)
	p.start()
	p.inSync()
	p.until("the service answers", 5*time.Second, func() bool { return p.answers(shopTCP, proxier.TCP, oldPod) })

	flow := p.udpFlow()
	if got := flow.ask(); got != oldPod.String() {
		t.Fatalf("the UDP flow reached %q", got)
	}

	broken := filepath.Join(p.dir, "broken.yaml")
	if err := os.WriteFile(broken, []byte("kind: Service\napiVersion: v1\nspec: {ports: [{port: eighty}]}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.until("the broken file is named", 3*time.Second, func() bool { return strings.Contains(p.log.String(), "broken.yaml:3") })
	if !p.answers(shopTCP, proxier.TCP, oldPod) {
		t.Error("a broken file took a service out")
	}

	p.write(newPod)
	took := p.until("the edit takes effect", 5*time.Second, func() bool { return p.answers(shopTCP, proxier.TCP, newPod) })
	t.Logf("an edit took effect in %s", took)
	took = p.until("the UDP flow follows", 2*time.Second, func() bool { return flow.ask() == newPod.String() })
	t.Logf("the UDP flow with its old source port followed in %s", took)

	p.checkServers()
	p.killUnderLoad()

	if err := p.stop(syscall.SIGTERM); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	if !p.answers(shopTCP, proxier.TCP, newPod) {
		t.Error("a stopped program leaves the service working")
	}
	out, err := p.lab.Host(netlab.NodeA).Output(context.Background(), p.path, "cleanup")
	if err != nil || strings.Contains(p.saved(), "KUBE-") {
		t.Errorf("cleanup: %v\n%s\n%s", err, out, p.saved())
	}
}

// checkServers asks what probes, scrapers and people ask.
func (p *program) checkServers() {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return p.lab.Host(netlab.NodeA).Dial(ctx, network, netip.AddrPort{}, netip.MustParseAddrPort(addr))
		},
	}}
	for url, want := range map[string]string{
		"http://127.0.0.1:10256/healthz":   `"nodeEligible":true`,
		"http://127.0.0.1:10256/livez":     `"healthy":true`,
		"http://127.0.0.1:10249/healthz":   "ok",
		"http://127.0.0.1:10249/proxyMode": "iptables",
		"http://127.0.0.1:10249/metrics":   `kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}`,
	} {
		resp, err := client.Get(url)
		if err != nil {
			p.t.Error(err)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			p.t.Errorf("%s: %s, without %q:\n%.2000s", url, resp.Status, want, body)
		}
	}
}

// killUnderLoad kills the program and starts it again while connections are made
// all the time: none may fail, and the restart has nothing to write.
func (p *program) killUnderLoad() {
	t := p.t
	ctx, cancel := context.WithCancel(context.Background())
	var tried, failed int
	var wait sync.WaitGroup
	wait.Go(func() {
		for ctx.Err() == nil {
			tried++
			if !p.answers(shopTCP, proxier.TCP, newPod) {
				failed++
			}
		}
	})
	for range 5 {
		before := p.saved()
		_ = p.stop(syscall.SIGKILL)
		p.start()
		if line := p.inSync(); !strings.Contains(line, "operations=0") {
			t.Errorf("a restart without a change writes: %s", line)
		}
		if after := p.saved(); countersOff(after) != countersOff(before) {
			t.Errorf("a restart changed the rules:\n%s\nwere\n%s", after, before)
		}
	}
	cancel()
	wait.Wait()
	if failed > 0 || tried < 100 {
		t.Errorf("%d of %d connects failed through 5 kill -9 and restarts", failed, tried)
	}
	t.Logf("%d connects through 5 kill -9 and restarts, %d failed", tried, failed)
}

// countersOff takes the counters of base chains and the dates out of a dump.
func countersOff(dump string) string {
	var b strings.Builder
	for line := range strings.Lines(dump) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		if name, _, ok := strings.Cut(line, " ["); ok && line[0] == ':' {
			line = name + "\n"
		}
		b.WriteString(line)
	}
	return b.String()
}

// udpFlow is a client that keeps its socket, as a resolver does.
type udpFlow struct{ conn net.Conn }

func (p *program) udpFlow() *udpFlow {
	p.t.Helper()
	conn, err := p.lab.Host(netlab.Outside).Dial(context.Background(), "udp", netip.AddrPort{}, shopUDP)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	return &udpFlow{conn}
}

// ask returns who answers a datagram, "" if nobody does.
func (f *udpFlow) ask() string {
	_ = f.conn.SetDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := f.conn.Write([]byte("who\n")); err != nil {
		return ""
	}
	buf := make([]byte, 512)
	n, err := f.conn.Read(buf)
	if err != nil {
		return ""
	}
	who, _, _ := strings.Cut(string(buf[:n]), " ")
	return who
}
