package e2e

import (
	"strings"
	"testing"
	"time"

	"switchyard/test/netlab"
)

// TestEndToEnd starts one API server for all tests of the package.
func TestEndToEnd(t *testing.T) {
	c := started(t)
	for _, one := range []part{
		{"first light", c.firstLight},
		{"the API server is away", c.away},
		{"the token is replaced", c.tokenReplaced},
		{"two thousand Services come and go", c.flood},
		{"the Node changes", c.nodeChanges},
		{"the Node has no podCIDRs yet", c.podRange},
		{"health and metrics", c.servers},
		{"no metrics", c.serversSwitchedOff},
		{"health of Services, and Events", c.serviceHealth},
		{"the configuration changes", c.configChanges},
	} {
		t.Run(one.name, one.test)
	}
	t.Run("on a node of its own", func(t *testing.T) {
		for _, one := range []part{
			{"no Node", c.noNode},
			{"a Node without an address", c.noAddress},
			{"init only", c.initOnly},
			{"few rights", c.fewRights},
			{"wrong input", c.wrongInput},
			{"a port is taken", c.portsTaken},
		} {
			t.Run(one.name, one.test)
		}
	})
	c.neverForbidden(t)
}

// part is one test of the package.
type part struct {
	name string
	test func(*testing.T)
}

// web is a Service that answers in every way that there is.
const web = `apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  clusterIP: 172.30.0.41
  ports: [{port: 80, nodePort: 30080}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.41}]}}`

// firstLight: the node is up before the API server is. The program waits, and the
// cluster works as soon as there is one.
func (c *cluster) firstLight(t *testing.T) {
	c.registerNodeA(t)
	p := c.program(t, c.lab.Host(netlab.NodeA))
	c.withoutAPI(t)
	p.start()
	line := p.says("waiting for the API server")
	for _, word := range []string{"level=WARN", "connection refused", "192.168.0.10:6443", `missing="Services, EndpointSlices, Node"`} {
		if !strings.Contains(line, word) {
			t.Errorf("it says %q, without %q", line, word)
		}
	}
	time.Sleep(1500 * time.Millisecond)
	if said := p.log.Lines("level=WARN", "API server"); len(said) != 1 {
		t.Errorf("it says so in %d lines: %q", len(said), said)
	}
	if got, want := p.healthCodes(), [2]int{503, 200}; got != want {
		t.Errorf("before it knows its node /healthz and /livez say %v, want %v", got, want)
	}
	if p.hasEnded() || strings.Contains(p.rules(), "KUBE-SERVICES") {
		t.Errorf("it ended (%v), or wrote rules before it knew any Service:\n%s", p.hasEnded(), p.rules())
	}

	c.startAPI(t)
	for _, from := range []string{netlab.NodeA, "pod-a1"} {
		took := p.until("default/kubernetes from "+from, func() bool { return c.apiAnswers(t, c.lab.Host(from)) == nil })
		t.Logf("default/kubernetes works from %s, %s after the API server was ready", from, took.Round(time.Millisecond))
	}
	c.create(t, web)
	c.create(t, slice("web", podB1))
	ways := []struct{ from, to string }{
		{"pod-a1", "172.30.0.41:80"},
		{netlab.NodeA, "172.30.0.41:80"},
		{netlab.Outside, "172.30.0.41:80"},
		{netlab.Outside, "192.168.0.2:30080"},
		{netlab.NodeA, "127.0.0.1:30080"},
		{netlab.Outside, "198.51.100.41:80"},
		{"pod-a1", "198.51.100.41:80"},
	}
	for _, w := range ways {
		c.reaches(t, w.from, w.to, podB1)
	}
	c.point(t, "web", podA2)
	took := c.reaches(t, netlab.Outside, "172.30.0.41:80", podA2)
	t.Logf("a change of endpoints took effect in %s", took.Round(time.Millisecond))
	if took > 2*time.Second {
		t.Errorf("a change of endpoints took %s", took)
	}
	for _, w := range ways {
		c.reaches(t, w.from, w.to, podA2)
	}
	c.event(t, time.Now().Add(-limit), "Starting", "Node node-a")
}
