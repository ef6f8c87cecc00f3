package proxiertest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"switchyard/proxier"
)

// Random returns a small cluster (up to 12 Services) that the API could hold, in
// the laboratory's addresses: every type, family, protocol, policy and condition,
// and the collisions that the API does not forbid. The same seed gives the same
// cluster.
func Random(seed uint64) Objects {
	g := &generator{
		rng:       rand.New(rand.NewPCG(seed, 0x5eed)),
		nodePorts: map[string]bool{},
	}
	g.node()
	for i := range 1 + g.rng.IntN(12) {
		g.service(i)
	}
	return g.out
}

// RandomFlags returns flags that the proxy would accept.
func RandomFlags(rng *rand.Rand) Flags {
	f := DefaultFlags()
	switch rng.IntN(6) {
	case 0:
		f.ClusterCIDRs = nil
	case 1:
		f.ClusterCIDRs = f.ClusterCIDRs[:1]
	case 2:
		f.DetectLocalMode = DetectNodeCIDR
	case 3:
		f.DetectLocalMode, f.PodBridgeInterface = DetectBridgeInterface, PodBridge
	case 4:
		f.DetectLocalMode, f.PodInterfaceNamePrefix = DetectInterfaceNamePrefix, "cbr"
	}
	f.MasqueradeAll = rng.IntN(4) == 0
	f.LocalhostNodePorts = rng.IntN(4) > 0
	f.NodePortAddresses = pick(rng, [][]string{nil, nil, nil, {"primary"}, {"primary", "localhost"},
		{"192.168.7.0/24", "fd00:192:168::/64"}, {"127.0.0.0/8", "fd00:192:168:7::/64"}})
	return f
}

type generator struct {
	rng       *rand.Rand
	out       Objects
	nodePorts map[string]bool // "TCP 30001" is taken
}

func pick[T any](rng *rand.Rand, list []T) T { return list[rng.IntN(len(list))] }

// percent is true with a probability of p in 100.
func (g *generator) percent(p int) bool { return g.rng.IntN(100) < p }

func (g *generator) node() {
	l4, l6 := LabOf(proxier.IPv4), LabOf(proxier.IPv6)
	n := &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: NodeName, Labels: map[string]string{}},
		Spec:       corev1.NodeSpec{PodCIDR: l4.NodePods.String(), PodCIDRs: []string{l4.NodePods.String(), l6.NodePods.String()}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: l4.Node.String()},
			{Type: corev1.NodeInternalIP, Address: l6.Node.String()},
		}},
	}
	if g.percent(80) {
		n.Labels[corev1.LabelTopologyZone] = "zone-a"
	}
	g.out.Nodes = append(g.out.Nodes, n)
}

func (g *generator) service(i int) {
	s := &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pick(g.rng, []string{"default", "default", "kube-system", "shop"}),
			Name:      fmt.Sprintf("s%02d", i),
		},
	}
	s.Spec.Type = pick(g.rng, []corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeLoadBalancer})
	families := pick(g.rng, [][]proxier.Family{{proxier.IPv4}, {proxier.IPv6}, {proxier.IPv4, proxier.IPv6}, {proxier.IPv6, proxier.IPv4}})
	g.addresses(s, families, i)
	g.ports(s)
	g.external(s)
	g.policies(s, i)
	g.weights(s)
	g.unserved(s)
	g.out.Services = append(g.out.Services, s)
	for _, f := range families {
		g.slices(s, f)
	}
}

func (g *generator) addresses(s *corev1.Service, families []proxier.Family, i int) {
	single := corev1.IPFamilyPolicySingleStack
	if len(families) == 2 {
		single = corev1.IPFamilyPolicyRequireDualStack
	}
	s.Spec.IPFamilyPolicy = &single
	for _, f := range families {
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, corev1.IPFamily(f.String()))
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, at(LabOf(f).ClusterIPs, 10+i).String())
	}
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
}

func (g *generator) ports(s *corev1.Service) {
	protocols := []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}
	taken := map[string]bool{}
	n := 1 + g.rng.IntN(3)
	for i := range n {
		p := corev1.ServicePort{
			Protocol: pick(g.rng, protocols),
			Port:     pick(g.rng, []int32{53, 80, 443, 30001}),
		}
		if n > 1 || g.percent(50) {
			p.Name = fmt.Sprintf("p%d", i)
		}
		if key := fmt.Sprint(p.Protocol, p.Port); !taken[key] {
			taken[key] = true
			p.NodePort = g.nodePort(s, p.Protocol)
			s.Spec.Ports = append(s.Spec.Ports, p)
		}
	}
}

func (g *generator) nodePort(s *corev1.Service, protocol corev1.Protocol) int32 {
	if s.Spec.Type == corev1.ServiceTypeClusterIP || s.Spec.Type == corev1.ServiceTypeLoadBalancer && g.percent(20) {
		return 0
	}
	for {
		port := int32(30000 + g.rng.IntN(64))
		if key := fmt.Sprint(protocol, port); !g.nodePorts[key] {
			g.nodePorts[key] = true
			return port
		}
	}
}

