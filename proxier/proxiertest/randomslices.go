package proxiertest

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"switchyard/proxier"
)

// temper is what the endpoints of one Service have in common, so that the rare
// situations ("all terminate", "every endpoint has a hint") occur often enough.
type temper struct {
	conditions func() discoveryv1.EndpointConditions
	zones      bool
	nodes      bool
	unhinted   int // percent of endpoints that lack the hints
}

func (g *generator) slices(s *corev1.Service, f proxier.Family) {
	t := temper{conditions: g.conditions(), unhinted: pick(g.rng, []int{0, 0, 15})}
	t.zones, t.nodes = g.percent(30), g.percent(20)
	var list []*discoveryv1.EndpointSlice
	for i := range pick(g.rng, []int{0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3}) {
		list = append(list, g.slice(s, f, i))
	}
	if len(list) == 0 {
		return
	}
	for range pick(g.rng, []int{0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 5, 5, 12}) {
		addr := g.endpointAddr(LabOf(f))
		// The same address again, in another slice or the same, with conditions and
		// hints of its own.
		for range 1 + g.rng.IntN(8)/7 {
			slice := pick(g.rng, list)
			slice.Endpoints = append(slice.Endpoints, g.endpoint(addr, f, t))
		}
	}
	g.out.Slices = append(g.out.Slices, list...)
}

func (g *generator) slice(s *corev1.Service, f proxier.Family, i int) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace,
			Name:      fmt.Sprintf("%s-%d-%d", s.Name, f, i),
			Labels:    map[string]string{discoveryv1.LabelServiceName: s.Name},
		},
		AddressType: discoveryv1.AddressType(f.String()),
	}
	if g.percent(4) {
		slice.Labels[corev1.IsHeadlessService] = ""
	}
	shift := int32(pick(g.rng, []int{0, 0, 0, 1000})) // named target ports that differ
	for j, p := range s.Spec.Ports {
		name, protocol, number := p.Name, p.Protocol, 8000+int32(j)+shift
		if g.percent(4) {
			continue
		}
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &number})
	}
	return slice
}

// endpointAddr draws from few addresses, so that Services share pods.
func (g *generator) endpointAddr(lab Lab) netip.Addr {
	switch n := 2 + g.rng.IntN(8); g.rng.IntN(12) {
	case 0:
		return lab.Node
	case 1:
		return lab.OtherNode
	case 2, 3, 4, 5, 6:
		return lab.PodAt(n)
	default:
		return lab.OtherPodAt(n)
	}
}

func (g *generator) endpoint(addr netip.Addr, f proxier.Family, t temper) discoveryv1.Endpoint {
	lab := LabOf(f)
	ep := discoveryv1.Endpoint{Addresses: []string{addr.String()}, Conditions: t.conditions()}
	if g.percent(97) {
		name := OtherNodeName
		if addr == lab.Node || lab.NodePods.Contains(addr) {
			name = NodeName
		}
		ep.NodeName = &name
	}
	if !t.zones && !t.nodes || g.percent(t.unhinted) {
		return ep
	}
	ep.Hints = &discoveryv1.EndpointHints{}
	if t.zones {
		ep.Hints.ForZones = []discoveryv1.ForZone{{Name: pick(g.rng, []string{"zone-a", "zone-b"})}}
	}
	if t.nodes {
		ep.Hints.ForNodes = []discoveryv1.ForNode{{Name: pick(g.rng, []string{NodeName, OtherNodeName, "node-c"})}}
	}
	return ep
}

// conditions returns a source of conditions: all ready, all terminating, none
// usable, or any mix.
func (g *generator) conditions() func() discoveryv1.EndpointConditions {
	of := func(ready, serving, terminating bool) func() discoveryv1.EndpointConditions {
		return func() discoveryv1.EndpointConditions {
			return discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}
		}
	}
	maybe := func() *bool {
		b := g.percent(50)
		return pick(g.rng, []*bool{&b, &b, nil})
	}
	mixed := func() discoveryv1.EndpointConditions {
		return discoveryv1.EndpointConditions{Ready: maybe(), Serving: maybe(), Terminating: maybe()}
	}
	switch n := g.rng.IntN(100); {
	case n < 50:
		return of(true, true, false)
	case n < 65:
		return of(false, true, true)
	case n < 70:
		return of(false, false, true)
	}
	return mixed
}
