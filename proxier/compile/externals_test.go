package compile

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
)

func TestExternalIPs(t *testing.T) {
	range10 := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/25")}
	for _, test := range []struct {
		name     string
		policy   ExternalIPs
		cidrs    []netip.Prefix
		want     []string
		problems []string
	}{
		{"all", ExternalIPs{}, nil, []string{"198.51.100.7", "198.51.100.200"}, nil},
		{"none", ExternalIPs{None: true}, nil, nil, []string{
			"Service default/web: spec.externalIPs: 198.51.100.7: external IPs are switched off by --service-external-ips=none: this service does not answer there",
			"Service default/web: spec.externalIPs: 198.51.100.200: external IPs are switched off by --service-external-ips=none: this service does not answer there"}},
		{"an allow-list", ExternalIPs{Within: range10}, nil, []string{"198.51.100.7"}, []string{
			"Service default/web: spec.externalIPs: 198.51.100.200: not within --service-external-ips: this service does not answer there"}},
		{"never of a ServiceCIDR", ExternalIPs{Within: range10}, range10, nil, []string{
			"Service default/web: spec.externalIPs: 198.51.100.7: within the ServiceCIDR 198.51.100.0/25, which is for ClusterIPs: this service does not answer there",
			"Service default/web: spec.externalIPs: 198.51.100.200: not within --service-external-ips: this service does not answer there"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := New(proxier.IPv4, Options{ExternalIPs: test.policy})
			web := &cluster.Service{
				Name:       cluster.Name{Namespace: "default", Name: "web"},
				Ports:      []cluster.Port{{Protocol: proxier.TCP, Port: 80}},
				ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.7")},
				ExternalIPs: []netip.Addr{
					netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("198.51.100.200"), netip.MustParseAddr("fd00::7"),
				},
			}
			snap := cluster.Snapshot{Services: cluster.ListOf([]*cluster.Service{web}), ServiceCIDRs: test.cidrs}
			state := c.Compile(snap, proxier.Node{})
			var got []string
			for _, f := range state.Services[0].Frontends {
				if f.Kind == proxier.ExternalIP {
					got = append(got, f.Addr.Addr().String())
				}
			}
			var problems []string
			for _, p := range c.Problems() {
				problems = append(problems, p.String())
			}
			if !slices.Equal(got, test.want) || !slices.Equal(problems, test.problems) {
				t.Errorf("answers at %q, want %q\nproblems %q\nwant     %q", got, test.want, problems, test.problems)
			}
			snap.Services = cluster.ListOf(nil)
			if c.Compile(snap, proxier.Node{}); len(c.Problems()) != 0 {
				t.Errorf("the Service is gone, its problems stay: %v", c.Problems())
			}
		})
	}
}

// A ServiceCIDR that comes later takes its addresses back.
func TestServiceCIDRComes(t *testing.T) {
	c := New(proxier.IPv4, Options{})
	web := &cluster.Service{
		Name:        cluster.Name{Namespace: "default", Name: "web"},
		Ports:       []cluster.Port{{Protocol: proxier.TCP, Port: 80}},
		ClusterIPs:  []netip.Addr{netip.MustParseAddr("10.96.0.7")},
		ExternalIPs: []netip.Addr{netip.MustParseAddr("10.97.0.1")},
	}
	snap := cluster.Snapshot{Services: cluster.ListOf([]*cluster.Service{web})}
	if n := len(c.Compile(snap, proxier.Node{}).Services[0].Frontends); n != 2 {
		t.Fatalf("%d frontends, want 2", n)
	}
	snap.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.97.0.0/16")}
	if n := len(c.Compile(snap, proxier.Node{}).Services[0].Frontends); n != 1 || len(c.Problems()) != 1 {
		t.Errorf("%d frontends, want 1; problems %v", n, c.Problems())
	}
}

// TestForeignAddresses: what is somebody's is not another's external IP, and the
// Service answers at its other address. A range that is listed is a word for what
// nodes have, and for nothing else.
func TestForeignAddresses(t *testing.T) {
	const yours = "198.51.100.7"
	listed := ExternalIPs{Within: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}
	const door = "; a range of --service-external-ips that holds it would allow it"
	for _, test := range []struct {
		ip, why string
		door    bool // opens to a range that is listed
	}{
		{"192.168.0.2", "an address of this node" + door, true},
		{"192.168.9.9", "", false}, // of the machine, not of the Node: a VIP that wanders
		{"192.168.0.3", "the address of an endpoint of default/host" + door, true},
		{"192.168.0.9", "the address of an endpoint of default/kubernetes" + door, true},
		{"203.0.113.9", "", false}, // what a person wrote as an endpoint
		{"10.96.0.8", "the ClusterIP of default/host", false},
		{"10.96.0.7", "", false}, // the Service's own
		{"10.244.3.3", "within 10.244.0.0/16, which is for pods", false},
		{"10.99.1.1", "within 10.99.1.0/24, which is for pods", false},
		{"172.30.0.9", "within the ServiceCIDR 172.30.0.0/16, which is for ClusterIPs", false},
		{"127.0.0.1", "a loopback address", false},
		{"169.254.169.254", "a link-local address", false},
		{"224.0.0.1", "a multicast or broadcast address", false},
		{"255.255.255.255", "a multicast or broadcast address", false},
		{"0.0.0.0", "the unspecified address", false},
		{"fd00::2", "an address of this node" + door, true},
		{"fd00:244::3", "within fd00:244::/64, which is for pods", false},
		{"::1", "a loopback address", false},
		{"fe80::1", "a link-local address", false},
		{"ff02::1", "a multicast or broadcast address", false},
	} {
		for _, policy := range []ExternalIPs{{}, listed} {
			why := test.why
			if test.door && len(policy.Within) > 0 {
				why = ""
			}
			answers, problems := externalOf(policy, test.ip, yours)
			var want []string
			if why != "" {
				want = []string{"spec.externalIPs: " + test.ip + ": " + why + ": this service does not answer there"}
			}
			if !slices.Equal(problems, want) {
				t.Errorf("%s, listed ranges %v: %q, want %q", test.ip, policy.Within, problems, want)
			}
			if at := slices.Contains(answers, test.ip) || test.ip == "10.96.0.7"; at != (why == "") || netip.MustParseAddr(test.ip).Is4() && !slices.Contains(answers, yours) {
				t.Errorf("%s, listed ranges %v: answers at %v", test.ip, policy.Within, answers)
			}
		}
	}
}

