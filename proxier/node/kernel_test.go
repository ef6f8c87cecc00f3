package node

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netlink"

	"switchyard/proxier"
	"switchyard/test/netlab"
)

func up(t *testing.T, name string) netlink.Link {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		t.Fatal(name, err)
	}
	return link
}

func bridge(t *testing.T, name string) netlink.Link {
	t.Helper()
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
		t.Fatal(name, err)
	}
	return up(t, name)
}

func add(t *testing.T, link netlink.Link, cidr string) {
	t.Helper()
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(cidr, ":") {
		addr.Flags = 0x02 // IFA_F_NODAD: usable at once
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		t.Fatal(cidr, err)
	}
}

func TestAddresses(t *testing.T) {
	netlab.Alone(t)
	eth := bridge(t, "syn-eth")
	add(t, eth, "10.0.0.1/24")
	add(t, eth, "10.0.0.2/24")
	add(t, eth, "fd00::1/64")
	add(t, bridge(t, ipvsInterface), "10.96.0.1/32")
	got, err := Addresses()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range addrs("127.0.0.1 10.0.0.1 10.0.0.2 ::1 fd00::1") {
		if !slices.Contains(got, want) {
			t.Errorf("%v lacks %s", got, want)
		}
	}
	if slices.Contains(got, netip.MustParseAddr("10.96.0.1")) {
		t.Errorf("%v has an address of kube-ipvs0", got)
	}
}

func TestAddressesDuringChurn(t *testing.T) {
	netlab.Alone(t)
	add(t, bridge(t, "syn-eth"), "10.0.0.1/24")
	h, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	ctx, cancel := context.WithCancel(t.Context())
	churned := make(chan struct{})
	go func() {
		defer close(churned)
		for i := 0; ctx.Err() == nil; i++ {
			br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "syn-churn"}}
			if h.LinkAdd(br) == nil {
				_ = h.AddrAdd(br, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 1, 0, byte(i)), Mask: net.CIDRMask(24, 32)}})
				_ = h.LinkDel(br)
			}
		}
	}()
	for range 300 {
		got, err := Addresses()
		if err != nil {
			t.Error(err)
		} else if !slices.Contains(got, netip.MustParseAddr("10.0.0.1")) {
			t.Errorf("%v lacks 10.0.0.1", got)
		}
	}
	cancel()
	<-churned
}

func TestWatchAddresses(t *testing.T) {
	netlab.Alone(t)
	eth := bridge(t, "syn-eth")
	h, err := netlink.NewHandle() // stays in the namespace on any thread
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var calls atomic.Int32
	go func() {
		defer cancel()
		wait := func(n int32) bool {
			for ctx.Err() == nil && calls.Load() < n {
				time.Sleep(time.Millisecond)
			}
			return calls.Load() >= n
		}
		if !wait(1) {
			t.Error("not called at the start")
		}
		time.Sleep(3 * settle) // past the bridge's own addresses
		before := calls.Load()
		for i := range 20 {
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 0, 0, byte(i+1)), Mask: net.CIDRMask(32, 32)}}
			if err := h.AddrAdd(eth, addr); err != nil {
				t.Error(err)
			}
		}
		if !wait(before + 1) {
			t.Error("not called for new addresses")
		}
		time.Sleep(3 * settle)
		if n := calls.Load() - before; n > 2 {
			t.Errorf("%d calls for one burst of addresses", n)
		}
	}()
	if err := WatchAddresses(ctx, func() { calls.Add(1) }); err != nil {
		t.Error(err)
	}
}

func TestWatchSurvivesOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		subscriptions, calls := 0, 0
		overflowing := func(updates chan<- netlink.AddrUpdate, done <-chan struct{}) error {
			subscriptions++
			last := subscriptions == 3
			go func() {
				defer close(updates)
				updates <- netlink.AddrUpdate{}
				if last {
					<-done
				}
			}()
			return nil
		}
		go func() {
			time.Sleep(time.Minute)
			cancel()
		}()
		if err := watch(ctx, func() { calls++ }, overflowing); err != nil {
			t.Fatal(err)
		}
		if subscriptions != 3 || calls < 4 {
			t.Errorf("%d subscriptions, want 3; %d calls, want one each and one for the last update", subscriptions, calls)
		}
	})
}

func TestSetSysctlWritesOnlyWhatDiffers(t *testing.T) {
	netlab.Alone(t)
	const name = "net.ipv4.ip_default_ttl"
	for _, c := range []struct {
		value string
		wrote bool
	}{{"70", true}, {"70", false}, {"64", true}} {
		wrote, err := SetSysctl(name, c.value)
		if err != nil || wrote != c.wrote {
			t.Errorf("set to %s: wrote %v, %v; want %v", c.value, wrote, err, c.wrote)
		}
		if got, err := Sysctl(name); err != nil || got != c.value {
			t.Errorf("is %q, %v after it was set to %s", got, err, c.value)
		}
	}
	if got, err := Sysctl("net/ipv4/conf/lo/rp_filter"); err != nil || got == "" {
		t.Errorf("name with slashes: %q, %v", got, err)
	}
}

func TestSysctlErrors(t *testing.T) {
	netlab.Alone(t)
	for _, c := range []struct{ name, value, want string }{
		{"net.ipv4.no_such", "1", "kernel does not have it"},
		{"net.ipv4.ip_default_ttl", "9999", "refuses this value"},
		{"", "1", "not a sysctl's name"},
		{"../etc/passwd", "1", "not a sysctl's name"},
	} {
		_, err := SetSysctl(c.name, c.value)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.name) {
			t.Errorf("%q: error %v, want the name and %q", c.name, err, c.want)
		}
	}
}

func TestRouteLocalnet(t *testing.T) {
	netlab.Alone(t)
	for _, want := range []bool{true, false} {
		if changed, err := EnableRouteLocalnet(); err != nil || changed != want {
			t.Errorf("changed %v, %v; want %v", changed, err, want)
		}
	}
	if got, err := Sysctl(localnet); err != nil || got != "1" {
		t.Errorf("route_localnet is %q, %v", got, err)
	}
}

func TestHasFamily(t *testing.T) {
	netlab.Alone(t)
	if !HasFamily(proxier.IPv4) || HasFamily(0) {
		t.Error("IPv4 is missing, or no family is there")
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		t.Skip("needs IPv6 in the kernel; start it without ipv6.disable=1")
	}
	for value, want := range map[string]bool{"1": false, "0": true} {
		if _, err := SetSysctl("net.ipv6.conf.all.disable_ipv6", value); err != nil {
			t.Fatal(err)
		}
		if HasFamily(proxier.IPv6) != want {
			t.Errorf("disable_ipv6=%s: has IPv6 %v", value, !want)
		}
	}
}

func TestConntrackLiberal(t *testing.T) {
	netlab.Alone(t)
	const name = "net.netfilter.nf_conntrack_tcp_be_liberal"
	if _, err := Sysctl(name); err != nil {
		if ConntrackLiberal() {
			t.Error("liberal without conntrack")
		}
		t.Skip("needs conntrack in the kernel; load the module nf_conntrack: ", err)
	}
	for value, want := range map[string]bool{"1": true, "0": false} {
		if _, err := SetSysctl(name, value); err != nil {
			t.Fatal(err)
		}
		if ConntrackLiberal() != want {
			t.Errorf("%s=%s: liberal is %v", name, value, !want)
		}
	}
}

func TestDefaultName(t *testing.T) {
	name, err := DefaultName()
	if err != nil || name == "" || name != strings.ToLower(strings.TrimSpace(name)) {
		t.Errorf("%q, %v", name, err)
	}
}
