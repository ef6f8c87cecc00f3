package manifest

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (v *validator) service(svc *corev1.Service) {
	v.meta(&svc.ObjectMeta, validation.IsDNS1123Label, true)
	spec := &svc.Spec
	oneOf(v, inSpec.Child("type"), spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName)
	v.clusterIPs(spec)
	v.servicePorts(spec)
	v.externalIPs(spec.ExternalIPs)
	v.affinity(spec)
	v.policies(svc)
	v.ingress(svc.Status.LoadBalancer.Ingress)

	ranges := inSpec.Child("loadBalancerSourceRanges")
	if len(spec.LoadBalancerSourceRanges) > 0 && spec.Type != corev1.ServiceTypeLoadBalancer {
		v.refuse(ranges, "only for type LoadBalancer")
	}
	for i, text := range spec.LoadBalancerSourceRanges {
		v.prefix(ranges.Index(i), text)
	}
}

func (v *validator) clusterIPs(spec *corev1.ServiceSpec) {
	if len(spec.ClusterIPs) > 0 && spec.ClusterIPs[0] != spec.ClusterIP {
		v.refuse(inSpec.Child("clusterIP"), fmt.Sprintf("%s: expected the first of clusterIPs, %s",
			quote(spec.ClusterIP), quote(spec.ClusterIPs[0])))
		return
	}
	if len(spec.ClusterIPs) > 2 {
		v.refuse(inSpec.Child("clusterIPs"), fmt.Sprintf("%d addresses: expected at most one of each family", len(spec.ClusterIPs)))
		return
	}
	if len(spec.ClusterIPs) == 1 && spec.ClusterIP == corev1.ClusterIPNone {
		return
	}
	var first netip.Addr
	for i, text := range spec.ClusterIPs {
		at := v.place("clusterIP", "clusterIPs", i)
		addr, ok := v.address(at, text)
		if ok && first.IsValid() && addr.Is4() == first.Is4() {
			v.refuse(at, fmt.Sprintf("%s: of the same family as %s", quote(text), quote(spec.ClusterIPs[0])))
		}
		if ok {
			first = addr
		}
	}
}

func (v *validator) servicePorts(spec *corev1.ServiceSpec) {
	path := inSpec.Child("ports")
	if len(spec.Ports) == 0 && spec.Type != corev1.ServiceTypeExternalName && spec.ClusterIP != corev1.ClusterIPNone {
		v.refuse(path, "required")
	}
	names, numbers, nodePorts := map[string]int{}, map[string]int{}, map[string]int{}
	for i := range spec.Ports {
		port, at := &spec.Ports[i], path.Index(i)
		if port.Name == "" && len(spec.Ports) > 1 {
			v.refuse(at.Child("name"), "required where there are several ports")
		} else {
			v.portName(at.Child("name"), port.Name, i, names)
		}
		v.protocol(at.Child("protocol"), port.Protocol)
		v.number(at.Child("port"), port.Port, 1, 65535)
		v.once(at.Child("port"), port.Port, port.Protocol, numbers)
		if port.NodePort == 0 {
			continue
		}
		v.number(at.Child("nodePort"), port.NodePort, 1, 65535)
		v.once(at.Child("nodePort"), port.NodePort, port.Protocol, nodePorts)
		if spec.Type != corev1.ServiceTypeNodePort && spec.Type != corev1.ServiceTypeLoadBalancer {
			v.refuse(at.Child("nodePort"), "only for type NodePort or LoadBalancer")
		}
	}
}

// once refuses a port number that one before it has with the same protocol.
func (v *validator) once(path *field.Path, port int32, protocol corev1.Protocol, seen map[string]int) {
	id := fmt.Sprintf("%d/%s", port, protocol)
	if seen[id]++; seen[id] > 1 {
		v.refuse(path, id+": the Service has this port already")
	}
}

func (v *validator) externalIPs(texts []string) {
	for i, text := range texts {
		path := inSpec.Child("externalIPs").Index(i)
		addr, ok := v.address(path, text)
		if !ok {
			continue
		}
		if addr.IsUnspecified() || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsLinkLocalMulticast() {
			v.refuse(path, quote(text)+": an unspecified, loopback or link-local address cannot be external")
		}
	}
}

func (v *validator) affinity(spec *corev1.ServiceSpec) {
	oneOf(v, inSpec.Child("sessionAffinity"), spec.SessionAffinity, corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP)
	config, path := spec.SessionAffinityConfig, inSpec.Child("sessionAffinityConfig")
	switch {
	case config == nil || config.ClientIP == nil || config.ClientIP.TimeoutSeconds == nil:
	case spec.SessionAffinity != corev1.ServiceAffinityClientIP:
		v.refuse(path, "only for sessionAffinity ClientIP")
	default:
		v.number(path.Child("clientIP", "timeoutSeconds"), *config.ClientIP.TimeoutSeconds, 1, 86400)
	}
}

func (v *validator) policies(svc *corev1.Service) {
	spec := &svc.Spec
	if spec.InternalTrafficPolicy != nil {
		oneOf(v, inSpec.Child("internalTrafficPolicy"), *spec.InternalTrafficPolicy,
			corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	}
	path := inSpec.Child("externalTrafficPolicy")
	if spec.ExternalTrafficPolicy != "" {
		oneOf(v, path, spec.ExternalTrafficPolicy,
			corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
		if !external(svc) {
			v.refuse(path, "only for type NodePort or LoadBalancer, or with externalIPs")
		}
	}
	if spec.HealthCheckNodePort == 0 {
		return
	}
	path = inSpec.Child("healthCheckNodePort")
	v.number(path, spec.HealthCheckNodePort, 1, 65535)
	if spec.Type != corev1.ServiceTypeLoadBalancer || spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		v.refuse(path, "only for type LoadBalancer with externalTrafficPolicy Local")
	}
}

func (v *validator) ingress(ingress []corev1.LoadBalancerIngress) {
	for i := range ingress {
		in, path := &ingress[i], field.NewPath("status", "loadBalancer", "ingress").Index(i)
		if in.IP != "" {
			v.address(path.Child("ip"), in.IP)
		}
		if in.IPMode == nil {
			continue
		}
		oneOf(v, path.Child("ipMode"), *in.IPMode, corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy)
		if in.IP == "" {
			v.refuse(path.Child("ipMode"), "only with ip")
		}
	}
}
