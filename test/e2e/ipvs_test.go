package e2e

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"switchyard/test/kubeapi"
	"switchyard/test/netlab"
	"switchyard/test/subject"
	"switchyard/test/uml"
)

// builtProgram names the program to the tests that run in the other kernel.
const builtProgram = "SWITCHYARD_E2E_PROGRAM"

// TestIPVS is the IPVS mode end to end, with a second API server in a kernel that has
// IPVS.
func TestIPVS(t *testing.T) {
	o := uml.Options{Timeout: 10 * time.Minute, Memory: "3072M"}
	if !uml.Inside() {
		if _, err := os.Stat(root + "/bin/kube-apiserver"); err != nil {
			t.Skip("missing: bin/kube-apiserver; build it in test/apiserver")
		}
		o.Env = []string{builtProgram + "=" + subject.Build(t)} // the race detector does not run there
	}
	uml.Tests(t, o, uml.Case{Name: "Services", Test: testIPVS})
}

// startedInside is the cluster for a kernel without anything in it.
func startedInside(t *testing.T) *cluster {
	t.Helper()
	began := time.Now()
	apiserver, err := filepath.Abs(root + "/bin/kube-apiserver")
	check(t, err)
	c := &cluster{dir: t.TempDir(), binary: os.Getenv(builtProgram)}
	c.lab, err = netlab.NewCluster("e2eipvs", netlab.StandardPods()...)
	check(t, err)
	t.Cleanup(func() { check(t, c.lab.Close()) })
	c.serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*limit)
	defer cancel()
	c.server, err = kubeapi.Start(ctx, kubeapi.Options{
		Host: c.addControlPlane(t), Addr: apiAddr, Dir: c.dir, Binary: apiserver,
		ServiceCIDRs: "172.30.0.0/16,fd00:172:30::/108",
	})
	check(t, err)
	t.Cleanup(func() { c.killAPI(t); check(t, c.server.Close()) })
	config, err := c.server.Config(c.server.Kubeconfig())
	check(t, err)
	c.admin, err = kubernetes.NewForConfig(config)
	check(t, err)
	c.create(t, text(t, root+"/deploy/base/rbac.yaml"))
	t.Logf("all up after %s", time.Since(began).Round(time.Millisecond))
	return c
}

// talk is a Service whose endpoints repeat what they hear.
const talk = `apiVersion: v1
kind: Service
metadata: {name: talk}
spec: {clusterIP: 172.30.0.42, ports: [{port: 7000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: talk-x, labels: {kubernetes.io/service-name: talk}}
addressType: IPv4
ports: [{port: 7000}]
endpoints: [{addresses: [10.180.1.11], nodeName: node-b}]`

const (
	webServer  = "172.30.0.41:80"
	talkServer = "172.30.0.42:7000"
	podB1Talk  = "10.180.1.11:7000"
)

// testIPVS is one life of the program: each part goes on where the one before it
// ended.
func testIPVS(t *testing.T) {
	c := startedInside(t)
	c.registerNodeA(t)
	c.create(t, strings.Replace(web, "{name: web}", "{name: web, annotations: {switchyard.dev/ipvs-scheduler: fair}}", 1))
	c.create(t, slice("web", podB1))
	c.create(t, talk)
	p := c.program(t, c.lab.Host(netlab.NodeA))
	p.configure("mode: ipvs\n")
	began := time.Now()
	p.start()
	for _, one := range []struct {
		name string
		test func(*testing.T, *program)
	}{
		{"Services answer, and follow their endpoints", c.ipvsAnswers},
		{"an unknown scheduler", func(t *testing.T, p *program) { c.ipvsUnknownScheduler(t, p, began) }},
		{"another scheduler while a connection lives", c.ipvsSchedulers},
		{"weights", c.ipvsWeights},
		{"an endpoint goes while a connection lives", c.ipvsDrain},
		{"killed and started again", c.ipvsKilled},
	} {
		if !t.Run(one.name, func(t *testing.T) { one.test(t, p) }) {
			return // the others go on from where it ended
		}
	}
}

