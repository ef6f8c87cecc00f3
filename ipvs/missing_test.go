package ipvs

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"switchyard/iptables/ruleset"
	"switchyard/ipvs/dummy"
	"switchyard/ipvs/ipset"
	"switchyard/ipvs/vs"
	"switchyard/proxier"
	"switchyard/test/netlab"
	"switchyard/test/uml"
)

// TestMissing is the backend in a kernel that lacks what it needs, and gets one thing
// after the other.
func TestMissing(t *testing.T) {
	uml.Tests(t, uml.Options{Modules: []string{"iptable_filter", "iptable_nat", "iptable_mangle", "nf_conntrack"}},
		uml.Case{Name: "Modules", Test: testMissingModules},
		uml.Case{Name: "Permission", Test: testPermission},
		uml.Case{Name: "Prepare", Test: testPrepare},
	)
}

// testMissingModules: whatever module is missing, the error names it.
func testMissingModules(t *testing.T) {
	for _, step := range []struct{ lacks, load string }{
		{lacks: "load the module ip_vs", load: "ip_vs"},
		{lacks: "load the module ip_set", load: "ip_set"},
		{lacks: "dummy", load: "dummy"},
		{lacks: "ip_set_", load: "ip_set_hash_ip ip_set_hash_ipport ip_set_hash_ipportip ip_set_hash_ipportnet ip_set_bitmap_port"},
		{lacks: "xt_set", load: strings.Join(modules, " ") + " ip_vs_rr"},
	} {
		start := time.Now()
		err := withoutModules(t, func() error { return once(t) })
		t.Logf("without %s: %v", step.load, err)
		if err == nil || !strings.Contains(err.Error(), step.lacks) || time.Since(start) > 20*time.Second {
			t.Errorf("after %s: %v, want it to name %q", time.Since(start), err, step.lacks)
		}
		run(t, "modprobe -a "+step.load)
	}
	if err := withoutModules(t, func() error { return once(t) }); err != nil {
		t.Errorf("with all of them: %v", err)
	}
}

// once opens a backend as kube-proxy does, applies a State, and takes all out again.
func once(t *testing.T) error {
	b, about, err := open(t.Context(), proxier.IPv4, proxier.Settings{MasqueradeBit: 14})
	if err != nil {
		return err
	}
	t.Log(about)
	_, err = b.Apply(t.Context(), stateOf(many(2)...))
	_, _ = cleanup(t.Context())
	return errors.Join(err, b.Close())
}

// withoutModules runs f where the folder of modules is empty, and the kernel asks for
// none.
func withoutModules(t *testing.T, f func() error) error {
	t.Helper()
	run(t, "mount -n -t tmpfs none /lib/modules")
	defer run(t, "umount -n /lib/modules")
	return f()
}

// testPermission: without CAP_NET_ADMIN there is an error that says so, and no wait.
func testPermission(t *testing.T) {
	if os.Getenv("IPVS_TEST_CHILD") != "" {
		_, _, err := open(t.Context(), proxier.IPv4, proxier.Settings{})
		_, doors := openDoors()
		fmt.Println("open:", err)
		fmt.Println("doors:", errors.Is(doors, fs.ErrPermission), doors)
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestMissing$/^Permission$")
	cmd.Env = append(os.Environ(), "IPVS_TEST_CHILD=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	for _, want := range []string{"open: open ipvs for IPv4", "ermission denied", "doors: true", "needs CAP_NET_ADMIN"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%v: no %q", err, want)
		}
	}
}

// testPrepare: --init-only sets what a later start then finds right.
func testPrepare(t *testing.T) {
	netlab.Alone(t)
	s := proxier.Settings{MasqueradeBit: 14, IPVS: proxier.IPVSSettings{StrictARP: true, UDP: 10 * time.Second}}
	did, err := prepare(t.Context(), proxier.IPv4, nil, s)
	t.Logf("did %q", did)
	if loaded := run(t, "lsmod"); !strings.Contains(loaded, "ip_vs_mh") || !strings.Contains(loaded, "xt_NETMAP") {
		t.Errorf("not all modules are loaded:\n%s", loaded)
	}
	if err != nil || !slices.ContainsFunc(did, func(line string) bool { return strings.Contains(line, "net.ipv4.vs.conntrack") }) {
		t.Fatalf("did %q, %v", did, err)
	}
	if again, err := prepare(t.Context(), proxier.IPv4, nil, s); err != nil || len(again) != 0 {
		t.Errorf("again: did %q, %v", again, err)
	}
	var log strings.Builder
	quiet := slog.New(slog.NewTextHandler(&log, nil))
	if err := tune(sysctls{}, s.IPVS, quiet); err != nil || log.Len() > 0 {
		t.Errorf("a start after it: %v, it set %s", err, &log)
	}
}

