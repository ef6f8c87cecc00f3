package ipvs

import (
	"flag"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"switchyard/proxier"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden holds what some States are in the kernel.
func TestGolden(t *testing.T) {
	restricted := balanced(clusterIP("restricted", "172.30.0.3:80", proxier.TCP, "10.180.1.2:8080"), "198.51.100.3:80")
	restricted.Frontends[1].Allow = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	sticky := clusterIP("sticky", "172.30.0.2:53", proxier.UDP, "10.180.0.2:5353")
	sticky.Affinity, sticky.Scheduler = 3*time.Hour, "mh,mh-port"
	nodePort := clusterIP("port", "172.30.0.4:80", proxier.TCP, "10.180.0.2:8080", "10.180.1.2:8080")
	nodePort.HealthPort = 31000
	nodePort.Frontends = append(nodePort.Frontends, proxier.Frontend{Kind: proxier.NodePort,
		Addr:   netip.AddrPortFrom(netip.Addr{}, 30080),
		Routes: []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToCluster, Masq: true}}})
	byInterface := stateOf(clusterIP("web", "172.30.0.1:80", proxier.TCP, "10.180.0.2:8080"))
	byInterface.Node.PodRanges, byInterface.Node.PodInterfaces = nil, []string{"cbr+"}
	for name, want := range map[string]*proxier.State{
		"mixed":             stateOf(clusterIP("none", "172.30.0.1:80", proxier.TCP), sticky, restricted, nodePort),
		"pods-by-interface": byInterface,
	} {
		text, err := Render(want, proxier.Settings{MasqueradeBit: 14})
		if err != nil {
			t.Fatal(err)
		}
		path := "testdata/golden/" + name + ".txt"
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		golden, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := difference(text, string(golden)); diff != "" || text != string(golden) {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

// TestSetNames holds that names fit the kernel, and tell the families apart.
func TestSetNames(t *testing.T) {
	seen := map[string]bool{}
	for s := range setCount {
		for _, f := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
			name := s.name(f)
			if len(name) > maxSetName || seen[name] || strings.HasPrefix(name, "KUBE-6-") != (f == proxier.IPv6) {
				t.Errorf("set %d of %s: name %q", s, f, name)
			}
			seen[name] = true
			if back, ok := setByName(name, f); !ok || back != s {
				t.Errorf("%s is not found by its name", name)
			}
		}
	}
	if name := ranges.name(proxier.IPv6); name != "KUBE-6-LOAD-BALANCER-SOURCE-CID" {
		t.Errorf("upstream cuts a long name elsewhere: %s", name)
	}
}

// TestAlternate holds that the rule and the servers agree where the short way leads.
func TestAlternate(t *testing.T) {
	for from, to := range map[string]string{
		"198.51.100.1": "246.51.100.1", "10.0.0.1": "250.0.0.1", "192.168.0.2": "240.168.0.2",
		"2001:db8::1": "101:db8::1", "fd00:10::1": "100:10::1",
	} {
		got := alternate(addr(from))
		if got != addr(to) || !alternateRange(proxier.FamilyOf(got)).Contains(got) {
			t.Errorf("alternate of %s is %s, want %s", from, got, to)
		}
	}
}
