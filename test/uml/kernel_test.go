package uml

import (
	"bytes"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"switchyard/proxier"
	"switchyard/test/netlab"
)

// TestInUML: the kernel has what the IPVS backend and its tests are made of.
func TestInUML(t *testing.T) {
	Tests(t, Options{},
		Case{"inside", testInside},
		Case{"schedulers", testSchedulers},
		Case{"sets", testSets},
		Case{"virtual servers", testVirtualServers},
	)
}

func testInside(t *testing.T) {
	if !Inside() || Patience() == 1 {
		t.Error("Inside says that this is no User Mode Linux")
	}
	if err := Run(t.Context(), Options{}, "true"); err == nil {
		t.Error("a kernel in a kernel")
	}
	if !netlab.HasSCTP() {
		t.Error("no SCTP sockets")
	}
}

// run runs a program in the test's own network namespace.
func run(t *testing.T, input string, words ...string) string {
	t.Helper()
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v: %s", strings.Join(words, " "), err, bytes.TrimSpace(out))
	}
	return string(out)
}

// testSchedulers: each takes a virtual server, and one that is not loaded comes by
// itself.
func testSchedulers(t *testing.T) {
	netlab.Alone(t)
	run(t, "", "modprobe", "-r", "ip_vs_nq")
	for i, name := range Schedulers() {
		run(t, "", "ipvsadm", "-A", "-t", fmt.Sprintf("172.30.0.10:%d", 80+i), "-s", strings.TrimPrefix(name, "ip_vs_"))
		run(t, "", "ipvsadm", "-A", "-t", fmt.Sprintf("[fd00:172:30::10]:%d", 80+i), "-s", strings.TrimPrefix(name, "ip_vs_"))
	}
	if n, want := strings.Count(run(t, "", "ipvsadm", "-Ln"), "\nTCP"), 2*len(Schedulers()); n != want {
		t.Errorf("%d virtual servers, want %d", n, want)
	}
}

// testSets: the sets that upstream's IPVS mode has, in one restore, and rules that
// match by them.
func testSets(t *testing.T) {
	netlab.Alone(t)
	families := []struct {
		name, prefix, iptables string
		ip, subnet             string
	}{
		{"inet", "KUBE-", "iptables-legacy", "172.30.0.10", "10.180.0.0/24"},
		{"inet6", "KUBE-6-", "ip6tables-legacy", "fd00:172:30::10", "fd00:10:180::/80"},
	}
	for _, f := range families {
		sets := []struct{ name, kind, entry string }{
			{"LOOP-BACK", "hash:ip,port,ip", f.ip + ",tcp:80," + f.ip},
			{"CLUSTER-IP", "hash:ip,port", f.ip + ",sctp:80"},
			{"LOAD-BALANCER-SOURCE-CIDR", "hash:ip,port,net", f.ip + ",udp:53," + f.subnet},
			{"IPVS-IPS", "hash:ip", f.ip},
			{"NODE-PORT-TCP", "bitmap:port", "30080"},
		}
		var input strings.Builder
		for _, s := range sets {
			family := " family " + f.name + " maxelem 65536"
			if s.kind == "bitmap:port" {
				family = " range 0-65535"
			}
			name := f.prefix + s.name
			name = name[:min(len(name), 31)] // as upstream does
			fmt.Fprintf(&input, "create %s %s%s\nadd %s %s\n", name, s.kind, family, name, s.entry)
		}
		run(t, input.String(), "ipset", "restore")
		run(t, "", f.iptables, "-t", "nat", "-A", "PREROUTING", "-m", "set", "--match-set", f.prefix+"CLUSTER-IP", "dst,dst", "-j", "ACCEPT")
		run(t, "", f.iptables, "-A", "OUTPUT", "-m", "ipvs", "--vaddr", f.ip, "--vproto", "tcp", "--vport", "80", "-j", "DROP")
	}
}

// testVirtualServers: a client in one namespace reaches a pod in another through a
// virtual server on the node, over all protocols and both families, and conntrack
// knows the connection.
func testVirtualServers(t *testing.T) {
	c, err := netlab.NewCluster("ipvs", netlab.StandardPods()...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	node := c.Host(netlab.NodeA)
	if err := node.Sysctl(netlab.Setting{Path: "net/ipv4/vs/conntrack", Value: "1"}); err != nil {
		t.Fatal(err)
	}
	on := func(words ...string) string {
		out, err := node.Output(t.Context(), words[0], words[1:]...)
		if err != nil {
			t.Error(err)
		}
		return out
	}
	on("ip", "link", "add", "kube-ipvs0", "type", "dummy")
	// A namespace without a rule that asks for it tracks no connections, IPVS or not.
	for _, iptables := range []string{"iptables-legacy", "ip6tables-legacy"} {
		on(iptables, "-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
	}
	flags := map[proxier.Protocol]string{proxier.TCP: "-t", proxier.UDP: "-u", proxier.SCTP: "--sctp-service"}
	for _, pair := range [][2]string{
		{"172.30.0.10:80", "10.180.0.11:8080"},
		{"[fd00:172:30::10]:80", "[fd00:10:180::11]:8080"},
	} {
		vip, pod := netip.MustParseAddrPort(pair[0]), netip.MustParseAddrPort(pair[1])
		on("ip", "addr", "add", vip.Addr().String(), "dev", "kube-ipvs0")
		for protocol, flag := range flags {
			on("ipvsadm", "-A", flag, vip.String(), "-s", "rr")
			on("ipvsadm", "-a", flag, vip.String(), "-r", pod.String(), "-m")
			if err := c.Serve(c.Host("pod-a1"), protocol, pod, pod.String()); err != nil {
				t.Fatal(err)
			}
			r := c.Host(netlab.Outside).Probe(t.Context(), netlab.Probe{Protocol: protocol, Dst: vip, Timeout: Patience() * netlab.DefaultTimeout})
			if r.Verdict != netlab.Answered || r.Endpoint != pod.String() {
				t.Errorf("%s to %s: %s by %q: %v", protocol, vip, r.Verdict, r.Endpoint, r.Err)
				continue
			}
			flow := fmt.Sprintf("dst=%s sport=%d dport=%d src=%s", vip.Addr(), r.ClientSeen.Port(), vip.Port(), pod.Addr())
			family := map[bool]string{true: "ipv6", false: "ipv4"}[vip.Addr().Is6()]
			flows := on("conntrack", "-L", "-f", family, "-p", protocol.Lower())
			if !strings.Contains(strings.ReplaceAll(flows, "[UNREPLIED] ", ""), flow) {
				t.Errorf("%s to %s: conntrack has no %q:\n%s", protocol, vip, flow, flows)
			}
			t.Logf("%s to %s: connected in %v", protocol, vip, r.Took)
		}
	}
	t.Logf("\n%s", on("ipvsadm", "-Ln"))
}
