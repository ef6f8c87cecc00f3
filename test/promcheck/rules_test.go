package promcheck

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
)

const rulesFile = "../../examples/prometheus-rules.yaml"

// rules reads the rules as promtool does.
func rules(t *testing.T) (all []rulefmt.Rule) {
	t.Helper()
	text, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	if len(errs) > 0 {
		t.FailNow()
	}
	for _, g := range groups.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

func TestRulesParse(t *testing.T) {
	if len(rules(t)) == 0 {
		t.Fatal("no rules")
	}
}

// Somebody is woken up by an alert: it must say what is wrong and what to do.
func TestAlertsSayWhatToDo(t *testing.T) {
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		for _, name := range []string{"summary", "description", "action"} {
			if r.Annotations[name] == "" {
				t.Errorf("%s has no %s", r.Alert, name)
			}
		}
		if s := r.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s: severity %q, want critical or warning", r.Alert, s)
		}
	}
}

// behaviour is an alert's expression on made-up series, 20 minutes of a sample
// every 30 s. The labels stand for those that a scrape adds.
type behaviour struct{ fires, quiet string }

const at = `{job="kube-proxy",instance="node-a",ip_family="IPv4"}`

// alerts says for each alert when its expression holds.
var alerts = map[string]behaviour{
	"KubeProxyDown": {
		`up{job="kube-proxy",instance="node-a"} 1x20 0x20`,
		`up{job="kube-proxy",instance="node-a"} 1x40`,
	},
	"KubeProxyStateDiffers": {
		`switchyard_services_differing` + at + ` 0x30 3x10`,
		`switchyard_services_differing` + at + ` 3x30 0x10`,
	},
	"KubeProxySyncFailing": {
		`switchyard_sync_failures_total` + at + ` 0x30 1+1x10`,
		`switchyard_sync_failures_total` + at + ` 7x40`, // long ago
	},
	"KubeProxyServicesSetAside": {
		`switchyard_services_set_aside` + at + ` 0x30 1x10`,
		`switchyard_services_set_aside` + at + ` 0x40`,
	},
	"KubeProxyAPISilent": {
		`switchyard_api_silence_seconds{job="kube-proxy",instance="node-a"} 0+30x40`,
		`switchyard_api_silence_seconds{job="kube-proxy",instance="node-a"} 10x20 59x20`,
	},
	"KubeProxyQueuedNotSynced": {
		// Asked for at 1000 s, and the last success was at 900 s.
		`kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds` + at + ` 1000x40
		 kubeproxy_sync_proxy_rules_last_timestamp_seconds` + at + ` 900x40`,
		// A quiet cluster: the last sync was long ago, and nobody asked since.
		`kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds` + at + ` 100x40
		 kubeproxy_sync_proxy_rules_last_timestamp_seconds` + at + ` 101x40`,
	},
	"KubeProxyProgrammingLatencyHigh": {
		`cluster:kubeproxy_network_programming_duration_seconds:p99_5m 11x40`,
		`cluster:kubeproxy_network_programming_duration_seconds:p99_5m 9x40`,
	},
	"KubeProxyRestarts": {
		`process_start_time_seconds{job="kube-proxy",instance="node-a"} 0+100x5 500x35`,
		`process_start_time_seconds{job="kube-proxy",instance="node-a"} 0x20 100x20`,
	},
	"KubeProxyDriftRepairs": {
		`switchyard_drift_repairs_total` + at + ` 0x10 1+1x30`,
		`switchyard_drift_repairs_total` + at + ` 0x20 1x20`,
	},
}

func TestAlertsFire(t *testing.T) {
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		b, ok := alerts[r.Alert]
		if !ok {
			t.Errorf("%s is not tested", r.Alert)
			continue
		}
		if n := len(evaluate(t, r.Expr, b.fires)); n != 1 {
			t.Errorf("%s has %d results, want 1, on\n%s", r.Alert, n, b.fires)
		}
		if n := len(evaluate(t, r.Expr, b.quiet)); n != 0 {
			t.Errorf("%s has %d results, want none, on\n%s", r.Alert, n, b.quiet)
		}
	}
}

// No node that is known at all must not look like all nodes well.
func TestDownWithoutInstances(t *testing.T) {
	for _, r := range rules(t) {
		if r.Alert == "KubeProxyDown" && len(evaluate(t, r.Expr, `up{job="other"} 1x40`)) != 1 {
			t.Error("KubeProxyDown is quiet if no instance exists")
		}
	}
}

// The recorded latency is that of the slowest one in a hundred changes, over all
// nodes and families.
func TestRecordedLatency(t *testing.T) {
	series := ""
	for le, step := range map[string]int{"1": 90, "10": 90, "20": 100, "+Inf": 100} {
		series += fmt.Sprintf("kubeproxy_network_programming_duration_seconds_bucket"+
			`{job="kube-proxy",instance="node-a",ip_family="IPv4",le=%q} 0+%dx40`+"\n", le, step)
	}
	i := slices.IndexFunc(rules(t), func(r rulefmt.Rule) bool { return r.Record != "" })
	got := evaluate(t, rules(t)[i].Expr, series)
	if len(got) != 1 || got[0].F <= 10 || got[0].F > 20 {
		t.Errorf("got %v, want one value in the bucket from 10 to 20", got)
	}
}

// evaluate is the result of an expression at the end of the series.
func evaluate(t *testing.T, expr, series string) promql.Vector {
	t.Helper()
	load := "load 30s\n"
	for line := range strings.Lines(series) {
		load += "  " + strings.TrimSpace(line) + "\n"
	}
	storage := promqltest.LoadedStorage(t, load)
	engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
	query, err := engine.NewInstantQuery(context.Background(), storage, nil, expr, time.Unix(0, 0).Add(20*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer query.Close()
	got, err := query.Exec(context.Background()).Vector()
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(got)
}
