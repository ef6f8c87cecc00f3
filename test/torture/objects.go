package main

import (
	"bytes"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"switchyard/proxier"
	"switchyard/proxier/proxiertest"
	"switchyard/test/netlab"
)

// families are those of every node here.
var families = []proxier.Family{proxier.IPv4, proxier.IPv6}

// farAddr is the address that the node gains and loses.
var farAddr = netip.MustParsePrefix("192.168.7.9/32")

// nth is the n-th address of a range.
func nth(p netip.Prefix, n int) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	b[len(b)-1] = byte(n)
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

func addrPort(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func clusterIP(f proxier.Family, i int) netip.Addr { return nth(proxiertest.LabOf(f).ClusterIPs, 40+i) }
func externalIP(f proxier.Family, i int) netip.Addr {
	return nth(proxiertest.LabOf(f).Externals, 40+i)
}
func loadBalancerIP(f proxier.Family, i int) netip.Addr {
	return nth(proxiertest.LabOf(f).VIPs, 40+i)
}

// Each Service has two ports of the same number.
var (
	protocols = []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP}
	portNames = []string{"http", "dns"}
)

func (s *slot) families() []proxier.Family {
	if s.single {
		return families[:1]
	}
	return families
}

// objects are those of one slot, none if it is empty.
func (w *world) objects(i int) []any {
	s := &w.slots[i]
	if s.name == "" {
		return nil
	}
	all := []any{s.service(i)}
	for _, f := range s.families() {
		all = append(all, s.slice(i, f))
	}
	return all
}

func (s *slot) meta(i int) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("slot-%02d-%s", i, s.name)}
}

func (s *slot) service(i int) *corev1.Service {
	svc := &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: s.meta(i),
		Spec: corev1.ServiceSpec{Type: corev1.ServiceType(s.kind), SessionAffinity: corev1.ServiceAffinityNone},
	}
	policy := corev1.IPFamilyPolicySingleStack
	if !s.single {
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	svc.Spec.IPFamilyPolicy = &policy
	for _, f := range s.families() {
		svc.Spec.IPFamilies = append(svc.Spec.IPFamilies, corev1.IPFamily(f.String()))
		svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, clusterIP(f, i).String())
		if s.eip {
			svc.Spec.ExternalIPs = append(svc.Spec.ExternalIPs, externalIP(f, i).String())
		}
		if s.kind == "LoadBalancer" {
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress,
				corev1.LoadBalancerIngress{IP: loadBalancerIP(f, i).String()})
		}
	}
	svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
	if s.affinity {
		svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	}
	internal := corev1.ServiceInternalTrafficPolicy(s.internal)
	svc.Spec.InternalTrafficPolicy = &internal
	s.outside(i, svc)
	return svc
}

// outside is what of a Service concerns those who are not in the cluster.
func (s *slot) outside(i int, svc *corev1.Service) {
	if s.kind != "ClusterIP" || s.eip {
		svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicy(s.external)
	}
	if s.kind == "LoadBalancer" && s.external == "Local" {
		svc.Spec.HealthCheckNodePort = int32(32000 + i)
	}
	if s.kind == "LoadBalancer" && s.ranges {
		svc.Spec.LoadBalancerSourceRanges = []string{"203.0.113.7/32", "2001:db8:113::7/128"}
	}
	for n, protocol := range protocols {
		p := corev1.ServicePort{
			Name: portNames[n], Port: int32(s.port), Protocol: protocol,
			TargetPort: intstr.FromInt32(int32(firstTarget + i)),
		}
		if s.kind != "ClusterIP" {
			p.NodePort = int32(firstNodePort + i + n*slots)
		}
		svc.Spec.Ports = append(svc.Spec.Ports, p)
	}
}

func (s *slot) slice(i int, f proxier.Family) *discoveryv1.EndpointSlice {
	meta := s.meta(i)
	slice := &discoveryv1.EndpointSlice{
		TypeMeta:   metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: meta, AddressType: discoveryv1.AddressType(f.String()),
	}
	slice.Name += fmt.Sprintf("-%d", f)
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: meta.Name}
	target := int32(firstTarget + i)
	for n, protocol := range protocols {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &portNames[n], Protocol: &protocol, Port: &target})
	}
	for n, pod := range netlab.StandardPods() {
		if s.pods[n] == absent {
			continue
		}
		isReady, ends := s.pods[n] == ready, s.pods[n] == terminating || s.pods[n] == ending
		serves := isReady || s.pods[n] == terminating
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{addrOf(pod, f).String()},
			NodeName:   &pod.Node,
			Conditions: discoveryv1.EndpointConditions{Ready: &isReady, Serving: &serves, Terminating: &ends},
		})
	}
	return slice
}

func addrOf(p netlab.Pod, f proxier.Family) netip.Addr {
	if f == proxier.IPv6 {
		return p.Addrs[1]
	}
	return p.Addrs[0]
}

func (w *world) node() *corev1.Node {
	n := &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: netlab.NodeA, Labels: map[string]string{corev1.LabelTopologyZone: w.zone}},
	}
	for _, f := range families {
		lab := proxiertest.LabOf(f)
		n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, lab.NodePods.String())
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: lab.Node.String()})
	}
	n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	if w.far {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: farAddr.Addr().String()})
	}
	return n
}

// document prints objects as one file. No object: no text.
func document(objects ...any) ([]byte, error) {
	var docs [][]byte
	for _, o := range objects {
		doc, err := yaml.Marshal(o)
		if err != nil {
			return nil, fmt.Errorf("print %T: %w", o, err)
		}
		docs = append(docs, doc)
	}
	return bytes.Join(docs, []byte("---\n")), nil
}