// externalOf compiles a Service with these external IPs beside others, and returns at
// which of them it answers and what is said of it.
func externalOf(policy ExternalIPs, ips ...string) (answers, problems []string) {
	family := proxier.FamilyOf(netip.MustParseAddr(ips[0]))
	c := New(family, Options{ExternalIPs: policy, ClusterCIDRs: []netip.Prefix{
		netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/64"), netip.MustParsePrefix("0.0.0.0/0")}})
	snap := cluster.Snapshot{
		Services: cluster.ListOf([]*cluster.Service{
			service("host", "10.96.0.8", "node-b", "192.168.0.3"),
			service("kubernetes", "10.96.0.1", "", "192.168.0.9"),
			service("outside", "10.96.0.2", "", "203.0.113.9"),
			service("web", "10.96.0.7", "node-a", "10.244.0.5", ips...),
		}),
		Node: &cluster.Node{
			Name: "node-a", Addresses: []netip.Addr{netip.MustParseAddr("192.168.0.2"), netip.MustParseAddr("fd00::2")},
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.99.1.0/24")},
		},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("172.30.0.0/16")},
	}
	state := c.Compile(snap, proxier.Node{Local: []netip.Addr{netip.MustParseAddr("192.168.0.2"), netip.MustParseAddr("192.168.9.9")}})
	for _, s := range state.Services {
		for _, f := range s.Frontends {
			if f.Kind == proxier.ExternalIP {
				answers = append(answers, f.Addr.Addr().String())
			}
		}
	}
	for _, p := range c.Problems() {
		problems = append(problems, strings.TrimPrefix(p.String(), "Service default/web: "))
	}
	return answers, problems
}

func service(name, clusterIP, node, endpoint string, externals ...string) *cluster.Service {
	s := &cluster.Service{
		Name:       cluster.Name{Namespace: "default", Name: name},
		Ports:      []cluster.Port{{Protocol: proxier.TCP, Port: 80}},
		ClusterIPs: []netip.Addr{netip.MustParseAddr(clusterIP), netip.MustParseAddr("fd00:30::" + clusterIP[len(clusterIP)-1:])},
		Slices: []*cluster.Slice{{
			Family: proxier.IPv4, Ports: []cluster.SlicePort{{Protocol: proxier.TCP, Port: 8080}},
			Endpoints: []cluster.Endpoint{{Addr: netip.MustParseAddr(endpoint), Node: node, Ready: true, Serving: true}},
		}},
	}
	for _, ip := range externals {
		s.ExternalIPs = append(s.ExternalIPs, netip.MustParseAddr(ip))
	}
	return s
}

// TestHoldersFollow: who has an address changes, and the Services that want it follow,
// as a Compiler does that sees the end only.
func TestHoldersFollow(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 6))
	addr := func() string { return fmt.Sprintf("192.0.2.%d", rng.IntN(6)) }
	old := New(proxier.IPv4, Options{})
	all := map[string]*cluster.Service{}
	refused := 0
	for step := range 2000 {
		for range 1 + rng.IntN(3) {
			name := fmt.Sprintf("s%d", rng.IntN(8))
			if rng.IntN(4) == 0 {
				delete(all, name)
				continue
			}
			var externals []string
			for range rng.IntN(3) {
				externals = append(externals, addr())
			}
			all[name] = service(name, addr(), []string{"", "node-a"}[rng.IntN(2)], addr(), externals...)
		}
		var services []*cluster.Service
		for _, s := range all {
			services = append(services, s)
		}
		slices.SortFunc(services, func(a, b *cluster.Service) int { return a.Name.Compare(b.Name) })
		snap := cluster.Snapshot{Services: cluster.ListOf(services)}
		fresh := New(proxier.IPv4, Options{})
		got, want := old.Compile(snap, proxier.Node{}), fresh.Compile(snap, proxier.Node{})
		if got.String() != want.String() || !slices.Equal(old.Problems(), fresh.Problems()) {
			t.Fatalf("step %d: step by step\n%s\n%v\nafresh\n%s\n%v", step, got, old.Problems(), want, fresh.Problems())
		}
		refused += old.refusing
	}
	if refused < 1000 {
		t.Errorf("only %d external IPs were refused", refused)
	}
}
