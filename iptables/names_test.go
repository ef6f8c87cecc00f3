package iptables

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// Upstream's names. The service's hash stands in every cluster; the others were
// computed from the definition, base32(sha256(text))[:16], by sha256sum and base32.
func TestNamesAreUpstreams(t *testing.T) {
	kubernetes := &proxier.Service{Name: proxier.ServicePort{Namespace: "default", Service: "kubernetes", Port: "https"}, Protocol: proxier.TCP}
	if got := servicePrefix + serviceHash(kubernetes); got != "KUBE-SVC-NPX46M4PTMTKRN6Y" {
		t.Errorf("default/kubernetes:https tcp: %s", got)
	}
	for _, c := range []struct{ key, addr, text string }{
		{"default/kubernetes:https" + "tcp", "172.18.0.2:6443", "default/kubernetes:httpstcp172.18.0.2:6443"},
		{"default/web" + "udp", "[fd00:10:180::2]:53", "default/webudp[fd00:10:180::2]:53"},
	} {
		got := endpointChain(c.key, proxier.Endpoint{Addr: netip.MustParseAddrPort(c.addr)})
		if want := endpointPrefix + hashOf(c.text); got != want {
			t.Errorf("endpoint %s: %s, want the hash of %q: %s", c.addr, got, c.text, want)
		}
	}
	for text, want := range map[string]string{
		"default/kubernetes:httpstcp172.18.0.2:6443": "V2PECCYPB6X2GSCW",
		"default/webudp[fd00:10:180::2]:53":          "QRGS6HDRBTOTUD65",
	} {
		if got := hashOf(text); got != want {
			t.Errorf("hash of %q: %s, want %s", text, got, want)
		}
	}
}

// Every name fits the kernel's limit, and every comment its 255 bytes, for the
// longest names that the API takes, whatever the service has.
func TestLongestNamesFit(t *testing.T) {
	long := strings.Repeat("n", 63)
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		for seed := range uint64(40) {
			e := evolve(seed, family)
			state := e.next()
			for i := range state.Services {
				state = edited(state, i, func(s *proxier.Service) {
					s.Name = proxier.ServicePort{Namespace: long, Service: long, Port: long}
					s.Cluster = append(slices.Clip(s.Cluster), many(family, 150)...)
					slices.SortFunc(s.Cluster, func(a, b proxier.Endpoint) int { return a.Addr.Compare(b.Addr) })
				})
			}
			for _, svc := range state.Services {
				checkLengths(t, svc, family, &state.Node)
			}
		}
	}
}

func checkLengths(t *testing.T, svc *proxier.Service, family proxier.Family, node *proxier.Node) {
	t.Helper()
	r, err := renderService(testConfig, svc, family, node)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range slices.Concat(r.endpoints, r.services, r.filter) {
		if len(c.Name) > ruleset.MaxChainName {
			t.Errorf("chain %s has %d bytes", c.Name, len(c.Name))
		}
		for _, rule := range c.Rules {
			if len(rule.Comment) > 255 {
				t.Errorf("%s: comment of %d bytes: %s", c.Name, len(rule.Comment), rule.Comment)
			}
		}
	}
	for _, e := range r.entries {
		if len(e.rule.Comment) > 255 {
			t.Errorf("comment of %d bytes: %s", len(e.rule.Comment), e.rule.Comment)
		}
	}
}

// A row from others than pods is the longest one; no policy of today makes it for
// an address from outside.
func TestLongestRowFits(t *testing.T) {
	long := strings.Repeat("n", 63)
	svc := &proxier.Service{
		Name:     proxier.ServicePort{Namespace: long, Service: long, Port: long},
		Protocol: proxier.SCTP, Cluster: plainEndpoints(0, 1),
		Frontends: []proxier.Frontend{{Kind: proxier.ExternalIP, Addr: plainVIP(1), Routes: []proxier.Route{
			{From: proxier.FromNotPods, To: proxier.ToCluster, Masq: true},
			{From: proxier.FromNode, To: proxier.ToCluster, Masq: true},
			{From: proxier.FromAnyone, To: proxier.ToCluster, Masq: true},
		}}},
	}
	node := plainNode()
	checkLengths(t, svc, proxier.IPv4, &node)
}

// many are n endpoints with addresses as long as they get.
func many(family proxier.Family, n int) []proxier.Endpoint {
	base := netip.MustParseAddr("192.168.100.100")
	if family == proxier.IPv6 {
		base = netip.MustParseAddr("fd00:1000:1800:1111:2222:3333:4444:5000")
	}
	var eps []proxier.Endpoint
	for addr := base; len(eps) < n; addr = addr.Next() {
		eps = append(eps, proxier.Endpoint{Addr: netip.AddrPortFrom(addr, 65535)})
	}
	return eps
}

// What upstream's older versions left behind is ours; what others call KUBE-… is not.
func TestOwns(t *testing.T) {
	for _, c := range []struct {
		table, chain string
		want         bool
	}{
		{"nat", "KUBE-SERVICES", true}, {"filter", "KUBE-SERVICES", true},
		{"nat", "KUBE-SVC-NPX46M4PTMTKRN6Y", true}, {"nat", "KUBE-XLB-NPX46M4PTMTKRN6Y", true},
		{"nat", "KUBE-VIP-10.96.0.0/20", true}, {"nat", "KUBE-NP-tcp-30720:30975", true},
		{"filter", "KUBE-FW-NPX46M4PTMTKRN6Y", true}, {"nat", "KUBE-NODE-ADDRESSES-2", true},
		{"filter", "KUBE-FORWARD", true}, {"nat", "KUBE-MARK-MASQ", true},
		{"filter", "KUBE-FIREWALL", false}, {"nat", "KUBE-MARK-DROP", false},
		{"nat", "KUBE-KUBELET-CANARY", false}, {"mangle", "KUBE-IPTABLES-HINT", false},
		{"filter", "KUBE-ROUTER-FORWARD", false}, {"filter", "KUBE-NWPLCY-ABC", false}, {"filter", "KUBE-POD-FW-ABC", false},
		{"filter", "KUBE-SVC-NPX46M4PTMTKRN6Y", false}, {"mangle", "KUBE-SERVICES", false},
		{"nat", "KUBE-POSTROUTING-CORP", false}, {"filter", "KUBE-FORWARD-CORP", false},
		{"nat", "DOCKER", false}, {"filter", "INPUT", false},
	} {
		if got := owns(c.table, c.chain); got != c.want {
			t.Errorf("%s %s: ours %v, want %v", c.table, c.chain, got, c.want)
		}
	}
}
