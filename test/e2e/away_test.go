package e2e

import (
	"net/netip"
	"testing"
	"time"

	"switchyard/test/netlab"
)

// away: the API server crashes and comes back after 20 s. Nothing that a client of
// a Service could notice happens, whoever asks is told, and what changes afterwards
// takes effect.
func (c *cluster) away(t *testing.T) {
	c.registerNodeA(t)
	c.create(t, web)
	c.create(t, slice("web", podA1))
	c.create(t, long)
	p := c.program(t, c.lab.Host(netlab.NodeA))
	p.start()
	p.inSync()
	c.reaches(t, netlab.Outside, "172.30.0.41:80", podA1)
	call := c.call(t, netlab.Outside, "172.30.0.42:7000")
	call.say(t)
	flows := []*flow{
		c.flow(t, netlab.Outside, netip.MustParseAddrPort("172.30.0.41:80"), netip.MustParseAddrPort("192.168.0.2:30080")),
		c.flow(t, "pod-a2", netip.MustParseAddrPort("172.30.0.41:80"), netip.MustParseAddrPort("198.51.100.41:80")),
	}

	c.withoutAPI(t)
	gone, last := time.Now(), 0.0
	for time.Since(gone) < 20*time.Second {
		time.Sleep(2 * time.Second)
		call.say(t)
		if got, want := p.healthCodes(), [2]int{200, 200}; got != want {
			t.Errorf("after %s /healthz and /livez say %v", time.Since(gone), got)
		}
		silence := p.metric("switchyard_api_silence_seconds")
		if silence <= last {
			t.Errorf("the gauge of silence fell from %v to %v", last, silence)
		}
		last = silence
	}
	if _, h := p.health("/healthz"); last < 15 || h.APIServer == nil || h.APIServer.SilentSeconds < 15 {
		t.Errorf("after 20 s the gauge of silence is %v, /healthz says %+v", last, h.APIServer)
	}
	if said := p.log.Lines("level=WARN", "the API server cannot be followed"); len(said) == 0 || len(said) > 6 {
		t.Errorf("it says in %d lines that the API server is away: %q", len(said), said)
	}

	back := time.Now()
	c.startAPI(t)
	t.Logf("ready again in %s", time.Since(back).Round(time.Millisecond))
	call.say(t)
	for _, f := range flows {
		f.end(t, 1000)
	}
	c.point(t, "web", podA2)
	took := c.reaches(t, netlab.Outside, "172.30.0.41:80", podA2)
	t.Logf("a change right after it was back took effect in %s", took.Round(time.Millisecond))
	p.says("the API server is followed again")
	p.until("the gauge of silence falls", func() bool { return p.metric("switchyard_api_silence_seconds") < last })
	call.say(t)
	c.noStorm(t, back)
}

// noStorm: each kind is listed once at most, since this API server may have forgotten
// where the one before was, and watched a few times.
func (c *cluster) noStorm(t *testing.T, since time.Time) {
	t.Helper()
	did := map[string]int{}
	for _, r := range c.requests(t, since) {
		if !c.isStarting(r.ReceivedAt) {
			did[r.Verb+" "+r.ObjectRef.Resource]++
		}
	}
	for _, kind := range []string{"services", "endpointslices", "nodes", "servicecidrs"} {
		if n := did["list "+kind]; n > 1 {
			t.Errorf("it listed %s %d times", kind, n)
		}
		if n := did["watch "+kind]; n == 0 || n > 3 {
			t.Errorf("it watched %s %d times", kind, n)
		}
	}
	t.Logf("after the restart it asked: %v", did)
}

// long is a Service whose connections stay open.
const long = `apiVersion: v1
kind: Service
metadata: {name: long}
spec: {clusterIP: 172.30.0.42, ports: [{port: 7000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: long-x, labels: {kubernetes.io/service-name: long}}
addressType: IPv4
ports: [{port: 7000}]
endpoints: [{addresses: [10.180.0.11], nodeName: node-a}]`
