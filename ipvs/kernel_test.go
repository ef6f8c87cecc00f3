package ipvs

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"switchyard/iptables/ruleset"
	"switchyard/ipvs/dummy"
	"switchyard/ipvs/ipset"
	"switchyard/ipvs/vs"
	"switchyard/proxier"
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
		uml.Case{Name: "Distribution", Test: testDistribution},
		uml.Case{Name: "Speed", Test: testSpeed},
	)
}

// realBackend is a backend on the kernel's doors, and the way to end it.
func realBackend(t *testing.T) *Backend {
	t.Helper()
	tool, err := ruleset.Find(t.Context(), proxier.IPv4, ruleset.Legacy)
	if err != nil {
		t.Fatal(err)
	}
	loadMatches()
	servers, err1 := vs.Open(vs.Options{})
	sets, err2 := ipset.Open(ipset.Options{})
	device, err3 := dummy.Open(dummy.Options{Name: deviceName})
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	b := &Backend{
		family: proxier.IPv4, config: Config{MasqueradeBit: 14, RandomFully: true, Scheduler: "rr"},
		servers: servers, sets: sets, device: device, rules: tool, hasher: ruleset.NewHasher(),
		tuner: sysctls{}, log: slog.New(slog.DiscardHandler), since: map[vs.Key]leavings{},
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
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

// testForeignAndCleanup leaves to others what is theirs.
func testForeignAndCleanup(t *testing.T) {
	b := realBackend(t)
	foreign := vs.At(proxier.TCP, addrPort("9.9.9.9:99"))
	if err := b.servers.Add(foreign, vs.Server{Scheduler: "rr"}); err != nil {
		t.Fatal(err)
	}
	run(t, "ipset create CORP hash:ip")
	apply(t, b, stateOf(many(3)...))
	apply(t, b, stateOf(many(1)...))
	removed, err := cleanup(t.Context())
	t.Logf("removed: %q", removed)
	if err != nil {
		t.Error(err)
	}
	left, err := b.servers.Servers(proxier.IPv4)
	if _, stands := left[foreign]; err != nil || !stands || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
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
	run(t, "ipset destroy CORP")
	_ = b.servers.Delete(foreign)
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
	c, err := d.Dial("tcp4", to)
	if err != nil {
		return nil, "", err
	}
	buf := make([]byte, 64)
	_ = c.SetReadDeadline(time.Now().Add(timeout))
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
			if scheduler == "rr" && !hold && (n[0] != n[1] || n[1] != n[2]) {
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

// testSpeed compares the backend with the bare calls for the same content, and one
// change among many services with the same among few.
func testSpeed(t *testing.T) {
	const services = 100
	clean(t)
	b := realBackend(t)
	apply(t, b, stateOf())
	want := stateOf(many(services)...)
	start := time.Now()
	apply(t, b, want)
	ours := time.Since(start)
	change := oneChange(t, b, want)

	apply(t, b, stateOf())
	start = time.Now()
	bare(t, b, want)
	plain := time.Since(start)
	apply(t, realBackend(t), want)
	few := oneChange(t, realBackend(t), stateOf(many(10)...))
	t.Logf("%d services: %s, bare calls %s, ratio %.2f; one endpoint among them %s, among 10 %s, ratio %.2f",
		services, ours, plain, ours.Seconds()/plain.Seconds(), change, few, change.Seconds()/few.Seconds())
	if ratio := ours.Seconds() / plain.Seconds(); ratio > 1.3 {
		t.Errorf("the cold start takes %.2f times the bare calls, want 1.3 at most", ratio)
	}
}

// oneChange is the time that an endpoint more takes, the middle of five.
func oneChange(t *testing.T, b *Backend, want *proxier.State) time.Duration {
	t.Helper()
	apply(t, b, want)
	var took []time.Duration
	for i := range 5 {
		next := *want
		next.Services = slices.Clone(want.Services)
		s := *next.Services[0]
		s.Cluster = append(slices.Clone(s.Cluster), proxier.Endpoint{Addr: addrPort(fmt.Sprintf("10.182.0.%d:8080", i+1))})
		next.Services[0] = &s
		r := apply(t, b, &next)
		took = append(took, r.Took)
		apply(t, b, want)
	}
	slices.Sort(took)
	return took[2]
}

// bare makes the content of a State by the plainest calls.
func bare(t *testing.T, b *Backend, want *proxier.State) {
	t.Helper()
	m := newMemory(want.Family, &b.config)
	m.move(want)
	bySet := map[set][]ipset.Entry{}
	for _, e := range m.entries.pending(true) {
		bySet[e.set] = append(bySet[e.set], e.entry)
	}
	var errs []error
	for s, entries := range bySet {
		errs = append(errs, b.sets.Change(s.name(want.Family), entries, nil))
	}
	for key, s := range m.servers {
		errs = append(errs, b.servers.Add(key, s.want.Server))
		for _, d := range s.want.pool {
			errs = append(errs, b.servers.AddDestination(key, d))
		}
	}
	errs = append(errs, b.device.Change(m.addrs.pending(true), nil))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
