package proxiertest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"switchyard/proxier"
)

// Traffic draws packets for one cluster.
type Traffic struct {
	targets []target        // where a Service should answer
	decoys  []target        // what looks alike: Services and addresses that no proxy serves
	pods    [2][]netip.Addr // addresses of endpoints, IPv4 and IPv6
}

type target struct {
	protocol proxier.Protocol
	dst      netip.AddrPort
}

// RandomPacket draws one packet for a cluster. Whoever wants many of them keeps
// a [Traffic].
func RandomPacket(rng *rand.Rand, o Objects) Packet { return TrafficTo(o).Packet(rng) }

// TrafficTo finds where a cluster may be reached. It need not be right about
// what a proxy serves, only often enough.
func TrafficTo(o Objects) *Traffic {
	t := &Traffic{}
	for _, s := range o.Services {
		for _, p := range s.Spec.Ports {
			t.addService(s, p)
			t.addNodePort(s, p)
		}
	}
	for _, s := range o.Slices {
		for _, ep := range s.Endpoints {
			if addr, err := netip.ParseAddr(ep.Addresses[0]); err == nil {
				t.pods[familyIndex(addr)] = append(t.pods[familyIndex(addr)], addr)
			}
		}
	}
	return t
}

func familyIndex(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}

func (t *Traffic) addService(s *corev1.Service, p corev1.ServicePort) {
	for _, ip := range slices.Concat(s.Spec.ClusterIPs, s.Spec.ExternalIPs) {
		t.add(p.Protocol, ip, p.Port, serves(s, ip))
	}
	for _, in := range s.Status.LoadBalancer.Ingress {
		vip := in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP
		t.add(p.Protocol, in.IP, p.Port, vip && serves(s, in.IP))
	}
}

func (t *Traffic) addNodePort(s *corev1.Service, p corev1.ServicePort) {
	if p.NodePort == 0 {
		return
	}
	for _, f := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		lab := LabOf(f)
		for _, addr := range lab.Local() {
			t.add(p.Protocol, addr.String(), p.NodePort, serves(s, addr.String()))
		}
		t.add(p.Protocol, lab.Loopback.String(), p.NodePort, f == proxier.IPv4 && serves(s, lab.Loopback.String()))
	}
}

// serves tells whether a proxy serves a Service at addresses of that family.
func serves(s *corev1.Service, ip string) bool {
	addr, err := netip.ParseAddr(ip)
	family := corev1.IPFamily(proxier.FamilyOf(addr).String())
	_, other := s.Labels["service.kubernetes.io/service-proxy-name"]
	return err == nil && !other && s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone &&
		slices.Contains(s.Spec.IPFamilies, family)
}

func (t *Traffic) add(protocol corev1.Protocol, ip string, port int32, served bool) {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return
	}
	number := map[corev1.Protocol]proxier.Protocol{
		corev1.ProtocolTCP: proxier.TCP, corev1.ProtocolUDP: proxier.UDP, corev1.ProtocolSCTP: proxier.SCTP}
	to := target{number[protocol], netip.AddrPortFrom(addr, uint16(port))}
	if served {
		t.targets = append(t.targets, to)
	} else {
		t.decoys = append(t.decoys, to)
	}
}

// Packet draws a packet: nine of ten go where a Service should answer, the others
// to a decoy, near a Service, or anywhere. Its fate is left to others.
func (t *Traffic) Packet(rng *rand.Rand) Packet {
	to := t.target(rng)
	p := Packet{}
	p.Protocol, p.Dst = to.protocol, to.dst
	p.From = t.from(rng, to.dst.Addr())
	src, in, err := Source(p.From, to.dst.Addr())
	if err != nil { // from() names hosts of the laboratory only
		return p
	}
	p.Src, p.In = src, in
	return p
}

func (t *Traffic) target(rng *rand.Rand) target {
	anywhere := target{pick(rng, protocols()), netip.AddrPortFrom(LabOf(proxier.IPv4).Node, uint16(rng.IntN(65536)))}
	if len(t.targets) == 0 {
		return anywhere
	}
	to := pick(rng, t.targets)
	switch rng.IntN(60) {
	case 0:
		to.protocol = pick(rng, protocols())
	case 1:
		to.dst = netip.AddrPortFrom(to.dst.Addr(), pick(rng, t.targets).dst.Port())
	case 2:
		to.dst = netip.AddrPortFrom(to.dst.Addr().Next(), to.dst.Port())
	case 3:
		return anywhere
	case 4, 5:
		if len(t.decoys) > 0 {
			return pick(rng, t.decoys)
		}
	}
	return to
}

func protocols() []proxier.Protocol {
	return []proxier.Protocol{proxier.TCP, proxier.UDP, proxier.SCTP}
}

// from draws a source. Only the node itself can reach its loopback addresses.
func (t *Traffic) from(rng *rand.Rand, dst netip.Addr) string {
	if dst.IsLoopback() {
		return string(FromNodeLoopback)
	}
	pods := t.pods[familyIndex(dst)]
	switch n := rng.IntN(10); {
	case n == 0:
		return fmt.Sprintf("%s@%s", FromNode, dst)
	case n < 3 && len(pods) > 0:
		return endpointSource(dst, pick(rng, pods))
	}
	return string(pick(rng, []Host{FromNode, FromOtherNode, FromPodA, FromPodA2, FromPodB, FromOutside, FromOutside2}))
}

// endpointSource is an endpoint as a client; one in the host network of a node
// is that node.
func endpointSource(dst, addr netip.Addr) string {
	switch lab := LabOf(proxier.FamilyOf(dst)); addr {
	case lab.Node:
		return string(FromNode)
	case lab.OtherNode:
		return string(FromOtherNode)
	}
	return fmt.Sprintf("%s@%s", FromPod, addr)
}
