package deploy

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"switchyard/proxier/engine"
	"switchyard/proxier/metrics"
)

// A metric that a rule or a panel asks for is one that the program registers in
// iptables mode, where all that we have exist. test/promcheck reads the same files
// by Prometheus' own parser; this asks the registry itself.
func TestMetricsAreRegistered(t *testing.T) {
	m := metrics.New(metrics.Options{
		Mode:   "iptables",
		Status: func() []engine.Status { return nil }, APIAlive: func() time.Time { return time.Time{} },
	})
	// Registering a second metric of a name is refused. Each name is asked for once:
	// what was not there is, from then on.
	asked := map[string]bool{}
	registered := func(name string) bool {
		if _, ok := asked[name]; !ok {
			probe := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: "a name that this test asks for"})
			asked[name] = m.Register(probe) != nil
		}
		return asked[name]
	}
	if registered("switchyard_no_such_metric") {
		t.Fatal("a metric that does not exist seems to be registered")
	}
	ours := regexp.MustCompile(`\b(kubeproxy|switchyard|kubernetes|process)_[a-z0-9_]+`)
	part := regexp.MustCompile(`_(bucket|sum|count)$`)
	for _, file := range []string{"prometheus-rules.yaml", "grafana-dashboard.json"} {
		text, err := os.ReadFile(root + "/examples/" + file)
		check(t, err)
		recorded := regexp.MustCompile(`[a-z_]+:[a-z_0-9:]+`).ReplaceAllString(string(text), "")
		names := map[string]bool{}
		for _, name := range ours.FindAllString(recorded, -1) {
			names[name] = true
		}
		for name := range names {
			if !registered(name) && !registered(part.ReplaceAllString(name, "")) {
				t.Errorf("%s: %s is not registered", file, name)
			}
		}
		if len(names) < 5 || !strings.Contains(recorded, "switchyard_services_differing") {
			t.Errorf("%s: only %d names found", file, len(names))
		}
	}
}
