package health

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"switchyard/proxier"
)

// The Service web has health port 31000 in these tests; "10.244.0.1:80" is a
// local ready endpoint of it, "-10.244.0.1:80" one that terminates.
func web(name string, port uint16, endpoints ...string) *proxier.Service {
	svc := &proxier.Service{
		Name: proxier.ServicePort{Namespace: "shop", Service: name, Port: "p" + strings.Join(endpoints, "")}, Protocol: proxier.TCP, HealthPort: port,
	}
	for _, e := range endpoints {
		addr, terminating := strings.CutPrefix(e, "-")
		svc.Local = append(svc.Local, proxier.Endpoint{Addr: netip.MustParseAddrPort(addr), Local: true, Terminating: terminating})
	}
	return svc
}

func family(f proxier.Family, ports proxier.NodePorts, services ...*proxier.Service) *proxier.State {
	slices.SortFunc(services, (*proxier.Service).Compare)
	return &proxier.State{Family: f, Node: proxier.Node{NodePorts: ports}, Services: services}
}

func TestWanted(t *testing.T) {
	everywhere := proxier.NodePorts{Any: true}
	two := proxier.NodePorts{Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}, Localhost: true}
	for name, c := range map[string]struct {
		states []*proxier.State
		want   map[string]int // listen address: local endpoints of Service web
		errs   int
	}{
		"nothing":        {states: []*proxier.State{nil}},
		"no health port": {states: []*proxier.State{family(4, everywhere, web("web", 0, "10.244.0.1:80"))}},
		"two endpoints": {states: []*proxier.State{family(4, everywhere, web("web", 31000, "10.244.0.1:80", "10.244.0.2:80"))},
			want: map[string]int{"0.0.0.0:31000": 2}},
		"terminating ones do not count": {states: []*proxier.State{family(4, everywhere, web("web", 31000, "10.244.0.1:80", "-10.244.0.2:80"))},
			want: map[string]int{"0.0.0.0:31000": 1}},
		"none": {states: []*proxier.State{family(4, everywhere, web("web", 31000))},
			want: map[string]int{"0.0.0.0:31000": 0}},
		"two ports of a Service, the same pods": {states: []*proxier.State{family(4, everywhere,
			web("web", 31000, "10.244.0.1:80", "10.244.0.2:80"), web("web", 31000, "10.244.0.1:443", "10.244.0.3:443"))},
			want: map[string]int{"0.0.0.0:31000": 3}},
		"each family by itself": {states: []*proxier.State{
			family(4, everywhere, web("web", 31000, "10.244.0.1:80")), family(6, everywhere, web("web", 31000))},
			want: map[string]int{"0.0.0.0:31000": 1, "[::]:31000": 0}},
		"chosen addresses": {states: []*proxier.State{family(4, two, web("web", 31000, "10.244.0.1:80"))},
			want: map[string]int{"10.0.0.1:31000": 1, "10.0.0.2:31000": 1, "127.0.0.1:31000": 1}},
		"no address chosen": {states: []*proxier.State{family(4, proxier.NodePorts{}, web("web", 31000, "10.244.0.1:80"))}},
		"another Service has the port": {states: []*proxier.State{family(4, everywhere,
			web("web", 31000, "10.244.0.1:80"), web("zoo", 31000, "10.244.0.2:80"), web("zoo", 31000, "10.244.0.3:81"))},
			want: map[string]int{"0.0.0.0:31000": 1}, errs: 1},
	} {
		t.Run(name, func(t *testing.T) {
			got, errs := wanted(c.states)
			want := map[netip.AddrPort]answer{}
			for addr, n := range c.want {
				want[netip.MustParseAddrPort(addr)] = answer{"shop", "web", n}
			}
			if !maps.Equal(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
			if len(errs) != c.errs {
				t.Errorf("errors %v, want %d", errs, c.errs)
			}
			for _, err := range errs {
				if s := err.Error(); !strings.Contains(s, "31000") || !strings.Contains(s, "shop/zoo") || !strings.Contains(s, "shop/web") {
					t.Errorf("error %q does not name port and Services", s)
				}
			}
		})
	}
}
