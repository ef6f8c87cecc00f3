package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// one returns the only Service of a Store that got these objects, nil if none is
// served.
func one(t *testing.T, svc *corev1.Service) *Service {
	t.Helper()
	s := NewStore("node-1")
	s.SetService(svc)
	list := s.Snapshot().Services.Slice()
	if len(list) > 1 {
		t.Fatalf("%d services from one object", len(list))
	}
	if len(list) == 0 {
		return nil
	}
	return list[0]
}

func TestWhichServicesAreServed(t *testing.T) {
	tests := []struct {
		what string
		edit func(*corev1.Service)
		want bool
	}{
		{"an ordinary Service", func(*corev1.Service) {}, true},
		{"with the label service-proxy-name of another proxy", func(s *corev1.Service) { setLabel(&s.ObjectMeta, labelProxyName, "other") }, false},
		{"with the label service-proxy-name, empty", func(s *corev1.Service) { setLabel(&s.ObjectMeta, labelProxyName, "") }, false},
		{"clusterIP None", func(s *corev1.Service) { s.Spec.ClusterIP = "None"; s.Spec.ClusterIPs = []string{"None"} }, false},
		{"clusterIP empty", func(s *corev1.Service) { s.Spec.ClusterIP = ""; s.Spec.ClusterIPs = nil }, false},
		{"type ExternalName", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }, false},
		{"no type", func(s *corev1.Service) { s.Spec.Type = "" }, true},
		{"no ports", func(s *corev1.Service) { s.Spec.Ports = nil }, true},
		{"the headless label, which is for slices", func(s *corev1.Service) { setLabel(&s.ObjectMeta, corev1.IsHeadlessService, "") }, true},
	}
	for _, test := range tests {
		if got := one(t, service(test.edit)) != nil; got != test.want {
			t.Errorf("%s: served is %v, want %v", test.what, got, test.want)
		}
	}
}

