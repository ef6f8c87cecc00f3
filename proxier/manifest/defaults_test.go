package manifest

import (
	"fmt"
	"strings"
	"testing"
)

// summary lists what a file holds, with the lines.
func (p *parsed) summary() string {
	var all []string
	for _, e := range p.entries {
		all = append(all, fmt.Sprintf("%s:%d", e.key, e.line))
	}
	for _, i := range p.ignored {
		all = append(all, fmt.Sprintf("ignored %s:%d", i.Kind, i.Line))
	}
	return strings.Join(all, " ")
}

func TestDefaults(t *testing.T) {
	first := func(in string) *entry {
		p := parse("shop.yaml", []byte(in))
		if err := p.first(); err != nil {
			t.Fatal(err)
		}
		return p.entries[0]
	}
	svc := first(goodService + "  sessionAffinity: ClientIP\n").service
	got := fmt.Sprintln(svc.Namespace, svc.Spec.Type, svc.Spec.ClusterIPs, svc.Spec.Ports[0].Protocol,
		*svc.Spec.InternalTrafficPolicy, svc.Spec.ExternalTrafficPolicy == "", *svc.Spec.SessionAffinityConfig.ClientIP.TimeoutSeconds)
	if want := "default ClusterIP [10.96.0.1] TCP Cluster true 10800\n"; got != want {
		t.Errorf("Service: %swant %s", got, want)
	}
	svc = first(with(goodService, "clusterIP: 10.96.0.1", "clusterIPs: [10.96.0.1, fd00::1]\n  type: LoadBalancer")).service
	got = fmt.Sprintln(svc.Spec.ClusterIP, svc.Spec.ExternalTrafficPolicy, svc.Spec.Ports[0].NodePort, svc.Spec.SessionAffinity)
	if want := "10.96.0.1 Cluster 0 None\n"; got != want {
		t.Errorf("LoadBalancer: %swant %s", got, want)
	}
	slice := first(with(goodSlice, "- name: http\n  port: 8080", "- port: 8080")).slice
	if got, want := fmt.Sprintf("%s %q %s", slice.Namespace, *slice.Ports[0].Name, *slice.Ports[0].Protocol), `default "" TCP`; got != want {
		t.Errorf("EndpointSlice: %s, want %s", got, want)
	}
	node := first(with(goodNode, "name: node-1", "name: node-1\n  namespace: default")).node
	if got, want := fmt.Sprint(node.Namespace, node.Spec.PodCIDRs), "[10.1.0.0/24]"; got != want {
		t.Errorf("Node: %s, want %s", got, want)
	}
}