// testLargeSet: more endpoints than a set has room for at first.
func testLargeSet(t *testing.T) {
	netlab.Alone(t)
	const services, each = 140, 500
	var list []*proxier.Service
	for i := range services {
		s := clusterIP(fmt.Sprintf("s%03d", i), fmt.Sprintf("172.30.0.%d:80", i+1), proxier.TCP, "10.100.0.1:8080")
		s.Cluster = nil
		for j := range each {
			s.Cluster = append(s.Cluster, proxier.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(100 + i), byte(j >> 8), byte(j)}), 8080)})
		}
		list = append(list, s)
	}
	want := stateOf(list...)
	r := apply(t, realBackend(t), want)
	if len(r.SetAside) > 0 || r.Total["entries"] < services*each {
		t.Errorf("set aside %v, total %v", r.SetAside, r.Total)
	}
	headers := run(t, "ipset list -t KUBE-LOOP-BACK")
	t.Logf("%s", headers)
	if !strings.Contains(headers, fmt.Sprintf("Number of entries: %d", services*each)) {
		t.Errorf("not all entries are there:\n%s", headers)
	}
	if r := apply(t, realBackend(t), want); r.Operations != 0 {
		t.Errorf("after a restart: %d operations", r.Operations)
	}
}

// testDevice: kube-ipvs0 set up and down, given addresses, and deleted. Services
// answer before and after, and what was taken away comes back.
func testDevice(t *testing.T) {
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		t.Run(family.String(), func(t *testing.T) {
			netlab.Alone(t)
			b := realBackendOf(t, family)
			want := stateOf(clusterIP("web", "172.30.0.1:80", proxier.TCP, "10.180.0.2:8080"))
			foreign := "9.9.9.9/32"
			if family == proxier.IPv6 {
				want = &proxier.State{Family: family, Services: []*proxier.Service{clusterIP("web", "[fd00:30::1]:80", proxier.TCP, "[fd00:180::2]:8080")}}
				want.Services[0].Frontends[0].Routes = []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToCluster}}
				foreign = "fd00:9::9/128"
			}
			apply(t, b, want)
			for _, c := range []struct {
				commands []string
				noticed  bool
			}{
				{[]string{"ip link set kube-ipvs0 up"}, false},
				{[]string{"ip link set kube-ipvs0 down"}, family == proxier.IPv6}, // which loses IPv6 addresses
				{[]string{"ip addr add " + foreign + " dev kube-ipvs0"}, true},
				{[]string{"ip link del kube-ipvs0"}, true},
			} {
				for _, command := range c.commands {
					run(t, command)
				}
				what, err := b.Drifted(t.Context())
				if (what != "") != c.noticed || err != nil {
					t.Errorf("%s: noticed %q, %v", c.commands, what, err)
				}
				apply(t, b, want)
				addrs, err := b.device.Addresses(family)
				if err != nil || !slices.Equal(addrs, []netip.Addr{want.Services[0].Frontends[0].Addr.Addr()}) {
					t.Errorf("%s: afterwards it has %v, %v", c.commands, addrs, err)
				}
			}
		})
	}
}

// realBackend is a backend on the kernel's doors.
func realBackend(t *testing.T) *Backend {
	t.Helper()
	return realBackendOf(t, proxier.IPv4)
}

// realBackendOf is one of a family.
func realBackendOf(t *testing.T, family proxier.Family) *Backend {
	t.Helper()
	tool, err := ruleset.Find(t.Context(), family, ruleset.Legacy)
	if err != nil {
		t.Fatal(err)
	}
	err0 := load(t.Context(), matches...)
	servers, err1 := vs.Open(vs.Options{})
	sets, err2 := ipset.Open(ipset.Options{})
	device, err3 := dummy.Open(dummy.Options{Name: deviceName})
	if err := errors.Join(err0, err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	b := &Backend{
		family: family, config: Config{MasqueradeBit: 14, RandomFully: true, Scheduler: "rr"},
		servers: servers, sets: sets, device: device, rules: tool, hasher: ruleset.NewHasher(),
		tuner: sysctls{}, log: slog.New(slog.DiscardHandler), since: map[vs.Key]leavings{},
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}
