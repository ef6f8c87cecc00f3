package boot

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"switchyard/proxier"
	"switchyard/test/netlab"
	"switchyard/test/subject"
)

// limit bounds every wait for what should come, on two busy cores.
const limit = 30 * time.Second

var (
	nodeAddr, clientAddr = netip.MustParsePrefix("192.168.0.2/24"), netip.MustParsePrefix("192.168.0.7/24")
	podAddr              = netip.MustParseAddr("10.180.0.11")
	server               = netip.MustParseAddrPort("192.168.0.7:8080") // the endpoint: the client's machine
	vip                  = netip.MustParseAddrPort("172.30.0.41:80")
	nodePort             = netip.MustParseAddrPort("192.168.0.2:30080")
)

const shop = `apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {type: NodePort, clusterIP: 172.30.0.41, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop-x, labels: {kubernetes.io/service-name: shop}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [192.168.0.7], nodeName: node-b}]
`

// machine is a node and a neighbour that is client and endpoint.
type machine struct {
	t              *testing.T
	lab            *netlab.Lab
	node, neighbor *netlab.Host
	binary, mode   string

	cmd   *exec.Cmd
	log   *subject.Log
	ended chan struct{}
}

// build builds the program as the image has it.
func build(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing: root, for network namespaces")
	}
	return subject.Build(t)
}

// bare is a node with nothing but lo, and a neighbour that no cable leads to.
func bare(t *testing.T, binary string) *machine {
	t.Helper()
	lab, err := netlab.New("boot")
	check(t, err)
	t.Cleanup(func() { check(t, lab.Close()) })
	m := &machine{t: t, lab: lab, binary: binary, mode: "iptables", log: &subject.Log{}}
	m.node, err = lab.AddHost("node")
	check(t, err)
	m.neighbor, err = lab.AddHost("neighbor")
	check(t, err)
	check(t, m.node.Sysctl(netlab.Setting{Path: "net/ipv4/ip_forward", Value: "1"}))
	return m
}

// plug gives the node its cable, its address and a server behind it.
func (m *machine) plug() {
	m.t.Helper()
	check(m.t, netlab.Wire(netlab.End{Host: m.node, Device: "eth0"}, netlab.End{Host: m.neighbor, Device: "eth0"}))
	check(m.t, m.node.AddAddr("eth0", nodeAddr))
	check(m.t, m.neighbor.AddAddr("eth0", clientAddr))
	anywhere := netip.MustParsePrefix("0.0.0.0/0")
	check(m.t, m.neighbor.AddRoute(netlab.Route{To: anywhere, Device: "eth0", Via: nodeAddr.Addr()}))
	check(m.t, m.node.AddRoute(netlab.Route{To: anywhere, Device: "eth0", Via: clientAddr.Addr()}))
	check(m.t, m.lab.Serve(m.neighbor, proxier.TCP, server, "server"))
}

// start runs the program, by way of a command that stands before it.
func (m *machine) start(inside []string, flags ...string) {
	m.t.Helper()
	dir := m.t.TempDir()
	check(m.t, os.WriteFile(dir+"/shop.yaml", []byte(shop), 0o644))
	line := append(append(inside, m.binary, "--manifest="+dir, "--hostname-override=node-a", "--proxy-mode="+m.mode), flags...)
	m.cmd = m.node.Command(context.Background(), line[0], line[1:]...)
	m.cmd.Stdout, m.cmd.Stderr = m.log, m.log
	check(m.t, m.cmd.Start())
	m.ended = make(chan struct{})
	go func() {
		defer close(m.ended)
		_ = m.cmd.Wait() // its state says how it ended
	}()
	m.t.Cleanup(func() {
		_ = m.cmd.Process.Signal(syscall.SIGTERM)
		<-m.ended
		if code := m.cmd.ProcessState.ExitCode(); code != 0 {
			m.t.Errorf("it ended with %d", code)
		}
		if m.t.Failed() {
			m.t.Logf("its log:\n%s", m.log)
		}
	})
}

func (m *machine) until(what string, so func() bool) {
	m.t.Helper()
	for start := time.Now(); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > limit {
			m.t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// says waits for a line of the log with all of these words.
func (m *machine) says(words ...string) {
	m.t.Helper()
	m.until("a line with "+strings.Join(words, ", "), func() bool {
		lines := m.log.Lines(words...)
		if len(lines) == 0 {
			return false
		}
		m.t.Logf("it says: %s", lines[0])
		return true
	})
}

// answers waits until a Service answers.
func (m *machine) answers(from *netlab.Host, to netip.AddrPort) netlab.Result {
	m.t.Helper()
	var r netlab.Result
	m.until("an answer at "+to.String(), func() bool {
		r = from.Probe(m.t.Context(), netlab.Probe{Protocol: proxier.TCP, Dst: to})
		return r.Verdict == netlab.Answered
	})
	return r
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