// external gives addresses that several Services may share, and so may collide.
func (g *generator) external(s *corev1.Service) {
	for _, f := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		lab := LabOf(f)
		if g.percent(30) {
			for range 1 + g.rng.IntN(2) {
				s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, g.externalIP(lab).String())
			}
		}
		if s.Spec.Type != corev1.ServiceTypeLoadBalancer || g.percent(20) {
			continue
		}
		for range 1 + g.rng.IntN(2) {
			mode := pick(g.rng, []corev1.LoadBalancerIPMode{corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy})
			ingress := corev1.LoadBalancerIngress{IP: at(lab.VIPs, 1+g.rng.IntN(6)).String(), IPMode: &mode}
			if g.percent(15) { // an agent put it on an interface of the node
				ingress.IP = lab.NodeExtra.String()
			}
			if g.percent(5) {
				ingress = corev1.LoadBalancerIngress{Hostname: "lb.example.com"}
			}
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, ingress)
		}
	}
}

func (g *generator) externalIP(lab Lab) netip.Addr {
	switch g.rng.IntN(12) {
	case 0:
		return lab.Node
	case 1:
		return at(lab.VIPs, 1+g.rng.IntN(6))
	case 2:
		return at(lab.ClusterIPs, 10+g.rng.IntN(12))
	}
	return at(lab.Externals, 1+g.rng.IntN(6))
}

func (g *generator) policies(s *corev1.Service, i int) {
	internal := corev1.ServiceInternalTrafficPolicyCluster
	if g.percent(30) {
		internal = corev1.ServiceInternalTrafficPolicyLocal
	}
	s.Spec.InternalTrafficPolicy = &internal
	if s.Spec.Type != corev1.ServiceTypeClusterIP || len(s.Spec.ExternalIPs) > 0 {
		s.Spec.ExternalTrafficPolicy = pick(g.rng, []corev1.ServiceExternalTrafficPolicy{
			corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal})
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		if s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
			s.Spec.HealthCheckNodePort = int32(32100 + i)
		}
		g.sourceRanges(s)
	}
	s.Spec.SessionAffinity = corev1.ServiceAffinityNone
	if g.percent(25) {
		timeout := pick(g.rng, []int32{1, 60, corev1.DefaultClientIPServiceAffinitySeconds})
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &timeout}}
	}
}

func (g *generator) sourceRanges(s *corev1.Service) {
	if g.percent(60) {
		return
	}
	ranges := []string{"203.0.113.7/32", "203.0.113.0/24", "10.180.0.0/24", "192.168.0.0/24", "192.168.7.2/32", " 10.0.0.0/8 ",
		"2001:db8:113::7/128", "2001:db8::/32", "fd00:10:180::/80", "fd00:192:168::2/128"}
	for range 1 + g.rng.IntN(3) {
		s.Spec.LoadBalancerSourceRanges = append(s.Spec.LoadBalancerSourceRanges, pick(g.rng, ranges))
	}
	if g.percent(15) {
		s.Spec.LoadBalancerSourceRanges = append(s.Spec.LoadBalancerSourceRanges, pick(g.rng, []string{"0.0.0.0/0", "::/0"}))
	}
}

// weights gives some endpoints, or what could be one, a weight of their own.
func (g *generator) weights(s *corev1.Service) {
	if g.percent(80) {
		return
	}
	weights := map[string]int{}
	for range 1 + g.rng.IntN(6) {
		addr := g.endpointAddr(LabOf(pick(g.rng, []proxier.Family{proxier.IPv4, proxier.IPv6})))
		weights[addr.String()] = pick(g.rng, []int{0, 1, 2, 10, 65535})
	}
	text, _ := json.Marshal(weights) // of strings and numbers: no error
	s.Annotations = map[string]string{"switchyard.dev/endpoint-weights": string(text)}
}

// unserved makes some Services ones that a proxy must leave alone, and some that
// only look so.
func (g *generator) unserved(s *corev1.Service) {
	plain := s.Spec.Type == corev1.ServiceTypeClusterIP
	switch n := g.rng.IntN(25); {
	case n == 0:
		s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "other"}
	case n < 3 && plain:
		s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "shop.example.com"
		s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = "", nil, nil, nil
		s.Spec.InternalTrafficPolicy, s.Spec.ExternalTrafficPolicy = nil, ""
	case n < 5 && plain:
		s.Spec.ClusterIP, s.Spec.ClusterIPs = corev1.ClusterIPNone, []string{corev1.ClusterIPNone}
	case n == 5:
		s.Spec.PublishNotReadyAddresses = true
	case n == 6:
		s.Labels = map[string]string{corev1.IsHeadlessService: ""}
	}
}