func (c *cluster) ipvsAnswers(t *testing.T, p *program) {
	ways := []struct{ from, to string }{
		{"pod-a1", webServer}, {netlab.NodeA, webServer}, {netlab.Outside, webServer},
		{netlab.Outside, "192.168.0.2:30080"}, {netlab.Outside, "198.51.100.41:80"}, {"pod-a1", "198.51.100.41:80"},
	}
	for _, w := range ways {
		c.reaches(t, w.from, w.to, podB1)
	}
	c.point(t, "web", podA2)
	took := c.reaches(t, netlab.Outside, webServer, podA2)
	t.Logf("a change of endpoints took effect in %s", took.Round(time.Millisecond))
	for _, w := range ways {
		c.reaches(t, w.from, w.to, podA2)
	}
	if got := c.ask("pod-a1", "172.30.0.41:81"); got != "refused" {
		t.Errorf("a port that the Service does not have: %s, want refused", got)
	}
	if warnings := p.log.Lines("IPVS forgets a TCP connection that is idle for 15m0s"); len(warnings) == 0 {
		t.Error("no warning that idle connections end early")
	}
}

// ipvsUnknownScheduler: the wish stands on the Service as an Event, and the Service works.
func (c *cluster) ipvsUnknownScheduler(t *testing.T, p *program, since time.Time) {
	e := c.event(t, since, "NotAsAsked", "Service web")
	t.Logf("Event: %s", e.Note)
	if !strings.Contains(e.Note, `"fair"`) || !strings.Contains(e.Note, "rr") {
		t.Errorf("the Event says %q, which names not both the scheduler and what is used", e.Note)
	}
	p.ipvs(t, "-A -t "+webServer+" -s rr")
}

// ipvsSchedulers: the annotation is followed live, and so is kube-router's.
func (c *cluster) ipvsSchedulers(t *testing.T, p *program) {
	call := c.call(t, "pod-a1", talkServer)
	call.endsByReset(t)
	call.say(t)
	p.ipvs(t, "-A -t "+talkServer+" -s rr")
	c.annotate(t, "talk", `{"switchyard.dev/ipvs-scheduler":"lc"}`)
	p.ipvs(t, "-A -t "+talkServer+" -s lc")
	call.say(t)
	c.annotate(t, "talk", `{"switchyard.dev/ipvs-scheduler":null,"kube-router.io/service.scheduler":"wlc"}`)
	p.ipvs(t, "-A -t "+talkServer+" -s wlc")
	call.say(t)
	c.annotate(t, "talk", `{"kube-router.io/service.scheduler":null}`)
	p.ipvs(t, "-A -t "+talkServer+" -s rr")
	call.say(t)
}

// ipvsWeights: an endpoint of weight 0 gets no connection, and others their share.
func (c *cluster) ipvsWeights(t *testing.T, p *program) {
	c.point(t, "web", podA2, podB1)
	c.annotate(t, "web", `{"switchyard.dev/ipvs-scheduler":null,"switchyard.dev/endpoint-weights":"{\"10.180.1.11\": 3}"}`)
	p.ipvs(t, "-a -t "+webServer+" -r 10.180.1.11:8080 -m -w 3")
	p.ipvs(t, "-A -t "+webServer+" -s wrr")
	got := map[string]int{}
	for range 40 {
		got[c.ask("pod-a1", webServer)]++
	}
	if got[podB1.String()] != 30 || got[podA2.String()] != 10 {
		t.Errorf("of 40 connections by weights 1 and 3: %v", got)
	}
	c.annotate(t, "web", `{"switchyard.dev/endpoint-weights":"{\"10.180.1.11\": 0}"}`)
	until(t, "weight 0 empties the endpoint", func() bool { return !strings.Contains(p.servers(t), webServer+" -r 10.180.1.11:8080 -m -w 3") })
	for range 20 {
		if got := c.ask("pod-a1", webServer); got != podA2.String() {
			t.Errorf("reached %s, whose weight is 0", got)
		}
	}
}

