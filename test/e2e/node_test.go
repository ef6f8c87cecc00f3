package e2e

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"switchyard/proxier"
	"switchyard/test/netlab"
)

// hinted has an endpoint for each of two zones.
const hinted = `apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-x, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.180.0.11], nodeName: node-a, hints: {forZones: [{name: here}]}}
- {addresses: [10.180.1.11], nodeName: node-b, hints: {forZones: [{name: there}]}}`

// nodeChanges: what the Node object says is followed as it changes, without a
// restart. What its being gone or about to go means is for load balancers to know,
// not for the rules.
func (c *cluster) nodeChanges(t *testing.T) {
	c.registerNodeA(t)
	c.create(t, web)
	c.create(t, hinted)
	p := c.program(t, c.lab.Host(netlab.NodeA))
	p.configure("nodePortAddresses: [primary]\n")
	p.start()
	p.inSync()
	always := func(pod netip.Addr) {
		t.Helper()
		took := c.reaches(t, "pod-a3", "172.30.0.41:80", pod)
		for range 20 {
			if got := c.ask("pod-a3", "172.30.0.41:80"); got != pod.String() {
				t.Errorf("reached %s, want %s alone", got, pod)
			}
		}
		t.Logf("in %s connections go to %s", took.Round(time.Millisecond), pod)
	}
	always(podA1)
	c.patchNode(t, "node-a", "", `{"metadata":{"labels":{"topology.kubernetes.io/zone":"there"}}}`)
	always(podB1)

	const old, fresh = "192.168.0.2:30080", "192.168.7.2:30080"
	c.reaches(t, netlab.Outside, old, podB1)
	if got := c.ask(netlab.Outside, fresh); got != "refused" {
		t.Errorf("the NodePort at an address that is not primary: %s", got)
	}
	c.patchNode(t, "node-a", "status", `{"status":{"addresses":[{"type":"InternalIP","address":"192.168.7.2"}]}}`)
	took := c.reaches(t, netlab.Outside, fresh, podB1)
	t.Logf("in %s the NodePort is at the new primary address", took.Round(time.Millisecond))
	until(t, "the old address is closed", func() bool { return c.ask(netlab.Outside, old) == "refused" })

	codes := func(what string, healthz, livez int) {
		t.Helper()
		p.until(what, func() bool { return p.healthCodes() == [2]int{healthz, livez} })
		if _, h := p.health("/healthz"); h.NodeEligible == nil || *h.NodeEligible != (healthz == 200) || !h.Healthy {
			t.Errorf("%s: /healthz says %+v", what, h)
		}
		if got := c.ask(netlab.Outside, fresh); got != podB1.String() {
			t.Errorf("%s: the Service answers with %s", what, got)
		}
	}
	codes("the Node is there", 200, 200)
	c.patchNode(t, "node-a", "", `{"spec":{"taints":[{"key":"ToBeDeletedByClusterAutoscaler","effect":"NoSchedule"}]}}`)
	codes("the autoscaler is about to delete the Node", 503, 200)
	c.patchNode(t, "node-a", "", `{"spec":{"taints":null}}`)
	codes("the autoscaler thought better of it", 200, 200)
	check(t, c.admin.CoreV1().Nodes().Delete(t.Context(), "node-a", metav1.DeleteOptions{}))
	codes("the Node is deleted", 503, 200)
	before := p.rules()
	time.Sleep(1500 * time.Millisecond) // more than the time between two syncs
	if p.hasEnded() || strings.Count(p.rules(), "\n-A") != strings.Count(before, "\n-A") {
		t.Errorf("without its Node the program ended (%v), or its rules changed:\n%s\nwere\n%s", p.hasEnded(), p.rules(), before)
	}
	c.create(t, node("node-a", "192.168.7.2"))
	p.until("the Node is back", func() bool { return p.healthCodes() == [2]int{200, 200} })
	always(podA1) // its label is the first again
}

