package proxiertest

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"switchyard/proxier"
)

func suite(t *testing.T) []Scenario {
	t.Helper()
	scenarios, err := Load(Suite())
	if err != nil {
		t.Fatal(err)
	}
	return scenarios
}

func TestSuiteIsWellFormed(t *testing.T) {
	scenarios := suite(t)
	if len(scenarios) < 75 {
		t.Errorf("%d scenarios, want at least 75", len(scenarios))
	}
	titles := map[string]string{}
	for _, s := range scenarios {
		if other, ok := titles[s.Title]; ok {
			t.Errorf("%s and %s have the same title", s.File, other)
		}
		titles[s.Title] = s.File
		if prose := strings.TrimSpace(tag.ReplaceAllString(s.Text, "")); len(prose) < 20 {
			t.Errorf("%s does not say what it shows", s.File)
		}
		if len(s.Tags) == 0 || len(s.Packets) == 0 {
			t.Errorf("%s has %d tags and %d packets, want some", s.File, len(s.Tags), len(s.Packets))
		}
		checkPackets(t, s)
	}
}

// checkPackets finds packets that a reader wrote twice or with two fates.
func checkPackets(t *testing.T, s Scenario) {
	t.Helper()
	seen := map[proxier.Packet]int{}
	for _, p := range s.Packets {
		if line, ok := seen[p.Packet]; ok {
			t.Errorf("%s:%d: the packet of line %d again", s.File, p.Line, line)
		}
		seen[p.Packet] = p.Line
		again, err := ParsePacket(p.String())
		if err != nil || !again.Want.Equal(p.Want) || again.Packet != p.Packet {
			t.Errorf("%s:%d: %q is read as %q, %v", s.File, p.Line, p, again, err)
		}
	}
}

// Objects as a user would write them: nothing that the API does not know.
func TestSuiteYAMLIsStrict(t *testing.T) {
	for _, s := range suite(t) {
		o, err := DecodeObjects(s.Cluster)
		if err != nil {
			t.Errorf("%s: %v", s.File, err)
		}
		if len(o.Services) == 0 {
			t.Errorf("%s has no Service", s.File)
		}
		for _, slice := range o.Slices {
			name := slice.Labels[discoveryv1.LabelServiceName]
			if name != "" && o.ServiceNamed(slice.Namespace, name) == nil && !s.Has("feature skip-headless-slices") {
				t.Errorf("%s: EndpointSlice %s is for no Service", s.File, slice.Name)
			}
		}
	}
}

func TestSuiteStaysInTheLaboratory(t *testing.T) {
	for _, s := range suite(t) {
		o, err := DecodeObjects(s.Cluster)
		if err != nil {
			t.Fatal(err)
		}
		for _, svc := range o.Services {
			checkFrontends(t, s, svc)
		}
		for _, slice := range o.Slices {
			checkEndpoints(t, s, slice)
		}
		for _, p := range s.Packets {
			for _, ep := range p.Want.Endpoints {
				if !isEndpoint(ep.Addr.Addr()) {
					t.Errorf("%s:%d: %s is no address for an endpoint", s.File, p.Line, ep.Addr)
				}
			}
		}
	}
}

func checkFrontends(t *testing.T, s Scenario, svc *corev1.Service) {
	t.Helper()
	for _, ip := range svc.Spec.ClusterIPs {
		addr, err := netip.ParseAddr(ip)
		if ip != corev1.ClusterIPNone && (err != nil || !LabOf(proxier.FamilyOf(addr)).ClusterIPs.Contains(addr)) {
			t.Errorf("%s: %s: ClusterIP %s", s.File, svc.Name, ip)
		}
	}
	outer := slices.Clone(svc.Spec.ExternalIPs)
	for _, in := range svc.Status.LoadBalancer.Ingress {
		outer = append(outer, in.IP)
	}
	for _, ip := range outer {
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			if ip != "" && !s.Has("checklist 45") {
				t.Errorf("%s: %s: %v", s.File, svc.Name, err)
			}
			continue
		}
		lab := LabOf(proxier.FamilyOf(addr))
		if !lab.Externals.Contains(addr) && !lab.VIPs.Contains(addr) && !slices.Contains(lab.Local(), addr) && !s.Has("feature conflict") {
			t.Errorf("%s: %s: address %s is not for Services", s.File, svc.Name, ip)
		}
	}
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 && (p.NodePort < 30000 || p.NodePort > 32767) {
			t.Errorf("%s: %s: node port %d", s.File, svc.Name, p.NodePort)
		}
	}
}

func checkEndpoints(t *testing.T, s Scenario, slice *discoveryv1.EndpointSlice) {
	t.Helper()
	if slice.AddressType == discoveryv1.AddressTypeFQDN {
		return
	}
	for _, ep := range slice.Endpoints {
		addr, err := netip.ParseAddr(ep.Addresses[0])
		if err != nil && s.Has("checklist 45") {
			continue
		}
		if err != nil || !isEndpoint(addr) || proxier.FamilyOf(addr).String() != string(slice.AddressType) {
			t.Errorf("%s: %s: endpoint %s of %s", s.File, slice.Name, ep.Addresses[0], slice.AddressType)
		}
	}
}

func isEndpoint(addr netip.Addr) bool {
	lab := LabOf(proxier.FamilyOf(addr))
	last := addr.AsSlice()[len(addr.AsSlice())-1]
	pod := lab.NodePods.Contains(addr) || lab.OtherPods.Contains(addr)
	return addr == lab.Node || addr == lab.OtherNode || pod && addr != lab.PodA && addr != lab.PodA2 && addr != lab.PodB && last >= 2
}
