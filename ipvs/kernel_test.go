package ipvs

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"switchyard/ipvs/vs"
	"switchyard/proxier"
	"switchyard/test/netlab"
	"switchyard/test/uml"
)

// connections is how many testDistribution opens for each scheduler.
var connections = flag.Int("connections", 120, "connections for each scheduler of the distribution test")

// TestKernel is the backend in a kernel that has IPVS.
func TestKernel(t *testing.T) {
	uml.Tests(t, uml.Options{},
		uml.Case{Name: "Restart", Test: testRestart},
		uml.Case{Name: "ForeignAndCleanup", Test: testForeignAndCleanup},
		uml.Case{Name: "SchedulerThatCannotBeLoaded", Test: testUnloadable},
		uml.Case{Name: "Localhost", Test: testLocalhost},
		uml.Case{Name: "AnothersAddress", Test: testAnothersAddress},
		uml.Case{Name: "Idle", Test: testIdle},
		uml.Case{Name: "Reuse", Test: testReuse},
		uml.Case{Name: "AffinityEnds", Test: testAffinityEnds},
		uml.Case{Name: "LargeSet", Test: testLargeSet},
		uml.Case{Name: "Device", Test: testDevice},
		uml.Case{Name: "Distribution", Test: testDistribution},
	)
}

// TestSpeed measures in that kernel.
func TestSpeed(t *testing.T) {
	uml.Tests(t, uml.Options{Memory: "3072M"},
		uml.Case{Name: "ColdStart", Test: testColdStart},
		uml.Case{Name: "Change", Test: testChange},
		uml.Case{Name: "Connect", Test: testConnect},
	)
}