// podRange: where the pods of a node are known by its Node's podCIDRs, nothing is
// written before there are any: every pod would be taken for a stranger.
func (c *cluster) podRange(t *testing.T) {
	c.registerNodeA(t)
	c.create(t, web)
	c.create(t, slice("web", podB1))
	p := c.program(t, c.lab.Host(netlab.NodeA))
	p.configure("detectLocalMode: NodeCIDR\n")
	p.start()
	p.says("waiting, no Service is programmed", `for="spec.podCIDRs of the Node node-a"`)
	if rules := p.rules(); strings.Contains(rules, "KUBE-SERVICES") {
		t.Errorf("rules were written:\n%s", rules)
	}
	c.patchNode(t, "node-a", "", `{"spec":{"podCIDR":"10.180.0.0/24","podCIDRs":["10.180.0.0/24"]}}`)
	c.reaches(t, "pod-a1", "172.30.0.41:80", podB1)
	for from, masqueraded := range map[string]bool{"pod-a1": false, netlab.Outside: true} {
		seen := c.seenAs(t, from, "172.30.0.41:80")
		if got := seen != podA1; got != masqueraded {
			t.Errorf("from %s the server sees %s", from, seen)
		}
	}
}

// noNode: a Node that does not exist is waited for half a minute, and a line says
// so. Then the Services come without it; load balancers are told to stay away. The
// API server itself does not wait: a Node may need it to come into being.
func (c *cluster) noNode(t *testing.T) {
	t.Parallel()
	c.create(t, "apiVersion: v1\nkind: Service\nmetadata: {name: patient}\nspec: {clusterIP: 172.30.0.43, ports: [{port: 80}]}")
	c.create(t, slice("patient", podA1))
	p := c.program(t, c.addNode(t))
	name := p.host.Name()
	began := time.Now()
	p.start()
	p.says("level=WARN", "waiting", `for="the Node `+name+`"`)
	p.until("default/kubernetes", func() bool { return c.apiAnswers(t, p.host) == nil })
	if got := c.ask(name, "172.30.0.43:80"); got == podA1.String() {
		t.Error("it did not wait for its Node")
	}
	c.reaches(t, name, "172.30.0.43:80", podA1)
	took := time.Since(began)
	t.Logf("without its Node it began after %s", took.Round(time.Millisecond))
	if took < 29*time.Second || took > 40*time.Second {
		t.Errorf("it began after %s, want half a minute", took)
	}
	if code, h := p.health("/healthz"); code != 503 || h.NodeEligible == nil || *h.NodeEligible || !h.Healthy {
		t.Errorf("/healthz says %d %+v", code, h)
	}
	c.create(t, node(name, "192.168.0.199"))
	p.until("the Node is known", func() bool { return p.healthCodes() == [2]int{200, 200} })
}

// seenAs is the address that a server takes its client for.
func (c *cluster) seenAs(t *testing.T, from, to string) netip.Addr {
	t.Helper()
	r := c.lab.Host(from).Probe(t.Context(), netlab.Probe{Protocol: proxier.TCP, Dst: netip.MustParseAddrPort(to), Timeout: patience})
	if r.Verdict != netlab.Answered {
		t.Fatalf("from %s to %s: %s", from, to, r.Verdict)
	}
	return r.ClientSeen.Addr()
}

// noAddress: a Node that has no address yet is waited for as long as one that does not
// exist, a line says for how long, and an address that comes is followed.
func (c *cluster) noAddress(t *testing.T) {
	t.Parallel()
	c.create(t, "apiVersion: v1\nkind: Service\nmetadata: {name: ported}\nspec: {type: NodePort, clusterIP: 172.30.0.44, ports: [{port: 80, nodePort: 30044}]}")
	c.create(t, slice("ported", podA1))
	p := c.program(t, c.addNode(t))
	name := p.host.Name()
	c.create(t, "apiVersion: v1\nkind: Node\nmetadata: {name: "+name+"}")
	p.configure("nodePortAddresses: [primary]\n")
	began := time.Now()
	p.start()
	p.says("level=WARN", "waiting", `for="an address of the Node `+name+`"`, "atMost=")
	p.says("going on without what was waited for", `missing="an address of the Node `+name+`"`, "waited=30s")
	if took := time.Since(began); took < 29*time.Second || took > 40*time.Second {
		t.Errorf("it began after %s, want half a minute", took)
	}
	c.reaches(t, name, "172.30.0.44:80", podA1)
	addr, err := p.host.Output(t.Context(), "ip", "-4", "-o", "addr", "show", "dev", netlab.Uplink)
	check(t, err)
	own, _, _ := strings.Cut(strings.Fields(addr)[3], "/")
	if got := c.ask(name, own+":30044"); got == podA1.String() {
		t.Error("a NodePort at a primary address that is not known")
	}
	c.patchNode(t, name, "status", `{"status":{"addresses":[{"type":"InternalIP","address":"`+own+`"}]}}`)
	took := c.reaches(t, name, own+":30044", podA1)
	t.Logf("the NodePort answers at %s, %s after the Node got the address", own, took.Round(time.Millisecond))
}
