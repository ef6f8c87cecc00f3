package compile

import (
	"net/netip"
	"slices"
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
