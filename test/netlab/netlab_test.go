package netlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
}

func standard(t *testing.T) *Cluster {
	t.Helper()
	needRoot(t)
	start := time.Now()
	c, err := NewCluster("test", StandardPods()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d hosts in %v", len(c.Hosts()), time.Since(start).Round(time.Millisecond))
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func serve(t *testing.T, c *Cluster, host, addr string) {
	t.Helper()
	for _, proto := range []proxier.Protocol{proxier.TCP, proxier.UDP} {
		if err := c.Serve(c.Host(host), proto, ap(addr), addr); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEveryoneReachesEveryone: without a proxy each server answers each client
// over both protocols and families, and sees the client's own address.
func TestEveryoneReachesEveryone(t *testing.T) {
	c := standard(t)
	servers := []struct{ host, v4, v6 string }{
		{"pod-a1", "10.180.0.11:8080", "[fd00:10:180::11]:8080"},
		{"pod-b2", "10.180.1.12:8080", "[fd00:10:180:0:1::12]:8080"},
		{NodeA, "192.168.0.2:8080", "[fd00:192:168::2]:8080"},
		{NodeA, "192.168.7.2:8080", "[fd00:192:168:7::2]:8080"},
		{NodeB, "192.168.0.3:8080", "[fd00:192:168::3]:8080"},
		{Outside, "203.0.113.8:8080", "[2001:db8:113::8]:8080"},
	}
	clients := []struct{ host, v4, v6 string }{
		{"pod-a1", "10.180.0.11:0", "[fd00:10:180::11]:0"},
		{"pod-a3", "10.180.0.13:0", "[fd00:10:180::13]:0"},
		{"pod-b2", "10.180.1.12:0", "[fd00:10:180:0:1::12]:0"},
		{"pod-b3", "10.180.1.13:0", "[fd00:10:180:0:1::13]:0"},
		{NodeA, "192.168.0.2:0", "[fd00:192:168::2]:0"},
		{NodeA, "192.168.7.2:0", "[fd00:192:168:7::2]:0"},
		{NodeB, "192.168.0.3:0", "[fd00:192:168::3]:0"},
		{Outside, "203.0.113.7:0", "[2001:db8:113::7]:0"},
		{Outside, "203.0.113.8:0", "[2001:db8:113::8]:0"},
	}
	for _, s := range servers {
		serve(t, c, s.host, s.v4)
		serve(t, c, s.host, s.v6)
	}
	for _, from := range clients {
		for _, to := range servers {
			checkReaches(t, c.Host(from.host), ap(from.v4), ap(to.v4))
			checkReaches(t, c.Host(from.host), ap(from.v6), ap(to.v6))
		}
	}
}

func checkReaches(t *testing.T, from *Host, src, dst netip.AddrPort) {
	t.Helper()
	for _, proto := range []proxier.Protocol{proxier.TCP, proxier.UDP} {
		r := from.Probe(t.Context(), Probe{Protocol: proto, Src: src, Dst: dst})
		if r.Verdict != Answered || r.Endpoint != dst.String() || r.ClientSeen.Addr() != src.Addr() {
			t.Errorf("%s from %s %s to %s: %s by %q, client seen as %s (%v)",
				proto, from.Name(), src.Addr(), dst, r.Verdict, r.Endpoint, r.ClientSeen, r.Err)
		}
	}
}

// TestPodPacketsPassTheNode: a pod's packet enters node-a by cbr0, also when
// both ends are its pods, and so does the reply.
func TestPodPacketsPassTheNode(t *testing.T) {
	c := standard(t)
	for _, tool := range []struct{ name, server string }{
		{"iptables", "10.180.0.12:8080"},
		{"ip6tables", "[fd00:10:180::12]:8080"},
	} {
		serve(t, c, "pod-a2", tool.server)
		count(t, c, tool.name)
		r := c.Host("pod-a1").Probe(t.Context(), Probe{Protocol: proxier.UDP, Dst: ap(tool.server)})
		if r.Verdict != Answered {
			t.Fatalf("%s: %s: %v", tool.server, r.Verdict, r.Err)
		}
		out, err := c.Host(NodeA).Output(t.Context(), tool.name, "-t", "raw", "-L", "PREROUTING", "-v", "-x", "-n")
		if err != nil {
			t.Fatal(err)
		}
		fields := strings.Fields(strings.Split(out, "\n")[2])
		if fields[0] != "2" {
			t.Errorf("%s: %s UDP packets entered by cbr0, want the question and the reply:\n%s", tool.server, fields[0], out)
		}
	}
}

func count(t *testing.T, c *Cluster, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		t.Skipf("missing: %s; install the package iptables", tool)
	}
	_, err := c.Host(NodeA).Output(t.Context(), tool, "-t", "raw", "-A", "PREROUTING", "-i", PodBridge, "-p", "udp")
	if err != nil {
		t.Fatal(err)
	}
}

// TestTranslatedConnections: with rules as a proxy would make them, replies
// find their way back, whoever asks and wherever the pod is.
func TestTranslatedConnections(t *testing.T) {
	c := standard(t)
	const local, remote = "10.180.0.12:8080", "10.180.1.12:8080"
	serve(t, c, "pod-a2", local)
	serve(t, c, "pod-b2", remote)
	rules := [][]string{
		{"-t", "nat", "-A", "PREROUTING", "-d", "172.30.0.1", "-j", "DNAT", "--to-destination", "10.180.0.12"},
		{"-t", "nat", "-A", "PREROUTING", "-d", "172.30.0.2", "-j", "DNAT", "--to-destination", "10.180.1.12"},
		{"-t", "nat", "-A", "OUTPUT", "-d", "172.30.0.1", "-j", "DNAT", "--to-destination", "10.180.0.12"},
		{"-t", "nat", "-A", "OUTPUT", "-d", "172.30.0.2", "-j", "DNAT", "--to-destination", "10.180.1.12"},
		{"-A", "FORWARD", "-d", "172.30.0.3", "-j", "REJECT"},
		{"-A", "OUTPUT", "-d", "172.30.0.3", "-j", "REJECT"},
		{"-A", "FORWARD", "-d", "172.30.0.4", "-j", "DROP"},
		{"-A", "OUTPUT", "-d", "172.30.0.4", "-j", "DROP"},
		{"-t", "nat", "-A", "POSTROUTING", "-s", "203.0.113.0/24", "-d", "10.180.1.12", "-j", "MASQUERADE"},
		{"-t", "nat", "-A", "POSTROUTING", "-s", "10.180.0.12", "-d", "10.180.0.12", "-j", "MASQUERADE"},
	}
	for _, r := range rules {
		if _, err := c.Host(NodeA).Output(t.Context(), "iptables", r...); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		from, dst string
		verdict   Verdict
		endpoint  string
		seen      string
	}{
		{"pod-a1", "172.30.0.1:8080", Answered, local, "10.180.0.11"},
		{"pod-a2", "172.30.0.1:8080", Answered, local, "10.180.0.1"}, // itself
		{"pod-a1", "172.30.0.2:8080", Answered, remote, "10.180.0.11"},
		{NodeA, "172.30.0.1:8080", Answered, local, "192.168.0.2"},
		{NodeA, "172.30.0.2:8080", Answered, remote, "192.168.0.2"},
		{Outside, "172.30.0.1:8080", Answered, local, "203.0.113.7"},
		{Outside, "172.30.0.2:8080", Answered, remote, "192.168.0.2"},
		{"pod-a1", "172.30.0.3:8080", Refused, "", ""},
		{Outside, "172.30.0.3:8080", Refused, "", ""},
		{NodeA, "172.30.0.3:8080", Refused, "", ""},
		{"pod-a1", "172.30.0.4:8080", Timeout, "", ""},
		{NodeA, "172.30.0.4:8080", Timeout, "", ""},
		{Outside, "172.30.9.9:8080", Timeout, "", ""},   // nobody's
		{"pod-a1", "10.180.0.12:81", Refused, "", ""},   // a closed port
		{"pod-a1", "10.180.0.99:81", Timeout, "", ""},   // nobody answers ARP within 400 ms
		{Outside, "192.168.0.2:30000", Refused, "", ""}, // no such node port
	}
	for _, tt := range tests {
		for _, proto := range []proxier.Protocol{proxier.TCP, proxier.UDP} {
			r := c.Host(tt.from).Probe(t.Context(), Probe{Protocol: proto, Dst: ap(tt.dst)})
			seen := ""
			if r.ClientSeen.IsValid() {
				seen = r.ClientSeen.Addr().String()
			}
			if r.Verdict != tt.verdict || r.Endpoint != tt.endpoint || seen != tt.seen {
				t.Errorf("%s from %s to %s: %s by %q, client seen as %q (%v); want %s by %q, %q",
					proto, tt.from, tt.dst, r.Verdict, r.Endpoint, seen, r.Err, tt.verdict, tt.endpoint, tt.seen)
			}
		}
	}
}

// TestForgetFlows: a flow that began before the rules is bound to no rules; once
// forgotten, the same ports are translated.
func TestForgetFlows(t *testing.T) {
	c := standard(t)
	a := c.Host(NodeA)
	serve(t, c, "pod-a2", "10.180.0.12:8080")
	probe := Probe{Protocol: proxier.UDP, Src: ap("10.180.0.11:5000"), Dst: ap("172.30.0.1:8080")}
	dnat := []string{"-t", "nat", "-A", "PREROUTING", "-p", "udp", "-d", "172.30.0.1", "-j", "DNAT", "--to-destination"}
	for _, to := range []string{"10.180.0.99:8080", "10.180.0.12:8080"} {
		if _, err := a.Output(t.Context(), "iptables", append(dnat, to)...); err != nil {
			t.Fatal(err)
		}
		c.Host("pod-a1").Probe(t.Context(), probe)
		if _, err := a.Output(t.Context(), "iptables", "-t", "nat", "-F"); err != nil {
			t.Fatal(err)
		}
	}
	if r := c.Host("pod-a1").Probe(t.Context(), probe); r.Verdict != Timeout {
		t.Fatalf("the old flow: %s, want it to go where nobody is", r.Verdict)
	}
	if _, err := a.Output(t.Context(), "iptables", append(dnat, "10.180.0.12:8080")...); err != nil {
		t.Fatal(err)
	}
	if err := a.ForgetFlows(); err != nil {
		t.Fatal(err)
	}
	if r := c.Host("pod-a1").Probe(t.Context(), probe); r.Verdict != Answered {
		t.Errorf("after ForgetFlows: %s (%v)", r.Verdict, r.Err)
	}
}

// TestManyRefusals: the kernel's limit on ICMP errors does not show.
func TestManyRefusals(t *testing.T) {
	c := standard(t)
	for i := range 200 {
		for _, dst := range []string{"10.180.1.11:9", "[fd00:10:180:0:1::11]:9"} {
			r := c.Host(Outside).Probe(t.Context(), Probe{Protocol: proxier.UDP, Dst: ap(dst)})
			if r.Verdict != Refused {
				t.Fatalf("probe %d of %s: %s (%v), want refused", i, dst, r.Verdict, r.Err)
			}
		}
	}
}

// TestPodOutsideOfItsRange: everyone has a route to a pod with any address.
func TestPodOutsideOfItsRange(t *testing.T) {
	c := standard(t)
	pod := Pod{Name: "odd", Node: NodeB, Addrs: addrs("10.99.1.1", "fd99::1")}
	if _, err := c.AddPod(pod); err != nil {
		t.Fatal(err)
	}
	serve(t, c, "odd", "10.99.1.1:80")
	serve(t, c, "odd", "[fd99::1]:80")
	checkReaches(t, c.Host("pod-a1"), ap("10.180.0.11:0"), ap("10.99.1.1:80"))
	checkReaches(t, c.Host("pod-b1"), ap("10.180.1.11:0"), ap("10.99.1.1:80"))
	checkReaches(t, c.Host(Outside), ap("[2001:db8:113::7]:0"), ap("[fd99::1]:80"))
	checkReaches(t, c.Host(NodeA), ap("[fd00:192:168::2]:0"), ap("[fd99::1]:80"))
}

// TestDoIsInTheNamespaceAndComesBack: on many threads at once.
func TestDoIsInTheNamespaceAndComesBack(t *testing.T) {
	c := standard(t)
	home := here(t)
	want := map[string]string{}
	for _, h := range c.Hosts() {
		h.Do(func() error { want[h.Name()] = here(t); return nil })
		if want[h.Name()] == home {
			t.Fatalf("%s has the namespace of the test", h.Name())
		}
	}
	failure := errors.New("of the function")
	var all sync.WaitGroup
	for i := range 64 {
		h := c.Hosts()[i%len(c.Hosts())]
		all.Go(func() {
			err := h.Do(func() error {
				if got := here(t); got != want[h.Name()] {
					t.Errorf("in Do of %s: %s, want %s", h.Name(), got, want[h.Name()])
				}
				return failure
			})
			if !errors.Is(err, failure) {
				t.Errorf("Do returned %v, want the function's error", err)
			}
			if got := here(t); got != home {
				t.Errorf("after Do: %s, want %s", got, home)
			}
		})
	}
	all.Wait()
	for _, thread := range threads(t) {
		if thread != home {
			t.Errorf("a thread stayed in %s", thread)
		}
	}
}

// TestDoNested: a host's Do inside another's is in its own namespace.
func TestDoNested(t *testing.T) {
	c := standard(t)
	err := c.Host(NodeA).Do(func() error {
		outer := here(t)
		return c.Host(NodeB).Do(func() error {
			if inner := here(t); inner == outer {
				t.Errorf("both are in %s", inner)
			}
			return nil
		})
	})
	if err != nil {
		t.Error(err)
	}
}

func here(t *testing.T) string {
	t.Helper()
	ns, err := os.Readlink(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	if err != nil {
		t.Error(err)
	}
	return ns
}

func threads(t *testing.T) []string {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, task := range tasks {
		if ns, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/net"); err == nil {
			all = append(all, ns)
		}
	}
	return all
}

// TestCommandRunsOnTheHost: as the same process.
func TestCommandRunsOnTheHost(t *testing.T) {
	c := standard(t)
	h := c.Host("pod-b3")
	out, err := h.Output(t.Context(), "ip", "-brief", "address", "show", "dev", Uplink)
	if err != nil || !strings.Contains(out, "10.180.1.13/32") {
		t.Errorf("printed %q (%v), want the pod's address", out, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := h.Command(ctx, "sh", "-c", "echo $$")
	text, err := cmd.Output()
	if err != nil || strings.TrimSpace(string(text)) != fmt.Sprint(cmd.Process.Pid) {
		t.Errorf("the program is process %s, its Cmd says %d (%v)", text, cmd.Process.Pid, err)
	}
}

// TestDialFromAHost: the connection is used outside of the namespace.
func TestDialFromAHost(t *testing.T) {
	c := standard(t)
	serve(t, c, "pod-a1", "10.180.0.11:80")
	conn, err := c.Host(Outside).Dial(t.Context(), "tcp", ap("203.0.113.8:4711"), ap("10.180.0.11:80"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	if got := string(buf[:n]); got != "10.180.0.11:80 203.0.113.8:4711\n" {
		t.Errorf("read %q (%v)", got, err)
	}
}

// TestCloseLeavesNothing: no namespace of the lab, no new interface where the
// program runs; and it may be called again.
func TestCloseLeavesNothing(t *testing.T) {
	needRoot(t)
	before := interfaces(t)
	c, err := NewCluster("test", StandardPods()...)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, c, "pod-a1", "10.180.0.11:80")
	if got := interfaces(t); got != before {
		t.Errorf("the program's own namespace has the interfaces %s, had %s", got, before)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if left := namespaces(t, c.ID()); left != nil {
		t.Errorf("namespaces left: %v", left)
	}
	if got := interfaces(t); got != before {
		t.Errorf("interfaces after Close: %s, before: %s", got, before)
	}
	if _, err := c.AddHost("late"); err == nil {
		t.Error("a closed lab took a host")
	}
}

// TestClosedNamespacesEnd: the kernel takes a closed lab's interfaces away, seen
// by the other end of a cable to another lab.
func TestClosedNamespacesEnd(t *testing.T) {
	stays, goes := standard(t), standard(t)
	end := End{stays.Host(NodeA), "cable"}
	if err := Wire(end, End{goes.Host("pod-a1"), "cable"}); err != nil {
		t.Fatal(err)
	}
	if err := goes.Close(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); end.Host.up(end.Device) == nil; {
		if time.Now().After(deadline) {
			t.Fatal("the closed lab's interface still exists after 10 s")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func interfaces(t *testing.T) string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		// Other programs come and go here; a lab's names are known.
		if name := l.Attrs().Name; strings.HasPrefix(name, "pod-") || strings.HasPrefix(name, "node-") ||
			name == Outside || name == PodBridge {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

func namespaces(t *testing.T, id string) []string {
	t.Helper()
	entries, err := os.ReadDir(netnsDir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "sy-"+id) {
			names = append(names, e.Name())
		}
	}
	return names
}

// TestNewRemovesLeftovers: of dead owners only, and nobody else's.
func TestNewRemovesLeftovers(t *testing.T) {
	needRoot(t)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	left := fmt.Sprintf("sy-test.%d.beef-node-a", dead.Process.Pid)
	alive := fmt.Sprintf("sy-test.%d.beef-node-a", os.Getppid())
	foreign := fmt.Sprintf("sy-test-%d", dead.Process.Pid)
	for _, name := range []string{left, alive, foreign} {
		if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Cleanup(func() { unbind(name) })
	}
	lab, err := New("test")
	if err != nil {
		t.Fatal(err)
	}
	defer lab.Close()
	for name, want := range map[string]bool{left: false, alive: true, foreign: true} {
		_, err := os.Stat(netnsDir + "/" + name)
		if got := err == nil; got != want {
			t.Errorf("%s is there: %v, want %v", name, got, want)
		}
	}
}

// TestRefusals: what cannot be done is said, and why.
func TestRefusals(t *testing.T) {
	c := standard(t)
	a := c.Host(NodeA)
	icmp := Probe{Protocol: 1, Dst: ap("10.0.0.1:1")}
	foreign := Probe{Protocol: proxier.TCP, Src: ap("1.2.3.4:0"), Dst: ap("10.0.0.1:1")}
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"a lab's name", second(New("Bad Name")), `name "Bad Name" is not`},
		{"a host twice", second(c.AddHost(NodeA)), "there is one already"},
		{"a pod nowhere", second(c.AddPod(Pod{Name: "x", Node: Outside})), "is no node"},
		{"serve everywhere", c.Serve(a, proxier.UDP, ap("0.0.0.0:53"), "x"), "is not one address"},
		{"serve ICMP", c.Serve(a, 1, ap("192.168.0.2:53"), "x"), "no server for"},
		{"serve a foreign address", c.Serve(a, proxier.TCP, ap("192.168.0.3:53"), "x"), "cannot assign"},
		{"probe ICMP", a.Probe(t.Context(), icmp).Err, "no probe for"},
		{"probe from a foreign address", a.Probe(t.Context(), foreign).Err, "bind to 1.2.3.4"},
		{"a missing interface", a.AddBridge(""), "add bridge"},
		{"a sysctl that is not there", a.Sysctl(Setting{Path: "net/ipv4/nonsense", Value: "1"}), "nonsense"},
		{"a goroutine that ended", a.Do(func() error { runtime.Goexit(); return nil }), "did not return"},
	}
	for _, tt := range tests {
		if tt.err == nil || !strings.Contains(tt.err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one with %q", tt.name, tt.err, tt.want)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestCancelledProbe: a probe ends soon after its context.
func TestCancelledProbe(t *testing.T) {
	c := standard(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	start := time.Now()
	r := c.Host(Outside).Probe(ctx, Probe{Protocol: proxier.TCP, Dst: ap("172.30.0.9:80"), Timeout: time.Minute})
	if !errors.Is(r.Err, context.DeadlineExceeded) || time.Since(start) > 5*time.Second {
		t.Errorf("%s after %v: %v", r.Verdict, time.Since(start), r.Err)
	}
}