// ipvsDrain: an endpoint that terminates, and then is gone, keeps its connection and
// gets no other. With its last one it leaves.
func (c *cluster) ipvsDrain(t *testing.T, p *program) {
	call := c.call(t, "pod-a1", talkServer)
	call.endsByReset(t)
	call.say(t)
	c.slice(t, "talk-x", `{"endpoints":[
		{"addresses":["10.180.1.11"],"nodeName":"node-b","conditions":{"ready":false,"serving":true,"terminating":true}},
		{"addresses":["10.180.0.12"],"nodeName":"node-a"}]}`)
	quiet := "-a -t " + talkServer + " -r " + podB1Talk + " -m -w 0"
	p.ipvs(t, quiet)
	call.say(t)
	c.slice(t, "talk-x", `{"endpoints":[{"addresses":["10.180.0.12"],"nodeName":"node-a"}]}`)
	time.Sleep(2 * time.Second)
	p.ipvs(t, quiet)
	call.say(t)
	c.call(t, "pod-a1", talkServer).say(t)
	if listed := p.output(t, "ipvsadm", "-Ln", "-t", talkServer); strings.Count(listed, podB1Talk) != 1 {
		t.Errorf("the endpoint that goes is not once in\n%s", listed)
	}
	check(t, call.conn.Close())
	took := until(t, "the endpoint leaves with its last connection", func() bool { return !strings.Contains(p.servers(t), podB1Talk) })
	t.Logf("the endpoint left %s after its last connection", took.Round(100*time.Millisecond))
}

// ipvsKilled: a start after SIGKILL writes nothing, and cuts nothing.
func (c *cluster) ipvsKilled(t *testing.T, p *program) {
	call := c.call(t, "pod-a1", talkServer)
	call.say(t)
	before, sets := p.servers(t), p.output(t, "ipset", "save", "-sorted")
	p.signal(syscall.SIGKILL)
	call.say(t)
	p.log = &subject.Log{}
	p.start()
	p.inSync()
	call.say(t)
	for _, family := range []string{"IPv4", "IPv6"} {
		line := p.says("msg=applied", "family="+family)
		if m := operations.FindStringSubmatch(line); m == nil || m[1] != "0" {
			t.Errorf("the first sync after the start wrote: %s", line)
		}
	}
	if after := p.servers(t); after != before {
		t.Errorf("virtual servers before:\n%s\nafter:\n%s", before, after)
	}
	if after := p.output(t, "ipset", "save", "-sorted"); after != sets {
		t.Errorf("sets before:\n%s\nafter:\n%s", sets, after)
	}
}

var operations = regexp.MustCompile(` operations=(\d+)`)

// endsByReset has the connection end so when it is closed: IPVS forgets it after 10 s,
// and not after two minutes.
func (c *call) endsByReset(t *testing.T) {
	t.Helper()
	tcp, ok := c.conn.(*net.TCPConn)
	if !ok {
		t.Fatalf("a connection of type %T", c.conn)
	}
	check(t, tcp.SetLinger(0))
}

// output is what a program on the node prints.
func (p *program) output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := p.host.Output(context.Background(), name, args...)
	check(t, err)
	return out
}

// servers are the virtual servers of the node, a line for each and for each
// destination.
func (p *program) servers(t *testing.T) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(p.output(t, "ipvsadm", "-Sn")) {
		lines = append(lines, strings.TrimSpace(line))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// ipvs waits for a line of servers.
func (p *program) ipvs(t *testing.T, line string) {
	t.Helper()
	until(t, "ipvsadm -Sn has "+line, func() bool { return slices.Contains(strings.Split(p.servers(t), "\n"), line) })
}

// annotate changes annotations of a Service; null takes one away.
func (c *cluster) annotate(t *testing.T, service, annotations string) {
	t.Helper()
	_, err := c.admin.CoreV1().Services(metav1.NamespaceDefault).Patch(t.Context(), service,
		types.MergePatchType, []byte(`{"metadata":{"annotations":`+annotations+`}}`), metav1.PatchOptions{})
	check(t, err)
}

// slice changes an EndpointSlice.
func (c *cluster) slice(t *testing.T, name, patch string) {
	t.Helper()
	_, err := c.admin.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Patch(t.Context(), name,
		types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	check(t, err)
}
