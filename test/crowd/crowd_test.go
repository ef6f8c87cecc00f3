package crowd

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
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"switchyard/proxier/conntrack"
	"switchyard/test/netlab"
	"switchyard/test/subject"
	"switchyard/test/uml"
)

const (
	// The promises, for a million flows of which a tenth leads to an endpoint that goes.
	cleanIn  = 5 * time.Second
	changeIn = time.Second
	most     = 100 // MiB more than before
)

// program names the built program to the test in the other kernel.
const program = "SWITCHYARD_CROWD_PROGRAM"

// TestAFifth: the clean-up beside many flows is quick and small, and changes of
// Services do not wait for it. A namespace takes a quarter of a million flows unless
// the machine's administrator says otherwise, and the kernel thins them out before that;
// a fifth of a million gets a fifth of the time.
func TestAFifth(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("missing: root, for network namespaces")
	}
	crowd{binary: subject.Build(t), all: 200_000, clean: cleanIn / 5, change: changeIn}.play(t)
}

// TestAMillion is the whole, in a kernel whose limit is the test's to set. System calls
// are slow there, so times are given more room.
func TestAMillion(t *testing.T) {
	o := uml.Options{Memory: "2560M", Timeout: 5 * time.Minute}
	if !uml.Inside() {
		if err := uml.Missing(); err != nil {
			t.Skip("missing: ", err)
		}
		o.Env = []string{program + "=" + subject.Build(t)}
	}
	uml.Tests(t, o, uml.Case{Name: "cleanup", Test: func(t *testing.T) {
		check(t, os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_max", []byte("1200000"), 0o644))
		check(t, os.WriteFile("/sys/module/nf_conntrack/parameters/hashsize", []byte("262144"), 0o644))
		crowd{binary: os.Getenv(program), all: 1_000_000, clean: uml.Patience() * cleanIn, change: uml.Patience() * changeIn}.play(t)
	}})
}

// crowd is so many flows, a tenth of them stale, and what is promised beside them.
type crowd struct {
	binary        string
	all           int
	clean, change time.Duration
}

func (c crowd) stale() int { return c.all / 10 }

// dns is a UDP Service at 172.30.0.53 with endpoints, web one of TCP at an address.
func dns(endpoints ...string) string {
	return service("dns", "172.30.0.53", "UDP", 53) + slice("dns", "UDP", 53, endpoints...)
}

func web(n int) string {
	name, addr := fmt.Sprintf("web-%d", n), fmt.Sprintf("172.30.1.%d", n)
	return service(name, addr, "TCP", 80) + slice(name, "TCP", 80, "10.180.0.20")
}

func service(name, ip, protocol string, port int) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {clusterIP: %s, ports: [{protocol: %s, port: %d}]}\n---\n", name, ip, protocol, port)
}

func slice(name, protocol string, port int, endpoints ...string) string {
	return fmt.Sprintf("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: %s-x, labels: {kubernetes.io/service-name: %s}}\n"+
		"addressType: IPv4\nports: [{protocol: %s, port: %d}]\nendpoints: [{addresses: [%s]}]\n---\n", name, name, protocol, port,
		strings.Join(endpoints, "]}, {addresses: ["))
}

// flow is the i-th: the first go to the endpoint that goes, one in two of the others to
// the one that stays, the rest is none of ours.
func (c crowd) flow(i int) conntrack.Flow {
	// A pod, so that the flow is right without masquerade.
	client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 180, byte(128 + i>>16), byte(i >> 8)}), uint16(1024+i&255))
	server := netip.MustParseAddrPort("172.30.0.53:53")
	goes := netip.MustParseAddrPort("10.180.0.12:53")
	switch {
	case i < c.stale():
		goes = netip.MustParseAddrPort("10.180.0.11:53")
	case i%2 == 0:
		server = netip.MustParseAddrPort("192.0.2.53:53")
		goes = server
	}
	return conntrack.Flow{Src: client, Dst: server, ReplySrc: goes, ReplyDst: client}
}

