package dummy_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"switchyard/ipvs/dummy"
	"switchyard/proxier"
	"switchyard/test/netlab"
	"switchyard/test/uml"
)

// TestInUML runs what needs a dummy device in a kernel that has it.
func TestInUML(t *testing.T) {
	uml.Tests(t, uml.Options{},
		uml.Case{Name: "AddressesAreReadBackAsWritten", Test: testAddressesAreReadBackAsWritten},
		uml.Case{Name: "EnsureAndDeleteTwice", Test: testEnsureAndDeleteTwice},
		uml.Case{Name: "ADeviceOfAnotherKindIsLeftAlone", Test: testADeviceOfAnotherKindIsLeftAlone},
		uml.Case{Name: "AddressesOfOtherLengthsGo", Test: testAddressesOfOtherLengthsGo},
		uml.Case{Name: "Drift", Test: testDrift},
		uml.Case{Name: "TwoFamiliesShareTheDevice", Test: testTwoFamiliesShareTheDevice},
		uml.Case{Name: "WithoutPermission", Test: testWithoutPermission},
		uml.Case{Name: "Operations", Test: testOperations},
		uml.Case{Name: "FillSpeed", Test: testFillSpeed},
	)
}

// alone opens the device in a network namespace of the test's own.
func alone(t testing.TB) *dummy.Kernel {
	t.Helper()
	netlab.Alone(t)
	k, err := dummy.Open(dummy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

// ensured is alone with the device made.
func ensured(t testing.TB) *dummy.Kernel {
	t.Helper()
	k := alone(t)
	created, err := k.Ensure()
	if errors.Is(err, dummy.ErrNoModule) {
		t.Skip("needs dummy devices in the kernel; load the module dummy: ", err)
	}
	if err != nil || !created {
		t.Fatal(created, err)
	}
	return k
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ip(t testing.TB, line string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", line, err, out)
	}
	return string(out)
}

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// many are n addresses of each family.
func many(n int) (list []netip.Addr) {
	for i := range n {
		list = append(list, netip.AddrFrom4([4]byte{172, 30, byte(i >> 8), byte(i)}))
	}
	for i := range n {
		list = append(list, netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)}))
	}
	return list
}

func holds(t testing.TB, k *dummy.Kernel, want ...string) {
	t.Helper()
	var got []netip.Addr
	for _, f := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		list, err := k.Addresses(f)
		must(t, err)
		got = append(got, list...)
	}
	if !slices.Equal(got, addrs(want...)) {
		t.Errorf("addresses %v, want %v", got, want)
	}
}

func testAddressesAreReadBackAsWritten(t *testing.T) {
	k := ensured(t)
	for range 2 {
		must(t, k.Change(addrs("172.30.0.10", "172.30.0.1", "fd00::1"), nil))
		holds(t, k, "172.30.0.1", "172.30.0.10", "fd00::1")
	}
	text := ip(t, "-o addr show dev kube-ipvs0")
	for _, want := range []string{"inet 172.30.0.1/32 scope global", "inet6 fd00::1/128 scope global nodad"} {
		if !strings.Contains(text, want) {
			t.Errorf("ip addr does not print %q:\n%s", want, text)
		}
	}
	for _, c := range []struct{ args, want string }{
		{"link show kube-ipvs0", "<BROADCAST,NOARP>"},
		{"-4 route get 172.30.0.1", "local 172.30.0.1 dev lo"},
		{"-6 route get fd00::1", "local fd00::1"},
	} {
		if text := ip(t, c.args); !strings.Contains(text, c.want) {
			t.Errorf("ip %s does not print %q:\n%s", c.args, c.want, text)
		}
	}
	for range 2 {
		must(t, k.Change(nil, addrs("172.30.0.10", "fd00::1")))
		holds(t, k, "172.30.0.1")
	}
	must(t, k.Change(addrs("172.30.0.2"), addrs("172.30.0.1", "172.30.0.2")))
	holds(t, k, "172.30.0.2")
}

func testEnsureAndDeleteTwice(t *testing.T) {
	k := ensured(t)
	must(t, k.Change(addrs("172.30.0.1"), nil))
	if created, err := k.Ensure(); created || err != nil {
		t.Errorf("second time: created %t, %v", created, err)
	}
	holds(t, k, "172.30.0.1")
	for range 2 {
		must(t, k.Delete())
	}
	holds(t, k)
	if err := k.Change(addrs("172.30.0.1"), nil); !errors.Is(err, dummy.ErrNoDevice) {
		t.Errorf("change without a device: %v", err)
	}
	if created, err := k.Ensure(); !created || err != nil {
		t.Errorf("after its deletion: created %t, %v", created, err)
	}
	must(t, k.Change(addrs("172.30.0.1"), nil))
	holds(t, k, "172.30.0.1")
}

func testADeviceOfAnotherKindIsLeftAlone(t *testing.T) {
	k := alone(t)
	ip(t, "link add kube-ipvs0 type bridge")
	if _, err := k.Ensure(); !errors.Is(err, dummy.ErrForeign) || !strings.Contains(err.Error(), "bridge") {
		t.Errorf("ensure: %v", err)
	}
	if err := k.Delete(); !errors.Is(err, dummy.ErrForeign) {
		t.Errorf("delete: %v", err)
	}
	ip(t, "link show kube-ipvs0")
}

func testAddressesOfOtherLengthsGo(t *testing.T) {
	k := ensured(t)
	ip(t, "addr add 192.0.2.1/24 dev kube-ipvs0")
	ip(t, "addr add 2001:db8::1/64 dev kube-ipvs0")
	holds(t, k, "192.0.2.1", "2001:db8::1")
	must(t, k.Change(nil, addrs("192.0.2.1", "2001:db8::1")))
	holds(t, k)
}