func TestServiceFields(t *testing.T) {
	ingress := func(list ...corev1.LoadBalancerIngress) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = list }
	}
	affinity := func(config *corev1.SessionAffinityConfig) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec.SessionAffinity, s.Spec.SessionAffinityConfig = corev1.ServiceAffinityClientIP, config
		}
	}
	timeout := func(seconds int32) func(*corev1.Service) {
		return affinity(&corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}})
	}
	ranges := func(list ...string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = list }
	}
	local := func(kind corev1.ServiceType) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec.Type, s.Spec.HealthCheckNodePort = kind, 32000
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
	}
	clusterIPs := func(s *Service) any { return s.ClusterIPs }
	externalIPs := func(s *Service) any { return s.ExternalIPs }
	loadBalancers := func(s *Service) any { return s.LoadBalancers }
	sources := func(s *Service) any { return fmt.Sprint(s.SourceRanges, " restricted ", s.Restricted) }
	affine := func(s *Service) any { return s.Affinity }
	health := func(s *Service) any { return fmt.Sprint(s.ExternalLocal, " ", s.HealthPort) }

	tests := []struct {
		what string
		edit func(*corev1.Service)
		of   func(*Service) any
		want any
	}{
		{"both families", func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.1", "fd00::1"} }, clusterIPs, "[10.96.0.1 fd00::1]"},
		{"clusterIP alone", func(s *corev1.Service) { s.Spec.ClusterIPs = nil }, clusterIPs, "[10.96.0.1]"},
		{"an IPv4-mapped address is IPv4", func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"::ffff:10.96.0.1"} }, clusterIPs, "[10.96.0.1]"},
		{"leading zeros are decimal", func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"010.096.000.001"} }, clusterIPs, "[10.96.0.1]"},
		{"externalIPs, the unparsable left out", func(s *corev1.Service) {
			s.Spec.ExternalIPs = []string{"192.0.2.1", "10.0.0", "", "2001:db8::1", "fe80::1%eth0", "192.0.2.1", "0.0.0.0"}
		}, externalIPs, "[192.0.2.1 2001:db8::1]"},
		{"ingress without ipMode", ingress(corev1.LoadBalancerIngress{IP: "192.0.2.1"}), loadBalancers, "[192.0.2.1]"},
		{"ingress with ipMode VIP", ingress(corev1.LoadBalancerIngress{IP: "192.0.2.1", IPMode: new(corev1.LoadBalancerIPModeVIP)}), loadBalancers, "[192.0.2.1]"},
		{"ingress with ipMode Proxy", ingress(corev1.LoadBalancerIngress{IP: "192.0.2.1", IPMode: new(corev1.LoadBalancerIPModeProxy)}), loadBalancers, "[]"},
		{"ingress with a host name only", ingress(corev1.LoadBalancerIngress{Hostname: "lb.example"}), loadBalancers, "[]"},
		{"no affinity", func(*corev1.Service) {}, affine, "0s"},
		{"affinity without config", affinity(nil), affine, "3h0m0s"},
		{"affinity with an empty config", affinity(&corev1.SessionAffinityConfig{}), affine, "3h0m0s"},
		{"affinity without a timeout", affinity(&corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{}}), affine, "3h0m0s"},
		{"affinity of 10 s", timeout(10), affine, "10s"},
		{"affinity of 0 s", timeout(0), affine, "3h0m0s"},
		{"no ranges", ranges(), sources, "[] restricted false"},
		{"ranges with white space", ranges(" 192.0.2.0/24\t"), sources, "[192.0.2.0/24] restricted true"},
		{"ranges with host bits", ranges("192.0.2.9/24", "192.0.2.0/24"), sources, "[192.0.2.0/24] restricted true"},
		{"blank ranges", ranges("", "  "), sources, "[] restricted true"},
		{"a blank range beside one that is not", ranges("", "192.0.2.0/24"), sources, "[192.0.2.0/24] restricted true"},
		{"ranges of which none parses", ranges("everyone"), sources, "[] restricted true"},
		{"a mapped range", ranges("::ffff:192.0.2.0/120"), sources, "[192.0.2.0/24] restricted true"},
		{"LoadBalancer, Local", local(corev1.ServiceTypeLoadBalancer), health, "true 32000"},
		{"NodePort, Local: no health port", local(corev1.ServiceTypeNodePort), health, "true 0"},
		{"LoadBalancer, Cluster: no health port", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, 32000
		}, health, "false 0"},
		{"internalTrafficPolicy Local", func(s *corev1.Service) {
			s.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal)
		}, func(s *Service) any { return s.InternalLocal }, "true"},
		{"no internalTrafficPolicy", func(*corev1.Service) {}, func(s *Service) any { return s.InternalLocal }, "false"},
	}
	for _, test := range tests {
		if got := fmt.Sprint(test.of(one(t, service(test.edit)))); got != test.want {
			t.Errorf("%s: %v, want %v", test.what, got, test.want)
		}
	}
}

