package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"switchyard/proxier"
)

// labelProxyName on a Service gives it to another proxy.
const labelProxyName = "service.kubernetes.io/service-proxy-name"

// defaultAffinity is what the API server fills in for sessionAffinity ClientIP.
const defaultAffinity = time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second

// maxAffinity is the API's bound on an affinity's timeout: a day, in seconds.
const maxAffinity = 86400

// served reports whether a proxy has to do anything for a Service. Its presence
// alone, not its value, makes the label count.
func served(svc *corev1.Service) bool {
	_, foreign := svc.Labels[labelProxyName]
	ip := svc.Spec.ClusterIP
	return !foreign && ip != "" && ip != corev1.ClusterIPNone &&
		svc.Spec.Type != corev1.ServiceTypeExternalName
}

// trimService returns what of a Service decides something here, nil for one that
// is not served.
func trimService(svc *corev1.Service) *Service {
	if !served(svc) {
		return nil
	}
	name := Name{svc.Namespace, svc.Name}.clone()
	p := &problems{object: Object{"Service", name}}
	spec := &svc.Spec
	out := &Service{
		Name:          name,
		Ports:         trimPorts(spec.Ports, p),
		ClusterIPs:    trimClusterIPs(spec, p),
		ExternalIPs:   p.vips("spec.externalIPs", spec.ExternalIPs),
		LoadBalancers: trimIngress(svc.Status.LoadBalancer.Ingress, p),
		ExternalLocal: spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		InternalLocal: spec.InternalTrafficPolicy != nil &&
			*spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		Affinity: trimAffinity(spec, p),
		Balance:  trimBalance(svc.Annotations, p),
	}
	out.SourceRanges, out.Restricted = trimSourceRanges(spec.LoadBalancerSourceRanges, p)
	if spec.Type == corev1.ServiceTypeLoadBalancer && out.ExternalLocal {
		out.HealthPort = p.port("spec.healthCheckNodePort", spec.HealthCheckNodePort)
	}
	out.Problems = p.list
	return out
}

func trimPorts(ports []corev1.ServicePort, p *problems) []Port {
	out := make([]Port, 0, len(ports))
	for i := range ports {
		in, field := &ports[i], fmt.Sprintf("spec.ports[%d]", i)
		protocol, ok := p.protocol(field+".protocol", in.Protocol)
		if !ok {
			continue
		}
		if in.Port < 1 || in.Port > 65535 {
			p.add(field+".port", "%d: not a port: 1 to 65535", in.Port)
			continue
		}
		port := Port{Name: strings.Clone(in.Name), Protocol: protocol, Port: uint16(in.Port)}
		if j := slices.IndexFunc(out, port.collides); j >= 0 {
			p.add(field, "%s: the Service has this port already as %s", port, out[j])
			continue
		}
		port.NodePort = p.port(field+".nodePort", in.NodePort)
		out = append(out, port)
	}
	return slices.Clip(out)
}

// collides reports whether two ports of one Service cannot stand side by side.
// TCP, UDP and SCTP may share a name and a number.
func (p Port) collides(o Port) bool {
	return p.Protocol == o.Protocol && (p.Name == o.Name || p.Port == o.Port)
}

func (p Port) String() string {
	if p.Name == "" {
		return fmt.Sprintf("%d/%s", p.Port, p.Protocol)
	}
	return fmt.Sprintf("%s %d/%s", show(p.Name), p.Port, p.Protocol)
}

func trimClusterIPs(spec *corev1.ServiceSpec, p *problems) []netip.Addr {
	if len(spec.ClusterIPs) > 0 {
		return p.vips("spec.clusterIPs", spec.ClusterIPs)
	}
	addr, err := vip(spec.ClusterIP)
	if err != nil {
		p.add("spec.clusterIP", "%v", err)
		return nil
	}
	return []netip.Addr{addr}
}

// trimIngress leaves out what the proxy has nothing to do with: names, and
// addresses that the load balancer answers for itself (ipMode Proxy, KEP-1860).
// As upstream does, it looks at the status whatever the Service's type.
func trimIngress(ingress []corev1.LoadBalancerIngress, p *problems) []netip.Addr {
	var out []netip.Addr
	for i := range ingress {
		in := &ingress[i]
		if in.IP == "" || in.IPMode != nil && *in.IPMode != corev1.LoadBalancerIPModeVIP {
			continue
		}
		addr, err := vip(in.IP)
		if err != nil {
			p.add(fmt.Sprintf("status.loadBalancer.ingress[%d].ip", i), "%v", err)
			continue
		}
		if !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	return slices.Clip(out)
}

// trimSourceRanges reports as its second result whether the Service lists any
// entry. One that is blank or broken admits nobody: whoever lists entries means to
// restrict.
func trimSourceRanges(ranges []string, p *problems) ([]netip.Prefix, bool) {
	var out []netip.Prefix
	restricted := false
	for i, text := range ranges {
		restricted = true
		prefix, err := parsePrefix(strings.TrimSpace(text))
		if err != nil {
			p.add(fmt.Sprintf("spec.loadBalancerSourceRanges[%d]", i), "%v", err)
			continue
		}
		if !slices.Contains(out, prefix) {
			out = append(out, prefix)
		}
	}
	return slices.Clip(out), restricted
}

func trimAffinity(spec *corev1.ServiceSpec, p *problems) time.Duration {
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	config := spec.SessionAffinityConfig
	if config == nil || config.ClientIP == nil || config.ClientIP.TimeoutSeconds == nil {
		return defaultAffinity
	}
	seconds := *config.ClientIP.TimeoutSeconds
	if seconds < 1 || seconds > maxAffinity {
		p.add("spec.sessionAffinityConfig.clientIP.timeoutSeconds",
			"%d: not 1 to %d seconds: %v is used", seconds, maxAffinity, defaultAffinity)
		return defaultAffinity
	}
	return time.Duration(seconds) * time.Second
}

// vips parses a list of addresses at which a Service answers. A repeated one
// says nothing new.
func (p *problems) vips(field string, texts []string) []netip.Addr {
	var out []netip.Addr
	for i, text := range texts {
		addr, err := vip(text)
		if err != nil {
			p.add(fmt.Sprintf("%s[%d]", field, i), "%v", err)
			continue
		}
		if !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	return slices.Clip(out)
}

// vip parses an address at which a Service answers. To some kernel interfaces
// the unspecified address would mean every address there is.
func vip(text string) (netip.Addr, error) {
	addr, err := parseAddr(text)
	if err == nil && addr.IsUnspecified() {
		return netip.Addr{}, fmt.Errorf("%s: the unspecified address cannot be a Service's", show(text))
	}
	return addr, err
}

// port is for ports of which 0 means none.
func (p *problems) port(field string, port int32) uint16 {
	if port < 0 || port > 65535 {
		p.add(field, "%d: not a port: 1 to 65535, or 0 for none", port)
		return 0
	}
	return uint16(port)
}

// protocol parses a protocol, by default TCP.
func (p *problems) protocol(field string, protocol corev1.Protocol) (proxier.Protocol, bool) {
	switch protocol {
	case "", corev1.ProtocolTCP:
		return proxier.TCP, true
	case corev1.ProtocolUDP:
		return proxier.UDP, true
	case corev1.ProtocolSCTP:
		return proxier.SCTP, true
	}
	p.add(field, "%s: not a protocol: TCP, UDP or SCTP", show(string(protocol)))
	return 0, false
}
