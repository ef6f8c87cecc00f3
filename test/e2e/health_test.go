package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"switchyard/test/netlab"
)

// servers: each path, as upstream answers it.
func (c *cluster) servers(t *testing.T) {
	c.registerNodeA(t)
	p := c.program(t, c.lab.Host(netlab.NodeA))
	p.start()
	p.inSync()
	const (
		now    = `"\d{4}-\d\d-\d\dT[^"]+"`
		family = `{"lastUpdated":` + now + `,"healthy":true}`
		status = `"healthy":true,"status":{"IPv4":` + family + `,"IPv6":` + family + `},"apiServer":{"silentSeconds":\d+,"stale":false}}` + "\n"
		plain  = "text/plain; charset=utf-8"
	)
	for _, w := range []struct {
		url   string
		code  int
		kind  string // Content-Type
		whole string // the whole body, as a pattern
	}{
		{healthServer + "/healthz", 200, "application/json", `{"lastUpdated":` + now + `,"currentTime":` + now + `,"nodeEligible":true,` + status},
		{healthServer + "/livez", 200, "application/json", `{"lastUpdated":` + now + `,"currentTime":` + now + `,` + status},
		{healthServer + "/", 404, plain, `.*\n`},
		{metricsServer + "/healthz", 200, plain, `ok`},
		{metricsServer + "/healthz/ping", 200, plain, `ok`},
		{metricsServer + "/proxyMode", 200, plain, `iptables`},
		{metricsServer + "/configz", 200, "application/json", `{"kubeproxy.config.k8s.io":{.*"clusterCIDR":"10.180.0.0/16".*}}`},
		{metricsServer + "/livez", 404, plain, `.*\n`},
		{metricsServer + "/debug/pprof/", 404, plain, `.*\n`}, // enableProfiling is off
	} {
		a := p.get(w.url)
		pattern := regexp.MustCompile(`^` + strings.NewReplacer(`\d{4}`, `\d{4}`, "{", `\{`).Replace(w.whole) + `$`)
		if a.code != w.code || a.header.Get("Content-Type") != w.kind || a.header.Get("X-Content-Type-Options") != "nosniff" || !pattern.MatchString(a.body) {
			t.Errorf("%s: %d %v %q, want %d %s %s", w.url, a.code, a.header, a.body, w.code, w.kind, pattern)
		}
	}
	for _, series := range []string{
		`kubeproxy_proxy_healthz_total{code="200"}`,
		`kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}`,
		`kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv6"}`,
		`kubeproxy_sync_proxy_rules_iptables_total{ip_family="IPv4",table="nat"}`,
		`kubeproxy_sync_proxy_rules_service_changes_total`,
		`switchyard_services_differing{ip_family="IPv4"}`,
	} {
		if p.metric(series) < 0 {
			t.Errorf("/metrics has no %s", series)
		}
	}
}

// serversSwitchedOff: no metrics for anybody, and health checks all the same.
func (c *cluster) serversSwitchedOff(t *testing.T) {
	c.registerNodeA(t)
	for _, way := range []struct{ name, config, flag string }{
		{"by flag", "", "--metrics-bind-address="},
		{"by file", "metricsBindAddress: 'off'\n", "--v=2"},
	} {
		t.Run(way.name, func(t *testing.T) {
			p := c.program(t, c.lab.Host(netlab.NodeA))
			p.configure(way.config)
			p.start(way.flag)
			p.says("msg=applied", "family=IPv4")
			if a := p.get(metricsServer + "/metrics"); a.code != 0 || !strings.Contains(a.body, "connection refused") {
				t.Errorf("/metrics: %d %s", a.code, a.body)
			}
			if got, want := p.healthCodes(), [2]int{200, 200}; got != want {
				t.Errorf("/healthz and /livez say %v", got)
			}
		})
	}
}

// local is a Service whose load balancer asks which nodes have an endpoint.
func local(name string, healthPort int, annotation string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %s, annotations: {%s}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: %d
  ports: [{port: 80}]`, name, annotation, healthPort)
}

// serviceHealth: load balancers learn which nodes have endpoints; Events on the
// Service itself tell its author what of it is not so.
func (c *cluster) serviceHealth(t *testing.T) {
	began := time.Now().Add(-time.Second) // EventTime may be of another clock tick
	c.registerNodeA(t)
	host := c.lab.Host(netlab.NodeA)
	taken, err := host.Listen("tcp4", "0.0.0.0:31502")
	check(t, err)
	t.Cleanup(func() { taken.Close() })
	c.create(t, local("web", 31501, ""))
	c.create(t, slice("web", podA1, podB1))
	c.create(t, local("late", 31502, `switchyard.dev/endpoint-weights: nonsense`))
	c.create(t, slice("late", podA2))
	p := c.program(t, host)
	p.start()
	p.inSync()

	const asked = "http://192.168.0.2:31501/whatever"
	for _, w := range []struct {
		pods   int
		code   int
		weight string
	}{{2, 200, "1"}, {1, 503, "0"}, {2, 200, "1"}} {
		if w.pods == 2 {
			c.point(t, "web", podA1, podB1)
		} else {
			c.point(t, "web", podB1)
		}
		p.until(fmt.Sprintf("%d from %s", w.code, asked), func() bool { return p.get(asked).code == w.code })
		a := p.get(asked)
		want := "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": " + w.weight + ",\n\t\"serviceProxyHealthy\": true\n}\n"
		if a.body != want || a.header.Get("X-Load-Balancing-Endpoint-Weight") != w.weight || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %v %q", asked, a.header, a.body)
		}
	}

	late, err := c.admin.CoreV1().Services(metav1.NamespaceDefault).Get(t.Context(), "late", metav1.GetOptions{})
	check(t, err)
	for reason, note := range map[string]string{
		"InvalidField":                    `metadata.annotations[switchyard.dev/endpoint-weights]: nonsense: not a JSON map`,
		"FailedToStartServiceHealthcheck": "healthCheckNodePort: cannot listen at 0.0.0.0:31502",
	} {
		e := c.event(t, began, reason, "Service late")
		if e.Regarding.UID != late.UID || e.Regarding.Namespace != "default" || e.Type != "Warning" || !strings.Contains(e.Note, note) {
			text, _ := json.Marshal(e)
			t.Errorf("%s: %s, want UID %s and %q", reason, text, late.UID, note)
		}
	}
	if e := c.event(t, began, "Starting", "Node node-a"); e.Type != "Normal" || e.Regarding.UID != "node-a" || e.Action != "StartKubeProxy" {
		t.Errorf("Starting: %+v", e)
	}
	check(t, taken.Close())
	_, err = c.admin.CoreV1().Services(metav1.NamespaceDefault).Patch(t.Context(), "late", types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"switchyard.dev/endpoint-weights":"{\"10.180.0.12\": 2}"}}}`), metav1.PatchOptions{})
	check(t, err)
	took := p.until("the port is answered once it is free", func() bool { return p.get("http://192.168.0.2:31502/").code == 200 })
	t.Logf("a port that was taken is answered %s after it became free and the Service changed", took.Round(time.Millisecond))
}
