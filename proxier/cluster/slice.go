package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"switchyard/proxier"
)

// ownerOf returns the Service that an EndpointSlice belongs to. There is none
// where the slice belongs to a headless Service (which has no address to answer
// at), or holds names instead of addresses.
func ownerOf(slice *discoveryv1.EndpointSlice) (Name, bool) {
	_, headless := slice.Labels[corev1.IsHeadlessService]
	service := slice.Labels[discoveryv1.LabelServiceName]
	if headless || service == "" || familyOf(slice) == 0 {
		return Name{}, false
	}
	return Name{slice.Namespace, service}, true
}

func familyOf(slice *discoveryv1.EndpointSlice) proxier.Family {
	switch slice.AddressType {
	case discoveryv1.AddressTypeIPv4:
		return proxier.IPv4
	case discoveryv1.AddressTypeIPv6:
		return proxier.IPv6
	}
	return 0
}

func trimSlice(slice *discoveryv1.EndpointSlice, shared *interner) *Slice {
	name := Name{slice.Namespace, slice.Name}
	p := &problems{object: Object{"EndpointSlice", name}}
	out := &Slice{Name: strings.Clone(slice.Name), Family: familyOf(slice)}
	out.Ports = trimSlicePorts(slice.Ports, shared, p)
	out.Endpoints = make([]Endpoint, 0, len(slice.Endpoints))
	for i := range slice.Endpoints {
		in := &slice.Endpoints[i]
		addr, err := endpointAddr(in.Addresses, out.Family)
		if err != nil {
			p.add(fmt.Sprintf("endpoints[%d].addresses[0]", i), "%v", err)
			continue
		}
		out.Endpoints = append(out.Endpoints, trimEndpoint(in, addr, shared))
	}
	out.Endpoints = exact(out.Endpoints)
	out.Problems = p.list
	return out
}

// exact gives back the room that left-out elements leave.
func exact[E any](list []E) []E {
	if len(list) < cap(list) {
		return slices.Clone(list)
	}
	return list
}

func trimEndpoint(in *discoveryv1.Endpoint, addr netip.Addr, shared *interner) Endpoint {
	return Endpoint{
		Addr:        addr,
		Node:        shared.string(value(in.NodeName, "")),
		Hints:       shared.hints(in.Hints),
		Ready:       value(in.Conditions.Ready, true),
		Serving:     value(in.Conditions.Serving, true),
		Terminating: value(in.Conditions.Terminating, false),
	}
}

func trimSlicePorts(ports []discoveryv1.EndpointPort, shared *interner, p *problems) []SlicePort {
	out := make([]SlicePort, 0, len(ports))
	for i := range ports {
		in, field := &ports[i], fmt.Sprintf("ports[%d]", i)
		protocol, ok := p.protocol(field+".protocol", value(in.Protocol, corev1.ProtocolTCP))
		switch {
		case !ok:
		case in.Name == nil:
			p.add(field+".name", "missing: no port of a Service can match")
		case in.Port == nil:
			p.add(field+".port", "missing: a Service needs one")
		case *in.Port < 1 || *in.Port > 65535:
			p.add(field+".port", "%d: not a port: 1 to 65535", *in.Port)
		default:
			out = append(out, SlicePort{Name: shared.string(*in.Name), Protocol: protocol, Port: uint16(*in.Port)})
		}
	}
	return exact(out)
}

// endpointAddr returns the address of an endpoint. All but the first are
// ignored, as the API defines since they could not be told apart.
func endpointAddr(addresses []string, family proxier.Family) (netip.Addr, error) {
	if len(addresses) == 0 {
		return netip.Addr{}, fmt.Errorf("missing: an endpoint needs an address")
	}
	addr, err := parseAddr(addresses[0])
	if err != nil {
		return addr, err
	}
	if why := unfit(addr, family); why != "" {
		return addr, fmt.Errorf("%s: %s", show(addresses[0]), why)
	}
	return addr, nil
}

// unfit says why an address cannot be an endpoint of a slice, "" if it can.
// Through the first four a Service would lead into the node itself or its
// neighbours (CVE-2021-25740 and its kin).
func unfit(addr netip.Addr, family proxier.Family) string {
	switch {
	case addr.IsUnspecified():
		return "the unspecified address cannot be an endpoint: it names no host"
	case addr.IsLoopback():
		return "a loopback address cannot be an endpoint: it leads every host to itself"
	case addr.IsLinkLocalUnicast():
		return "a link-local address cannot be an endpoint: it is another host on every link"
	case addr.IsMulticast():
		return "a multicast address cannot be an endpoint: it names a group of hosts"
	case proxier.FamilyOf(addr) != family:
		return fmt.Sprintf("not an %s address, as the slice's addressType says", family)
	}
	return ""
}

// value is what an optional field holds.
func value[T any](p *T, missing T) T {
	if p == nil {
		return missing
	}
	return *p
}