func testDrift(t *testing.T) {
	for _, c := range []struct{ lines, want string }{
		{"", ""},
		{"link add elsewhere type dummy; addr add 10.9.9.9/32 dev elsewhere", ""},
		{"addr del 172.30.0.1/32 dev kube-ipvs0", "1 addresses of kube-ipvs0 are gone, 172.30.0.1 among them"},
		{"addr flush dev kube-ipvs0", "2 addresses of kube-ipvs0 are gone, 172.30.0.1 among them; 1 addresses of kube-ipvs0 are gone, fd00::1 among them"},
		{"addr add 192.0.2.1/32 dev kube-ipvs0", "1 foreign addresses are on kube-ipvs0, 192.0.2.1 among them"},
		{"addr del fd00::1/128 dev kube-ipvs0; addr add fd00::1/128 dev kube-ipvs0", ""},
		{"link set kube-ipvs0 up", ""},
		{"link set kube-ipvs0 up; link set kube-ipvs0 down", "1 addresses of kube-ipvs0 are gone, fd00::1 among them"},
		{"link del kube-ipvs0", "device kube-ipvs0 is gone"},
		{"link del kube-ipvs0; link add kube-ipvs0 type dummy", "device kube-ipvs0 is another one"},
	} {
		t.Run(c.lines, func(t *testing.T) {
			k := ensured(t)
			holds(t, k)
			must(t, k.Change(addrs("172.30.0.1", "172.30.0.2", "172.30.0.3", "fd00::1"), nil))
			must(t, k.Change(nil, addrs("172.30.0.3")))
			if text, err := k.Drifted(); text != "" || err != nil {
				t.Fatalf("our own changes are taken for drift: %q, %v", text, err)
			}
			for line := range strings.SplitSeq(c.lines, ";") {
				if line != "" {
					ip(t, line)
				}
			}
			for range 2 { // it stays until the addresses are read again
				if text, err := k.Drifted(); text != c.want || err != nil {
					t.Errorf("drifted %q, %v; want %q", text, err, c.want)
				}
			}
			repair(t, k)
			if text, err := k.Drifted(); text != "" || err != nil {
				t.Errorf("after the repair: %q, %v", text, err)
			}
			holds(t, k, "172.30.0.1", "172.30.0.2", "fd00::1")
		})
	}
}

// repair is what a backend does: make, read, change.
func repair(t *testing.T, k *dummy.Kernel) {
	t.Helper()
	_, err := k.Ensure()
	must(t, err)
	want := addrs("172.30.0.1", "172.30.0.2", "fd00::1")
	var extra []netip.Addr
	for _, f := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		list, err := k.Addresses(f)
		must(t, err)
		for _, a := range list {
			if !slices.Contains(want, a) {
				extra = append(extra, a)
			}
		}
	}
	must(t, k.Change(want, extra))
}

func testTwoFamiliesShareTheDevice(t *testing.T) {
	four := ensured(t)
	six, err := dummy.Open(dummy.Options{})
	must(t, err)
	defer six.Close()
	if created, err := six.Ensure(); created || err != nil {
		t.Errorf("created %t, %v", created, err)
	}
	_, err = four.Addresses(proxier.IPv4)
	must(t, err)
	_, err = six.Addresses(proxier.IPv6)
	must(t, err)
	must(t, four.Change(addrs("172.30.0.1"), nil))
	must(t, six.Change(addrs("fd00::1"), nil))
	for _, k := range []*dummy.Kernel{four, six} {
		if text, err := k.Drifted(); text != "" || err != nil {
			t.Errorf("the other family's addresses are taken for drift: %q, %v", text, err)
		}
	}
}

func testWithoutPermission(t *testing.T) {
	if os.Getenv("DUMMY_TEST_CHILD") != "" {
		k, err := dummy.Open(dummy.Options{})
		must(t, err)
		defer k.Close()
		_, err = k.Ensure()
		fmt.Println(errors.Is(err, fs.ErrPermission), err)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be without it")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestInUML$/^WithoutPermission$")
	cmd.Env = append(os.Environ(), "DUMMY_TEST_CHILD=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if text := string(out); err != nil || !strings.Contains(text, "true ") || !strings.Contains(text, "needs CAP_NET_ADMIN") {
		t.Errorf("%v: %s", err, out)
	}
}

func testOperations(t *testing.T) {
	k := ensured(t)
	before := k.Operations()
	_, err := k.Ensure()
	must(t, err)
	must(t, k.Change(nil, nil))
	if n := k.Operations() - before; n != 0 {
		t.Errorf("%d messages for no change", n)
	}
	must(t, k.Change(many(300), nil))
	if n := k.Operations() - before; n != 600 {
		t.Errorf("%d messages for 600 addresses", n)
	}
}

// How long 1,000 addresses of each family take, by this package and by ip -batch.
func testFillSpeed(t *testing.T) {
	k := ensured(t)
	list := many(1000)
	for _, part := range [][]netip.Addr{list[:1000], list[1000:]} {
		start := time.Now()
		must(t, k.Change(part, nil))
		add := time.Since(start)
		start = time.Now()
		found, err := k.Addresses(proxier.FamilyOf(part[0]))
		if err != nil || len(found) != len(part) {
			t.Fatalf("%d addresses, %v", len(found), err)
		}
		read := time.Since(start)
		start = time.Now()
		must(t, k.Change(nil, part))
		del := time.Since(start)
		var text strings.Builder
		for _, a := range part {
			text.WriteString("addr add " + a.String() + " dev kube-ipvs0 nodad\n")
		}
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(text.String())
		start = time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Logf("%s: 1,000 addresses: added in %s, read in %s, deleted in %s; ip -batch adds in %s",
			proxier.FamilyOf(part[0]), add, read, del, time.Since(start))
	}
}
