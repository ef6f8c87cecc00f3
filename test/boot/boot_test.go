package boot

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"switchyard/proxier/conntrack"
	"switchyard/test/crowd"
	"switchyard/test/netlab"
)

// TestBoot: the program starts before its node is ready, and needs no second start.
func TestBoot(t *testing.T) {
	binary := build(t)
	for _, c := range []struct {
		name string
		test func(*machine)
	}{
		{"no address", noAddress},
		{"no interface of the pods", noBridge},
		{"read-only sysctls", readOnly},
		{"a full conntrack table", full},
		{"rules of others in both flavours", others},
	} {
		for _, mode := range []string{"iptables", "userspace"} {
			t.Run(c.name+" "+mode, func(t *testing.T) {
				t.Parallel()
				m := bare(t, binary)
				m.mode = mode
				c.test(m)
			})
		}
	}
}

// noAddress: the cable and the address come after the start.
func noAddress(m *machine) {
	m.start(nil, "--cluster-cidr=10.180.0.0/16")
	m.says("level=WARN", "the node has no address yet")
	m.says("msg=applied", "family=IPv4")
	m.plug()
	m.says("the node has an address now")
	m.answers(m.neighbor, nodePort)
	m.answers(m.node, vip)
}

// noBridge: pods are known by a bridge that the network plugin makes later.
func noBridge(m *machine) {
	m.plug()
	m.start(nil, "--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cbr0")
	m.says("level=WARN", "the interface of the pods is not there yet", "interface=cbr0")
	m.answers(m.neighbor, nodePort)

	pod, err := m.lab.AddHost("pod")
	check(m.t, err)
	check(m.t, m.node.AddBridge("cbr0"))
	gateway := netip.MustParsePrefix("10.180.0.1/24")
	check(m.t, m.node.AddAddr("cbr0", gateway))
	check(m.t, netlab.Wire(netlab.End{Host: pod, Device: "eth0"}, netlab.End{Host: m.node, Device: "pod"}))
	check(m.t, m.node.Plug("pod", "cbr0"))
	check(m.t, pod.AddAddr("eth0", netip.PrefixFrom(podAddr, 24)))
	check(m.t, pod.AddRoute(netlab.Route{To: netip.MustParsePrefix("0.0.0.0/0"), Device: "eth0", Via: gateway.Addr()}))
	seen := podAddr
	if m.mode == "userspace" { // connections are the relay's
		seen = nodeAddr.Addr()
	}
	if r := m.answers(pod, vip); r.ClientSeen.Addr() != seen {
		m.t.Errorf("a pod behind the bridge that came is seen as %s, not as %s", r.ClientSeen, seen)
	}
	if r := m.answers(m.neighbor, vip); r.ClientSeen.Addr() != nodeAddr.Addr() {
		m.t.Errorf("a client that is no pod is seen as %s, not as the node", r.ClientSeen)
	}
}

// frozen makes sysctls read-only for a program.
const frozen = `mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"`

// readOnly: each sysctl that cannot be written is one line that names it.
func readOnly(m *machine) {
	m.plug()
	m.start([]string{"sh", "-ec", frozen, "frozen"}, "--cluster-cidr=10.180.0.0/16")
	m.answers(m.neighbor, nodePort)
	m.answers(m.node, vip)
	names := []string{"net.netfilter.nf_conntrack_tcp_timeout_established", "net.netfilter.nf_conntrack_tcp_timeout_close_wait"}
	if m.mode == "iptables" { // the relay has the node itself connect, to an address that is not 127.0.0.1
		names = append(names, "net.ipv4.conf.all.route_localnet")
	}
	for _, name := range names {
		m.says("level=WARN", name, "/proc/sys is read-only here: set it on the host")
	}
}

// full: the kernel takes no new connection. What is programmed holds once there is
// room.
func full(m *machine) {
	m.plug()
	check(m.t, m.node.Do(func() error {
		for i := range 2_000_000 { // until it refuses
			if err := crowd.Fill(1000, func(j int) conntrack.Flow { return unrelated(i*1000 + j) }); err != nil {
				return nil
			}
		}
		return fmt.Errorf("the table has no end")
	}))
	m.start(nil, "--cluster-cidr=10.180.0.0/16")
	m.says("level=WARN", "connection tracking is full", "nf_conntrack_max")
	m.says("msg=applied", "family=IPv4")
	if err := m.node.ForgetFlows(); err != nil {
		m.t.Fatal(err)
	}
	m.answers(m.neighbor, nodePort)
	m.answers(m.node, vip)
}

func unrelated(i int) conntrack.Flow {
	client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 200, byte(i >> 16), byte(i >> 8)}), uint16(1024+i&255))
	to := netip.MustParseAddrPort("192.0.2.53:53")
	return conntrack.Flow{Src: client, Dst: to, ReplySrc: to, ReplyDst: client}
}

// others: rules stand in the nft tables and in the legacy ones. Ours go into one of
// them, the log says which and why, and those of others stay.
func others(m *machine) {
	m.plug()
	run := func(words ...string) string {
		m.t.Helper()
		out, err := m.node.Output(context.Background(), words[0], words[1:]...)
		check(m.t, err)
		return out
	}
	flavours := []string{"iptables-nft", "iptables-legacy"}
	for _, flavour := range flavours {
		run(flavour, "-t", "nat", "-N", "FOREIGN")
		run(flavour, "-t", "nat", "-A", "POSTROUTING", "-d", "198.18.0.0/15", "-j", "FOREIGN")
		run(flavour, "-A", "FORWARD", "-s", "198.18.0.0/15", "-j", "DROP")
	}
	foreign := func() (all string) {
		for _, flavour := range flavours {
			for line := range strings.Lines(run(flavour + "-save")) {
				if strings.Contains(line, "FOREIGN") || strings.Contains(line, "198.18.0.0/15") {
					all += flavour + " " + line
				}
			}
		}
		return all
	}
	before := foreign()
	m.start(nil, "--cluster-cidr=10.180.0.0/16")
	m.says("backend is open", "family=IPv4", "legacy tables")
	m.answers(m.neighbor, nodePort)
	m.answers(m.node, vip)
	if after := foreign(); after != before || strings.Count(before, "\n") != 6 {
		m.t.Errorf("rules of others before:\n%s\nafter:\n%s", before, after)
	}
	holds := 0
	for _, flavour := range flavours {
		if strings.Contains(run(flavour+"-save", "-t", "nat"), "default/shop") {
			holds++
		}
	}
	if holds != 1 {
		m.t.Errorf("%d flavours hold our rules", holds)
	}
}