func TestServicePorts(t *testing.T) {
	tests := []struct {
		what  string
		ports []corev1.ServicePort
		want  string
	}{
		{"protocol missing is TCP", []corev1.ServicePort{{Port: 80}}, "[80/TCP]"},
		{"TCP, UDP and SCTP share a number", []corev1.ServicePort{
			{Name: "a", Port: 53, Protocol: "TCP"}, {Name: "b", Port: 53, Protocol: "UDP"}, {Name: "c", Port: 53, Protocol: "SCTP"},
		}, "[a 53/TCP b 53/UDP c 53/SCTP]"},
		{"TCP and UDP share a name", []corev1.ServicePort{{Name: "a", Port: 53, Protocol: "TCP"}, {Name: "a", Port: 53, Protocol: "UDP"}}, "[a 53/TCP a 53/UDP]"},
		{"the same name twice: the first stays", []corev1.ServicePort{{Name: "a", Port: 1}, {Name: "a", Port: 2}}, "[a 1/TCP]"},
		{"the same number twice: the first stays", []corev1.ServicePort{{Name: "a", Port: 1}, {Name: "b", Port: 1}}, "[a 1/TCP]"},
		{"no such port or protocol", []corev1.ServicePort{{Port: 0}, {Port: -1}, {Port: 65536}, {Port: 80, Protocol: "ICMP"}}, "[]"},
	}
	for _, test := range tests {
		svc := one(t, service(func(s *corev1.Service) { s.Spec.Ports = test.ports }))
		if got := fmt.Sprint(svc.Ports); got != test.want {
			t.Errorf("%s: %s, want %s", test.what, got, test.want)
		}
		if left := len(test.ports) - len(svc.Ports); left != len(svc.Problems) {
			t.Errorf("%s: %d ports left out, %d problems: %v", test.what, left, len(svc.Problems), svc.Problems)
		}
	}
	svc := one(t, service(func(s *corev1.Service) {
		s.Spec.Ports = []corev1.ServicePort{{Name: "a", Port: 1, NodePort: 30000}, {Name: "b", Port: 2, NodePort: 65536}}
	}))
	if svc.Ports[0].NodePort != 30000 || svc.Ports[1].NodePort != 0 || len(svc.Problems) != 1 {
		t.Errorf("node ports 30000 and 65536: %+v, %v", svc.Ports, svc.Problems)
	}
}

func TestServiceProblems(t *testing.T) {
	svc := one(t, service(func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.ClusterIPs = []string{"10.96.0.1", "ten"}
		s.Spec.Ports = []corev1.ServicePort{{Name: "a", Port: 80}, {Name: "b", Port: 80, NodePort: -1}, {Name: "c", Port: 70000}, {Port: 1, Protocol: "Q P"}, {Name: "d", Port: 2, NodePort: -1}}
		s.Spec.ExternalIPs = []string{"10.0.0", "fe80::1%eth0", "::"}
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.HealthCheckNodePort = -5
		s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.1", strings.Repeat("x", 80)}
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(int32(-1))}}
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "x"}}
	}))
	want := `Service default/web: spec.ports[1]: b 80/TCP: the Service has this port already as a 80/TCP
Service default/web: spec.ports[2].port: 70000: not a port: 1 to 65535
Service default/web: spec.ports[3].protocol: "Q P": not a protocol: TCP, UDP or SCTP
Service default/web: spec.ports[4].nodePort: -1: not a port: 1 to 65535, or 0 for none
Service default/web: spec.clusterIPs[1]: ten: not an IP address
Service default/web: spec.externalIPs[0]: 10.0.0: not an IP address
Service default/web: spec.externalIPs[1]: fe80::1%eth0: an address with a zone is of use on one host only
Service default/web: spec.externalIPs[2]: ::: the unspecified address cannot be a Service's
Service default/web: status.loadBalancer.ingress[0].ip: x: not an IP address
Service default/web: spec.sessionAffinityConfig.clientIP.timeoutSeconds: -1: not 1 to 86400 seconds: 3h0m0s is used
Service default/web: spec.loadBalancerSourceRanges[0]: 10.0.0.1: not a CIDR such as 192.0.2.0/24
Service default/web: spec.loadBalancerSourceRanges[1]: "` + strings.Repeat("x", 64) + `"…: not a CIDR such as 192.0.2.0/24
Service default/web: spec.healthCheckNodePort: -5: not a port: 1 to 65535, or 0 for none
`
	if got := lines(svc.Problems); got != want {
		t.Errorf("problems:\n%swant:\n%s", got, want)
	}
	if svc.Affinity != 3*time.Hour {
		t.Errorf("affinity %v", svc.Affinity)
	}
}

func lines(problems []Problem) string {
	var b strings.Builder
	for _, p := range problems {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}
