package cluster

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// oneSlice returns the slice of default/web after these objects, nil if it
// counts for nothing.
func oneSlice(t *testing.T, s *discoveryv1.EndpointSlice) (*Slice, []Problem) {
	t.Helper()
	store := NewStore("node-1")
	store.SetSlice(s)
	store.SetService(service())
	svc := store.Snapshot().Services.Slice()[0]
	if len(svc.Slices) == 0 {
		return nil, svc.Problems
	}
	return svc.Slices[0], svc.Problems
}

func TestWhichSlicesCount(t *testing.T) {
	tests := []struct {
		what string
		edit func(*discoveryv1.EndpointSlice)
		want bool
	}{
		{"an ordinary slice", func(*discoveryv1.EndpointSlice) {}, true},
		{"with the label headless", func(s *discoveryv1.EndpointSlice) { setLabel(&s.ObjectMeta, corev1.IsHeadlessService, "") }, false},
		{"without the label service-name", func(s *discoveryv1.EndpointSlice) { s.Labels = nil }, false},
		{"of another Service", func(s *discoveryv1.EndpointSlice) { setLabel(&s.ObjectMeta, discoveryv1.LabelServiceName, "db") }, false},
		{"of another namespace", func(s *discoveryv1.EndpointSlice) { s.Namespace = "prod" }, false},
		{"addressType IPv6", func(s *discoveryv1.EndpointSlice) { s.AddressType = discoveryv1.AddressTypeIPv6 }, true},
		{"addressType FQDN", func(s *discoveryv1.EndpointSlice) { s.AddressType = discoveryv1.AddressTypeFQDN }, false},
		{"no addressType", func(s *discoveryv1.EndpointSlice) { s.AddressType = "" }, false},
	}
	for _, test := range tests {
		s, _ := oneSlice(t, slice(test.edit))
		if got := s != nil; got != test.want {
			t.Errorf("%s: counts is %v, want %v", test.what, got, test.want)
		}
	}
}

func TestConditionsAndHints(t *testing.T) {
	s, _ := oneSlice(t, slice(func(s *discoveryv1.EndpointSlice) {
		s.Endpoints = []discoveryv1.Endpoint{
			{Addresses: []string{"10.1.0.1", "10.9.9.9"}},
			{Addresses: []string{"10.1.0.2"}, NodeName: new("node-2"), Conditions: discoveryv1.EndpointConditions{
				Ready: new(false), Serving: new(false), Terminating: new(true)}},
			{Addresses: []string{"10.1.0.3"}, Hints: &discoveryv1.EndpointHints{
				ForZones: []discoveryv1.ForZone{{Name: "a"}, {Name: "b"}},
				ForNodes: []discoveryv1.ForNode{{Name: "node-1"}}}},
			{Addresses: []string{"10.1.0.4"}, Hints: &discoveryv1.EndpointHints{}},
		}
	}))
	want := []string{
		"10.1.0.1 on  ready=true serving=true terminating=false hints=<nil>",
		"10.1.0.2 on node-2 ready=false serving=false terminating=true hints=<nil>",
		"10.1.0.3 on  ready=true serving=true terminating=false hints=&{[a b] [node-1]}",
		"10.1.0.4 on  ready=true serving=true terminating=false hints=<nil>",
	}
	for i, e := range s.Endpoints {
		got := fmt.Sprintf("%s on %s ready=%v serving=%v terminating=%v hints=%v",
			e.Addr, e.Node, e.Ready, e.Serving, e.Terminating, e.Hints)
		if got != want[i] {
			t.Errorf("endpoint %d: %s, want %s", i, got, want[i])
		}
	}
}

func TestSlicePorts(t *testing.T) {
	s, problems := oneSlice(t, slice(func(s *discoveryv1.EndpointSlice) {
		s.Ports = []discoveryv1.EndpointPort{
			{Name: new(""), Port: new(int32(8080))},
			{Name: new("dns"), Port: new(int32(53)), Protocol: new(corev1.ProtocolUDP)},
			{Port: new(int32(1))},
			{Name: new("a")},
			{Name: new("b"), Port: new(int32(0))},
			{Name: new("c"), Port: new(int32(65536))},
			{Name: new("d"), Port: new(int32(-1))},
			{Name: new("e"), Port: new(int32(1)), Protocol: new(corev1.Protocol("tcp"))},
		}
	}))
	if got, want := fmt.Sprint(s.Ports), "[{ TCP 8080} {dns UDP 53}]"; got != want {
		t.Errorf("ports %s, want %s", got, want)
	}
	want := `EndpointSlice default/web-1: ports[2].name: missing: no port of a Service can match
EndpointSlice default/web-1: ports[3].port: missing: a Service needs one
EndpointSlice default/web-1: ports[4].port: 0: not a port: 1 to 65535
EndpointSlice default/web-1: ports[5].port: 65536: not a port: 1 to 65535
EndpointSlice default/web-1: ports[6].port: -1: not a port: 1 to 65535
EndpointSlice default/web-1: ports[7].protocol: tcp: not a protocol: TCP, UDP or SCTP
`
	if got := lines(problems); got != want {
		t.Errorf("problems:\n%swant:\n%s", got, want)
	}
}

