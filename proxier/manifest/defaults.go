package manifest

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

const defaultNamespace = corev1.NamespaceDefault

// defaultService fills in what the API server fills in. Addresses and node ports
// that it would allocate are left empty.
func defaultService(svc *corev1.Service) {
	svc.Namespace = cmp.Or(svc.Namespace, defaultNamespace)
	spec := &svc.Spec
	spec.Type = cmp.Or(spec.Type, corev1.ServiceTypeClusterIP)
	spec.SessionAffinity = cmp.Or(spec.SessionAffinity, corev1.ServiceAffinityNone)
	for i := range spec.Ports {
		spec.Ports[i].Protocol = cmp.Or(spec.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	switch {
	case len(spec.ClusterIPs) == 0 && spec.ClusterIP != "":
		spec.ClusterIPs = []string{spec.ClusterIP}
	case spec.ClusterIP == "" && len(spec.ClusterIPs) > 0:
		spec.ClusterIP = spec.ClusterIPs[0]
	}
	if external(svc) {
		spec.ExternalTrafficPolicy = cmp.Or(spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if spec.InternalTrafficPolicy == nil && spec.Type != corev1.ServiceTypeExternalName {
		spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		defaultAffinity(spec)
	}
	for i := range svc.Status.LoadBalancer.Ingress {
		if in := &svc.Status.LoadBalancer.Ingress[i]; in.IP != "" && in.IPMode == nil {
			in.IPMode = new(corev1.LoadBalancerIPModeVIP)
		}
	}
}

func defaultAffinity(spec *corev1.ServiceSpec) {
	if spec.SessionAffinityConfig == nil {
		spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{}
	}
	config := spec.SessionAffinityConfig
	if config.ClientIP == nil {
		config.ClientIP = &corev1.ClientIPConfig{}
	}
	if config.ClientIP.TimeoutSeconds == nil {
		config.ClientIP.TimeoutSeconds = new(corev1.DefaultClientIPServiceAffinitySeconds)
	}
}

// external reports whether something outside the cluster may reach a Service.
func external(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeNodePort ||
		svc.Spec.Type == corev1.ServiceTypeLoadBalancer ||
		svc.Spec.Type == corev1.ServiceTypeClusterIP && len(svc.Spec.ExternalIPs) > 0
}

func defaultSlice(slice *discoveryv1.EndpointSlice) {
	slice.Namespace = cmp.Or(slice.Namespace, defaultNamespace)
	for i := range slice.Ports {
		port := &slice.Ports[i]
		if port.Name == nil {
			port.Name = new("")
		}
		if port.Protocol == nil {
			port.Protocol = new(corev1.ProtocolTCP)
		}
	}
}

// defaultNode also drops the namespace that people write by mistake: nodes have
// none.
func defaultNode(node *corev1.Node) {
	node.Namespace = ""
	switch {
	case len(node.Spec.PodCIDRs) == 0 && node.Spec.PodCIDR != "":
		node.Spec.PodCIDRs = []string{node.Spec.PodCIDR}
	case node.Spec.PodCIDR == "" && len(node.Spec.PodCIDRs) > 0:
		node.Spec.PodCIDR = node.Spec.PodCIDRs[0]
	}
}
