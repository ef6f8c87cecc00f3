package e2e

import (
	"strings"
	"testing"
	"time"

	"switchyard/test/netlab"
)

// shop is a Service that asks for a scheduler that nobody knows.
const shop = `apiVersion: v1
kind: Service
metadata: {name: shop, annotations: {switchyard.dev/ipvs-scheduler: mh}}
spec:
  type: NodePort
  clusterIP: 172.30.0.43
  ports: [{port: 80, nodePort: 30043}]`

// TestUserspace is the userspace mode end to end: a Service written through the API
// answers in every way, a change of its endpoints takes effect, and its owner learns what
// of its wishes is not met.
func TestUserspace(t *testing.T) {
	c := started(t)
	c.registerNodeA(t)
	p := c.program(t, c.lab.Host(netlab.NodeA))
	began := time.Now()
	p.configure("mode: userspace\n")
	p.start()
	p.inSync()
	if mode := p.get(metricsServer + "/proxyMode").body; mode != "userspace" {
		t.Fatalf("its mode is %q", mode)
	}
	c.create(t, shop)
	c.create(t, slice("shop", podB1))
	ways := []struct{ from, to string }{
		{"pod-a3", "172.30.0.43:80"}, {netlab.NodeA, "172.30.0.43:80"}, {netlab.Outside, "172.30.0.43:80"},
		{netlab.Outside, "192.168.0.2:30043"}, {"pod-a3", "192.168.0.2:30043"},
	}
	for _, w := range ways {
		c.reaches(t, w.from, w.to, podB1)
	}
	c.point(t, "shop", podA2)
	took := c.reaches(t, netlab.Outside, "172.30.0.43:80", podA2)
	t.Logf("a change of endpoints took effect in %s", took.Round(time.Millisecond))
	for _, w := range ways {
		c.reaches(t, w.from, w.to, podA2)
	}
	event := c.event(t, began, "NotAsAsked", "Service shop")
	if !strings.Contains(event.Note, `"mh"`) || !strings.Contains(event.Note, "rr is used") {
		t.Errorf("the Event says %q", event.Note)
	}
	c.point(t, "shop")
	p.until("a Service without endpoints refuses", func() bool { return c.ask(netlab.Outside, "172.30.0.43:80") == "refused" })
}