// clean takes all of ours out of the kernel when the test is over.
func clean(t *testing.T) {
	t.Cleanup(func() {
		if _, err := cleanup(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// testRestart holds that a new process finds all right, and that every kind of drift
// is mended.
func testRestart(t *testing.T) {
	clean(t)
	want := stateOf(many(5)...)
	b := realBackend(t)
	r := apply(t, b, want)
	t.Logf("cold: %d operations, %v", r.Operations, r.Total)
	if r := apply(t, realBackend(t), want); r.Operations != 0 {
		t.Errorf("after a restart: %d operations, written %v, deleted %v", r.Operations, r.Written, r.Deleted)
	}
	for _, command := range []string{
		"ip link del kube-ipvs0", "ipset flush KUBE-CLUSTER-IP", "iptables-legacy -t nat -F KUBE-SERVICES",
		"iptables-legacy -t mangle -F OUTPUT", "ip addr add 9.9.9.9/32 dev kube-ipvs0", "ip addr del 172.30.0.1/32 dev kube-ipvs0",
	} {
		if what, err := b.Drifted(t.Context()); what != "" || err != nil {
			t.Fatalf("before %s: %q, %v", command, what, err)
		}
		run(t, command)
		what, err := "", error(nil)
		for begun := time.Now(); what == "" && err == nil && time.Since(begun) < 3*maxLook; time.Sleep(time.Second) {
			what, err = b.Drifted(t.Context())
		}
		if what == "" || err != nil {
			t.Errorf("%s: noticed %q, %v", command, what, err)
		}
		apply(t, b, want)
		if r := apply(t, realBackend(t), want); r.Operations != 0 {
			t.Errorf("%s: not all was mended: %d operations more", command, r.Operations)
		}
	}
}

func run(t *testing.T, command string) string {
	t.Helper()
	words := strings.Fields(command)
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

// others are virtual servers of other programs: at addresses of nobody's, at one of the
// node, at one in the excluded ranges, and for packets with a mark.
const others = `-A -t 9.9.9.9:99 -s lc
-a -t 9.9.9.9:99 -r 9.9.9.8:1 -m -w 5
-A -u 9.9.9.9:53 -s wlc -p 300
-a -u 9.9.9.9:53 -r 9.9.9.8:53 -g -w 1
-A -t 192.168.0.2:8443 -s rr
-a -t 192.168.0.2:8443 -r 9.9.9.8:1 -m -w 1
-A -t 172.31.0.1:80 -s rr
-a -t 172.31.0.1:80 -r 9.9.9.8:1 -m -w 0
-A -f 7 -s sh
-a -f 7 -r 9.9.9.8:0 -m -w 1`

// testForeignAndCleanup leaves to others what is theirs.
func testForeignAndCleanup(t *testing.T) {
	netlab.Alone(t)
	for line := range strings.SplitSeq(others, "\n") {
		run(t, "ipvsadm "+line)
	}
	run(t, "ipset create CORP hash:ip")
	before := run(t, "ipvsadm -Sn")
	b := realBackend(t)
	b.config.Exclude = []netip.Prefix{netip.MustParsePrefix("172.31.0.0/16")}
	excluded := clusterIP("excluded", "172.31.0.1:80", proxier.TCP, "10.180.0.2:8080")
	r := apply(t, b, stateOf(append(many(3), excluded)...))
	if len(r.Notes) != 1 || !strings.Contains(r.Notes[0].Text, "172.31.0.1 is in the excluded ranges") {
		t.Errorf("notes: %v", r.Notes)
	}
	now := run(t, "ipvsadm -Sn")
	for line := range strings.Lines(before) {
		if !strings.Contains(now, line) {
			t.Errorf("while it runs: %q is gone from\n%s", line, now)
		}
	}
	apply(t, b, stateOf(many(1)...))
	removed, err := cleanup(t.Context())
	t.Logf("removed: %q", removed)
	if err != nil {
		t.Error(err)
	}
	if left := run(t, "ipvsadm -Sn"); left != before {
		t.Errorf("left:\n%s\nwant:\n%s", left, before)
	}
	if names := strings.Fields(run(t, "ipset list -n")); !slices.Equal(names, []string{"CORP"}) {
		t.Errorf("sets left: %v", names)
	}
	for _, table := range tableNames {
		if rules := run(t, "iptables-legacy -t "+table+" -S"); strings.Contains(rules, "KUBE-") {
			t.Errorf("table %s:\n%s", table, rules)
		}
	}
	if removed, err := cleanup(t.Context()); err != nil || len(removed) != 0 {
		t.Errorf("again: removed %q, %v", removed, err)
	}
}

// testUnloadable falls back where the kernel has no module.
func testUnloadable(t *testing.T) {
	clean(t)
	modprobe, err := os.ReadFile("/proc/sys/kernel/modprobe")
	if err != nil {
		t.Fatal(err)
	}
	_ = exec.Command("rmmod", "ip_vs_sed").Run()
	if err := os.WriteFile("/proc/sys/kernel/modprobe", []byte("/bin/false"), 0o644); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.WriteFile("/proc/sys/kernel/modprobe", modprobe, 0o644) }()
	s := clusterIP("web", "172.30.0.1:80", proxier.TCP, "10.180.0.2:8080")
	s.Scheduler = "sed"
	b := realBackend(t)
	r := apply(t, b, stateOf(s))
	if len(r.Notes) != 1 || !strings.Contains(r.Notes[0].Text, "ip_vs_sed") {
		t.Errorf("notes: %v", r.Notes)
	}
	servers, err := b.servers.Servers(proxier.IPv4)
	if got := servers[key(s)]; err != nil || got.Scheduler != "rr" {
		t.Errorf("server: %v, %v", got, err)
	}
}

// hall is three endpoints, and clients with addresses of their own, all on this
// machine.
func hall(t *testing.T) {
	t.Helper()
	for _, a := range []string{"10.180.0.2/32", "10.180.0.3/32", "10.180.0.4/32", "10.181.0.1/16", "192.168.0.2/32"} {
		run(t, "ip addr replace "+a+" dev lo")
	}
	for _, a := range endpointsOfHall {
		l, err := net.Listen("tcp", a)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go greet(l)
	}
}

var endpointsOfHall = []string{"10.180.0.2:8080", "10.180.0.3:8080", "10.180.0.4:8080"}

// greet tells each client which endpoint it reached, and waits for it to go.
func greet(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			_, _ = c.Write([]byte(l.Addr().String() + "\n"))
			_, _ = c.Read(make([]byte, 1))
		}()
	}
}

// dial connects from a client's address and returns the endpoint that answered.
func dial(from netip.Addr, to string, timeout time.Duration) (net.Conn, string, error) {
	d := net.Dialer{Timeout: timeout}
	if from.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: from.AsSlice()}
	}
	return greeted(d, to)
}

// greeted connects and waits for the greeting.
func greeted(d net.Dialer, to string) (net.Conn, string, error) {
	c, err := d.Dial("tcp4", to)
	if err != nil {
		return nil, "", err
	}
	buf := make([]byte, 64)
	_ = c.SetReadDeadline(time.Now().Add(d.Timeout))
	n, err := c.Read(buf)
	return c, strings.TrimSpace(string(buf[:n])), err
}

// testLocalhost is the probe of a named limit: IPVS drops what is sent from a
// loopback address to another machine. Should it ever pass, the limit can go.
func testLocalhost(t *testing.T) {
	clean(t)
	run(t, "ip link add far type dummy")
	defer run(t, "ip link del far")
	run(t, "ip link set far up")
	run(t, "ip route add 10.182.0.0/16 dev far")
	b := realBackend(t)
	for _, at := range []string{"127.0.0.1:30080", "10.183.0.1:30080"} {
		key := vs.At(proxier.TCP, addrPort(at))
		if err := errors.Join(b.servers.Add(key, vs.Server{Scheduler: "rr"}),
			b.servers.AddDestination(key, vs.Destination{Addr: addrPort("10.182.0.2:8080"), Weight: 1})); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = b.servers.Delete(key) }()
	}
	run(t, "ip addr add 10.183.0.1/32 dev lo")
	sent := func(to string) bool {
		before := run(t, "cat /sys/class/net/far/statistics/tx_packets")
		_, _, _ = dial(netip.Addr{}, to, time.Second)
		return run(t, "cat /sys/class/net/far/statistics/tx_packets") != before
	}
	if !sent("10.183.0.1:30080") {
		t.Error("the probe itself does not work: nothing went out from an address that is no loopback")
	}
	if sent("127.0.0.1:30080") {
		t.Error("a packet from 127.0.0.1 went out: node ports could answer there now, and the limit in docs/ipvs.md go")
	}
}