func TestEndpointAddresses(t *testing.T) {
	s, problems := oneSlice(t, slice(
		addresses("10.1.0.1", "0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "::ffff:127.0.0.1", "fd00::1", "x", "::ffff:10.1.0.2"),
		func(s *discoveryv1.EndpointSlice) { s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{}) }))
	if len(s.Endpoints) != 2 || s.Endpoints[1].Addr != netip.MustParseAddr("10.1.0.2") {
		t.Errorf("endpoints %v", s.Endpoints)
	}
	want := `EndpointSlice default/web-1: endpoints[1].addresses[0]: 0.0.0.0: the unspecified address cannot be an endpoint: it names no host
EndpointSlice default/web-1: endpoints[2].addresses[0]: 127.0.0.1: a loopback address cannot be an endpoint: it leads every host to itself
EndpointSlice default/web-1: endpoints[3].addresses[0]: 169.254.1.1: a link-local address cannot be an endpoint: it is another host on every link
EndpointSlice default/web-1: endpoints[4].addresses[0]: 224.0.0.1: a multicast address cannot be an endpoint: it names a group of hosts
EndpointSlice default/web-1: endpoints[5].addresses[0]: ::ffff:127.0.0.1: a loopback address cannot be an endpoint: it leads every host to itself
EndpointSlice default/web-1: endpoints[6].addresses[0]: fd00::1: not an IPv4 address, as the slice's addressType says
EndpointSlice default/web-1: endpoints[7].addresses[0]: x: not an IP address
EndpointSlice default/web-1: endpoints[9].addresses[0]: missing: an endpoint needs an address
`
	if got := lines(problems); got != want {
		t.Errorf("problems:\n%swant:\n%s", got, want)
	}

	s, problems = oneSlice(t, slice(addresses("::", "::1", "fe80::1", "ff02::1", "fe80::1%eth0", "10.1.0.1", "fd00::1"),
		func(s *discoveryv1.EndpointSlice) { s.AddressType = discoveryv1.AddressTypeIPv6 }))
	if len(s.Endpoints) != 1 || len(problems) != 6 {
		t.Errorf("IPv6: endpoints %v, problems:\n%s", s.Endpoints, lines(problems))
	}
}

func TestNode(t *testing.T) {
	tests := []struct {
		what string
		edit func(*corev1.Node)
		want string
	}{
		{"bare", func(*corev1.Node) {}, "addresses [] pods [] zone  eligible true"},
		{"InternalIPs before ExternalIPs, names left out", func(n *corev1.Node) {
			n.Status.Addresses = []corev1.NodeAddress{
				{Type: corev1.NodeExternalIP, Address: "192.0.2.1"},
				{Type: corev1.NodeHostName, Address: "node-1"},
				{Type: corev1.NodeInternalIP, Address: "10.0.0.1"},
				{Type: corev1.NodeInternalIP, Address: "fd00::1"},
				{Type: corev1.NodeInternalIP, Address: "x"}}
		}, "addresses [10.0.0.1 fd00::1 192.0.2.1] pods [] zone  eligible true"},
		{"podCIDRs", func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"10.1.0.0/24", "fd01::/64", "x"} },
			"addresses [] pods [10.1.0.0/24 fd01::/64] zone  eligible true"},
		{"podCIDR alone", func(n *corev1.Node) { n.Spec.PodCIDR = "10.1.0.0/24" }, "addresses [] pods [10.1.0.0/24] zone  eligible true"},
		{"zone", func(n *corev1.Node) { setLabel(&n.ObjectMeta, corev1.LabelTopologyZone, "a") }, "addresses [] pods [] zone a eligible true"},
		{"being deleted", func(n *corev1.Node) { n.DeletionTimestamp = new(metav1.Now()) }, "addresses [] pods [] zone  eligible false"},
		{"about to be scaled away", func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "other"}, {Key: taintToBeDeleted, Effect: "NoSchedule"}}
		}, "addresses [] pods [] zone  eligible false"},
	}
	for _, test := range tests {
		s := NewStore("node-1")
		s.SetNode(node(test.edit))
		n := s.Snapshot().Node
		if got := fmt.Sprintf("addresses %v pods %v zone %s eligible %v", n.Addresses, n.PodCIDRs, n.Zone, n.Eligible); got != test.want {
			t.Errorf("%s: %s, want %s", test.what, got, test.want)
		}
	}
	s := NewStore("node-1")
	s.SetNode(node(func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"x"} }))
	if got, want := lines(s.Problems()), "Node node-1: spec.podCIDRs[0]: x: not a CIDR such as 192.0.2.0/24\n"; got != want {
		t.Errorf("problems %s, want %s", got, want)
	}
}
