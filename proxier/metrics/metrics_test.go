package metrics

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"switchyard/proxier"
	"switchyard/proxier/conntrack"
	"switchyard/proxier/engine"
)

// full are options that leave nothing out.
func full(mode string) Options {
	return Options{
		Mode: mode, Version: "v1.2.3",
		Status:            func() []engine.Status { return []engine.Status{{Family: proxier.IPv4}} },
		APIAlive:          time.Now,
		InvalidDropped:    func() (uint64, bool) { return 7, true },
		LocalhostAccepted: func() (uint64, bool) { return 8, true },
	}
}

// everything makes each metric have a sample.
func everything(m *Metrics) {
	m.ServiceChanged()
	m.SliceChanged(time.Now())
	m.Look(proxier.IPv4)
	m.Queued(time.Now())
	m.Failed(proxier.IPv4, errors.New("no"))
	report := proxier.Report{
		Full: true, Operations: 3, Took: 250 * time.Millisecond, Repaired: "chain gone",
		Written: map[string]int{"rules": 4}, Deleted: map[string]int{"rules": 1}, Total: map[string]int{"rules": 9},
		Rules: map[string]proxier.RuleCount{"nat": {Written: 4, Total: 9}}, Refused: 1,
	}
	m.Applied(proxier.IPv4, nil, &proxier.State{Family: proxier.IPv4}, report)
	report.Full = false
	m.Applied(proxier.IPv4, nil, &proxier.State{Family: proxier.IPv4}, report)
	m.Failed(proxier.IPv4, errors.New("no"))
	m.ConntrackPass(conntrack.Pass{Family: proxier.IPv4, Deleted: 2, Duration: time.Second})
	m.Probe("/healthz", 200)
	m.Probe("/livez", 503)
}

func gather(t *testing.T, m *Metrics) []*dto.MetricFamily {
	t.Helper()
	got, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// line is a metric in the words of testdata/metrics.txt, without the modes.
func line(f *dto.MetricFamily) string {
	var labels, buckets []string
	for _, l := range f.Metric[0].Label {
		labels = append(labels, l.GetName())
	}
	slices.Sort(labels)
	for _, b := range f.Metric[0].GetHistogram().GetBucket() {
		buckets = append(buckets, number(b.GetUpperBound()))
	}
	return fmt.Sprintf("%s | %s | %s | %s", f.GetName(), strings.ToLower(f.GetType().String()),
		strings.Join(labels, ","), strings.Join(buckets, ","))
}

func number(x float64) string { return strconv.FormatFloat(x, 'g', -1, 64) }

// golden reads the lines of a mode.
func golden(t *testing.T, mode string) (want []string) {
	t.Helper()
	text, err := os.ReadFile("testdata/metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(text)) {
		fields := strings.Split(l, "|")
		if strings.HasPrefix(l, "#") {
			continue
		}
		for i := range fields {
			fields[i] = strings.TrimSpace(fields[i])
		}
		if modes := fields[3]; modes == "all" || slices.Contains(strings.Split(modes, ","), mode) {
			want = append(want, strings.Join([]string{fields[0], fields[1], fields[2], spell(t, fields[4])}, " | "))
		}
	}
	slices.Sort(want)
	return want
}

// spell writes out the steps in a list of buckets.
func spell(t *testing.T, buckets string) string {
	t.Helper()
	var all []string
	for b := range strings.SplitSeq(buckets, ",") {
		var from, to, step int
		if n, _ := fmt.Sscanf(b, "%d..%d/%d", &from, &to, &step); n != 3 {
			all = append(all, b)
			continue
		}
		for ; from <= to; from += step {
			all = append(all, strconv.Itoa(from))
		}
	}
	return strings.Join(all, ",")
}

// Each mode has exactly the metrics of the table, besides those of the process
// and of the runtime.
func TestNamesTypesLabelsBuckets(t *testing.T) {
	for _, mode := range []string{"iptables", "ipvs", "userspace"} {
		t.Run(mode, func(t *testing.T) {
			m := New(full(mode))
			everything(m)
			var got []string
			libraries := map[string]bool{}
			for _, f := range gather(t, m) {
				if f.GetHelp() == "" {
					t.Errorf("%s has no help", f.GetName())
				}
				if strings.HasPrefix(f.GetName(), "go_") || strings.HasPrefix(f.GetName(), "process_") {
					libraries[f.GetName()] = true
					continue
				}
				got = append(got, line(f))
			}
			slices.Sort(got)
			want := golden(t, mode)
			for _, l := range want {
				if !slices.Contains(got, l) {
					t.Errorf("missing: %s", l)
				}
			}
			for _, l := range got {
				if !slices.Contains(want, l) {
					t.Errorf("not in the table: %s", l)
				}
			}
			for _, name := range []string{"go_goroutines", "go_memstats_alloc_bytes", "go_gc_duration_seconds",
				"go_sched_latencies_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"} {
				if !libraries[name] {
					t.Errorf("missing: %s", name)
				}
			}
		})
	}
}

func TestOursPassLint(t *testing.T) {
	m := New(full("iptables"))
	everything(m)
	var ours []string
	for _, f := range gather(t, m) {
		if strings.HasPrefix(f.GetName(), "switchyard_") {
			ours = append(ours, f.GetName())
		}
	}
	if len(ours) == 0 {
		t.Fatal("there are none of ours")
	}
	problems, err := testutil.GatherAndLint(m.registry, ours...)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// samples are the series of a metric, as "label=value,… value"; a histogram's
// value is its count and sum.
func samples(t *testing.T, m *Metrics, name string) (all []string) {
	t.Helper()
	for _, f := range gather(t, m) {
		if f.GetName() != name {
			continue
		}
		for _, s := range f.Metric {
			var text strings.Builder
			for _, l := range s.Label {
				fmt.Fprintf(&text, "%s=%s ", l.GetName(), l.GetValue())
			}
			switch {
			case s.Counter != nil:
				text.WriteString(number(s.Counter.GetValue()))
			case s.Gauge != nil:
				text.WriteString(number(s.Gauge.GetValue()))
			case s.Histogram != nil:
				fmt.Fprintf(&text, "%d %s", s.Histogram.GetSampleCount(), number(s.Histogram.GetSampleSum()))
			}
			all = append(all, text.String())
		}
	}
	slices.Sort(all)
	return all
}

func expect(t *testing.T, m *Metrics, name string, want ...string) {
	t.Helper()
	if got := samples(t, m, name); !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", name, got, want)
	}
}

// Before anything happened nothing is claimed: a vector has no samples, and no
// timestamp is 0.
func TestNothingYet(t *testing.T) {
	m := New(Options{Mode: "iptables"})
	var got []string
	for _, f := range gather(t, m) {
		if strings.HasPrefix(f.GetName(), "kubeproxy_") || strings.HasPrefix(f.GetName(), "switchyard_") {
			got = append(got, f.GetName())
		}
	}
	want := []string{
		"kubeproxy_sync_proxy_rules_endpoint_changes_pending", "kubeproxy_sync_proxy_rules_endpoint_changes_total",
		"kubeproxy_sync_proxy_rules_service_changes_pending", "kubeproxy_sync_proxy_rules_service_changes_total",
		"switchyard_drift_repairs_total", "switchyard_kernel_operations_total", "switchyard_sync_failures_total",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	expect(t, m, "switchyard_drift_repairs_total", "ip_family=IPv4 0", "ip_family=IPv6 0")
	unknown := Options{Mode: "iptables", InvalidDropped: func() (uint64, bool) { return 0, false }}
	expect(t, New(unknown), "kubeproxy_iptables_ct_state_invalid_dropped_packets_total")
}

// A restart in a quiet cluster: everything is in the kernel already, and what the
// slices tell of is long ago.
func TestRestartInAQuietCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := []time.Time{time.Now(), time.Now().Add(-time.Hour), {}}
		time.Sleep(time.Minute)
		m := New(Options{Mode: "iptables", Families: []proxier.Family{proxier.IPv4}})
		time.Sleep(3 * time.Second)
		queued := time.Now()
		m.ServiceChanged()
		m.ServiceChanged()
		for _, trigger := range before {
			m.SliceChanged(trigger)
		}
		m.Queued(queued)
		m.Look(proxier.IPv4)
		time.Sleep(250 * time.Millisecond)
		m.Applied(proxier.IPv4, nil, &proxier.State{}, proxier.Report{Full: true, Took: 250 * time.Millisecond})

		expect(t, m, "kubeproxy_network_programming_duration_seconds")
		expect(t, m, "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "ip_family=IPv4 "+number(unix(queued)))
		expect(t, m, "kubeproxy_sync_proxy_rules_last_timestamp_seconds", "ip_family=IPv4 "+number(unix(queued)+0.25))
		expect(t, m, "kubeproxy_sync_full_proxy_rules_duration_seconds", "ip_family=IPv4 1 0.25")
		expect(t, m, "kubeproxy_sync_partial_proxy_rules_duration_seconds")
		expect(t, m, "switchyard_kernel_operations_per_sync", "ip_family=IPv4 1 0")
		expect(t, m, "kubeproxy_sync_proxy_rules_iptables_restore_failures_total")
		expect(t, m, "kubeproxy_sync_proxy_rules_service_changes_pending", "0")
	})
}

func TestProgrammingLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Options{Mode: "userspace"})
		start := time.Now()
		time.Sleep(10 * time.Second)
		for _, trigger := range []time.Time{
			start,                      // 10 s
			start.Add(8 * time.Second), // 2 s
			start.Add(-time.Nanosecond),
			start.Add(time.Minute), // a clock that is ahead: 0
			{},
		} {
			m.SliceChanged(trigger)
		}
		m.Look(proxier.IPv6)
		m.SliceChanged(start) // too late for this sync
		m.Failed(proxier.IPv6, errors.New("no"))
		m.Applied(proxier.IPv6, nil, &proxier.State{}, proxier.Report{})
		expect(t, m, "kubeproxy_network_programming_duration_seconds", "ip_family=IPv6 3 12")
		m.Applied(proxier.IPv6, nil, &proxier.State{}, proxier.Report{}) // without a look: nothing new
		expect(t, m, "kubeproxy_network_programming_duration_seconds", "ip_family=IPv6 3 12")
		m.Look(proxier.IPv6)
		m.Applied(proxier.IPv6, nil, &proxier.State{}, proxier.Report{})
		expect(t, m, "kubeproxy_network_programming_duration_seconds", "ip_family=IPv6 4 22")
	})
}

// All is called from many goroutines while it is scraped.
func TestConcurrentUse(t *testing.T) {
	m := New(full("iptables"))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 20 {
				everything(m)
			}
		})
	}
	for range 5 {
		gather(t, m)
	}
	all.Wait()
	expect(t, m, "kubeproxy_sync_proxy_rules_duration_seconds", "ip_family=IPv4 160 40")
}

func countChanges(m *Metrics, services, slices int) {
	for range services {
		m.ServiceChanged()
	}
	for range slices {
		m.SliceChanged(time.Time{})
	}
}