// testAnothersAddress is the probe of a named limit: an external IP that is another
// machine's address is local here, so that machine is not reached by it. Should it
// ever pass, the limit can go.
func testAnothersAddress(t *testing.T) {
	netlab.Alone(t)
	run(t, "ip link add far type dummy")
	run(t, "ip link set far up")
	run(t, "ip route add 10.182.0.0/16 dev far")
	s := clusterIP("web", "10.182.0.9:80", proxier.TCP, "10.180.0.2:8080")
	s.Frontends[0].Kind = proxier.ExternalIP
	s.Frontends[0].Routes = []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToCluster, Masq: true}}
	if before := run(t, "ip route get 10.182.0.9"); !strings.Contains(before, "dev far") {
		t.Fatalf("the probe itself does not work: %s", before)
	}
	apply(t, realBackend(t), stateOf(s))
	if after := run(t, "ip route get 10.182.0.9"); strings.Contains(after, "dev far") {
		t.Errorf("it is still another machine's: the limit in docs/ipvs.md can go: %s", after)
	}
}

// testIdle: a connection that was idle for longer than the TCP timeout of IPVS ends with
// a reset at its next packet; it does not hang. A shorter one goes on.
func testIdle(t *testing.T) {
	netlab.Alone(t)
	hall(t)
	b := realBackend(t)
	b.settings.TCP = 5 * time.Second
	apply(t, b, stateOf(clusterIP("web", "172.30.0.1:80", proxier.TCP, endpointsOfHall...)))
	for _, c := range []struct {
		idle time.Duration
		ends bool
	}{{time.Second, false}, {12 * time.Second, true}} {
		conn, _, err := dial(addr("10.181.1.1"), "172.30.0.1:80", 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(c.idle)
		_, err = conn.Write([]byte{1})
		begun := time.Now()
		_ = conn.SetReadDeadline(begun.Add(10 * time.Second))
		if err == nil { // the endpoint hangs up once it has heard something
			_, err = conn.Read(make([]byte, 1))
		}
		if ends := errors.Is(err, syscall.ECONNRESET); ends != c.ends {
			t.Errorf("idle for %s: after %s %v, want a reset: %t", c.idle, time.Since(begun), err, c.ends)
		}
		_ = conn.Close()
	}
}

// testDistribution measures where connections go by each scheduler: alone, and while
// every second one stays open.
func testDistribution(t *testing.T) {
	hall(t)
	clean(t)
	b := realBackend(t)
	var table strings.Builder
	for _, scheduler := range []string{"rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "sh,sh-port", "mh", "mh,mh-port",
		"lblc", "lblcr", "dh", "fo", "ovf"} {
		s := clusterIP("web", "172.30.0.1:80", proxier.TCP, endpointsOfHall...)
		s.Scheduler = scheduler
		if scheduler == "ovf" { // its weights are how many connections an endpoint takes
			for i := range s.Cluster {
				s.Cluster[i].Weight = uint16(*connections / 3)
			}
		}
		fmt.Fprintf(&table, "| `%s` |", scheduler)
		for _, hold := range []bool{false, true} {
			apply(t, b, stateOf())
			apply(t, b, stateOf(s))
			n, err := spread(hold)
			if err != nil {
				t.Fatalf("%s: %v\n%s", scheduler, err, run(t, "ipvsadm -Ln"))
			}
			fmt.Fprintf(&table, " %d · %d · %d |", n[0], n[1], n[2])
			if scheduler == "rr" && !hold && slices.Max(n[:])-slices.Min(n[:]) > 1 {
				t.Errorf("rr is not even: %v", n)
			}
		}
		table.WriteByte('\n')
	}
	t.Logf("%d connections from 50 clients to three endpoints; then with every second one kept open\n%s", *connections, &table)
}

// spread opens connections and counts them by endpoint.
func spread(hold bool) (n [3]int, err error) {
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	for i := range *connections {
		from := netip.AddrFrom4([4]byte{10, 181, 1, byte(i%50 + 1)})
		c, who, err := dial(from, "172.30.0.1:80", 10*time.Second)
		if err != nil {
			return n, err
		}
		n[slices.Index(endpointsOfHall, who)]++
		if hold && i%2 == 0 {
			open = append(open, c)
			continue
		}
		_ = c.Close()
	}
	return n, nil
}