func (c crowd) play(t *testing.T) {
	lab, err := netlab.New("crowd")
	check(t, err)
	t.Cleanup(func() { check(t, lab.Close()) })
	node, err := lab.AddHost("node")
	check(t, err)
	p := start(t, node, c.binary)
	p.write("dns.yaml", dns("10.180.0.11", "10.180.0.12"))
	p.write("web.yaml", web(1))
	p.until("the Services are in the kernel", func() bool { return p.rules("172.30.0.53/32") && p.rules("172.30.1.1/32") })

	began := time.Now()
	check(t, node.Do(func() error { return Fill(c.all, c.flow) }))
	before := p.memory("VmRSS:")
	t.Logf("%d flows put in within %s; the program has %d MiB", p.flows(), time.Since(began).Round(time.Millisecond), before)
	if n := p.flows(); n < c.all {
		t.Fatalf("the kernel holds %d flows", n)
	}

	passes := p.passes()
	p.write("web2.yaml", web(2))
	t.Logf("a TCP Service is in the kernel after %s", p.until("web-2", func() bool { return p.rules("172.30.1.2/32") }))
	time.Sleep(time.Second)
	if n := p.passes(); n != passes {
		t.Errorf("a change of a TCP Service made %v passes", n-passes)
	}

	p.write("dns.yaml", dns("10.180.0.12"))
	p.until("the endpoint is gone", func() bool { return !p.rules("10.180.0.11") })
	p.write("web3.yaml", web(3))
	took := p.until("web-3", func() bool { return p.rules("172.30.1.3/32") })
	early := len(deleted.FindAllString(p.log.String(), -1)) == 0
	p.until("the clean-up", func() bool { return deleted.MatchString(p.log.String()) })
	m := deleted.FindStringSubmatch(p.log.String())
	cleaned, err := time.ParseDuration(m[2])
	check(t, err)
	more := p.memory("VmHWM:") - before
	t.Logf("%s stale flows deleted in %s; a Service that came meanwhile (before the end: %v) was in the kernel after %s; %d MiB more at most; %d flows left",
		m[1], cleaned, early, took, more, p.flows())
	if m[1] != strconv.Itoa(c.stale()) || p.flows() < c.all-c.stale() {
		t.Errorf("%s flows deleted, %d left", m[1], p.flows())
	}
	if cleaned > c.clean || took > c.change || more > most {
		t.Errorf("clean-up %s, change %s, %d MiB more: promised are %s, %s and %d MiB", cleaned, took, more, c.clean, c.change, most)
	}
}

// deleted is the line of a pass.
var deleted = regexp.MustCompile(`msg="deleted stale flows" family=IPv4 flows=(\d+) duration=(\S+)`)

// running is the program at work.
type running struct {
	t    *testing.T
	host *netlab.Host
	dir  string
	cmd  *exec.Cmd
	log  *subject.Log
}

func start(t *testing.T, host *netlab.Host, binary string) *running {
	t.Helper()
	p := &running{t: t, host: host, dir: t.TempDir(), log: &subject.Log{}}
	p.cmd = host.Command(context.Background(), binary, "--manifest="+p.dir, "--hostname-override=node-a",
		"--cluster-cidr=10.180.0.0/16", "--iptables-min-sync-period=0")
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	check(t, p.cmd.Start())
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		_ = p.cmd.Wait()
		if t.Failed() {
			t.Logf("its log:\n%s", p.log)
		}
	})
	return p
}

func (p *running) write(name, text string) {
	p.t.Helper()
	check(p.t, os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o644))
}

func (p *running) until(what string, so func() bool) time.Duration {
	p.t.Helper()
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if so() {
			return time.Since(start).Round(time.Millisecond)
		}
		if time.Since(start) > time.Minute {
			p.t.Fatalf("not within a minute: %s", what)
		}
	}
}

// rules reports whether the nat table has a text.
func (p *running) rules(has string) bool {
	out, err := p.host.Output(context.Background(), "iptables-save", "-t", "nat")
	return err == nil && strings.Contains(out, has)
}

// flows are those that the kernel counts in the namespace.
func (p *running) flows() int {
	out, err := p.host.Output(context.Background(), "cat", "/proc/sys/net/netfilter/nf_conntrack_count")
	check(p.t, err)
	n, err := strconv.Atoi(strings.TrimSpace(out))
	check(p.t, err)
	return n
}

// memory is a line of the program's status, in MiB.
func (p *running) memory(name string) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	check(p.t, err)
	_, after, _ := strings.Cut(string(status), name)
	kib, err := strconv.Atoi(strings.Fields(after)[0])
	check(p.t, err)
	return kib >> 10
}

// passes are those that the program has made over the table.
func (p *running) passes() float64 {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return p.host.Dial(ctx, network, netip.AddrPort{}, netip.MustParseAddrPort(addr))
		}}}
	response, err := client.Get("http://127.0.0.1:10249/metrics")
	check(p.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	check(p.t, err)
	const series = `kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family="IPv4"} `
	_, after, found := strings.Cut(string(body), series)
	if !found {
		p.t.Fatalf("no %s", series)
	}
	n, err := strconv.ParseFloat(strings.Fields(after)[0], 64)
	check(p.t, err)
	return n
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
