package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"switchyard/proxier"
	"switchyard/proxier/engine"
)

// own are the metrics that only we have. Their counters start at 0, so that the
// first failure is an increase.
type own struct {
	took             *prometheus.HistogramVec
	operations       *prometheus.HistogramVec
	operationsTotal  *prometheus.CounterVec
	written, deleted *prometheus.CounterVec
	repairs          *prometheus.CounterVec
	failures         *prometheus.CounterVec
}

func newOwn(d door, families []proxier.Family) (o own) {
	family, kind := []string{ipFamily}, []string{ipFamily, "kind"}
	o.took = d.histogram(definition{
		name: "switchyard_sync_duration_seconds", labels: family, buckets: prometheus.ExponentialBuckets(0.001, 2, 18),
		help: "How long each successful sync took; reaches two minutes, as a cold load of a large cluster may exceed 16 s.",
	})
	o.operations = d.histogram(definition{
		name: "switchyard_kernel_operations_per_sync", labels: family,
		buckets: []float64{0, 1, 2, 4, 8, 16, 64, 256, 1024, 4096, 16384, 65536},
		help:    "Calls that wrote to the kernel in each successful sync. 0: nothing had to change.",
	})
	o.operationsTotal = d.counter(definition{
		name: "switchyard_kernel_operations_total", labels: family,
		help: "Calls that wrote to the kernel in successful syncs.",
	})
	o.written = d.counter(definition{
		name: "switchyard_kernel_objects_written_total", labels: kind,
		help: "Kernel objects that were written, by the backend's word for them.",
	})
	o.deleted = d.counter(definition{
		name: "switchyard_kernel_objects_deleted_total", labels: kind,
		help: "Kernel objects that were deleted, by the backend's word for them.",
	})
	o.repairs = d.counter(definition{
		name: "switchyard_drift_repairs_total", labels: family,
		help: "Syncs that put right what somebody else had changed in the kernel.",
	})
	o.failures = d.counter(definition{
		name: "switchyard_sync_failures_total", labels: family,
		help: "Syncs that failed as a whole. Each is tried again.",
	})
	for _, f := range families {
		o.operationsTotal.WithLabelValues(f.String())
		o.repairs.WithLabelValues(f.String())
		o.failures.WithLabelValues(f.String())
	}
	return o
}

// standing are the metrics that are read at each scrape.
func (m *Metrics) standing() []prometheus.Collector {
	all := m.standingUpstream()
	all = append(all, newScraped(definition{
		name: "switchyard_kernel_objects", labels: []string{ipFamily, "kind"},
		help: "Kernel objects that stood after the last successful sync, by the backend's word for them.",
	}, prometheus.GaugeValue, m.readTotals))
	if m.options.Status != nil {
		all = append(all, m.standingStatus()...)
	}
	if m.options.APIAlive != nil {
		all = append(all, newScraped(definition{
			name: "switchyard_api_silence_seconds",
			help: "Seconds since the API server last proved alive; since the start if it never did.",
		}, prometheus.GaugeValue, func(emit func(float64, ...string)) {
			emit(max(0, time.Since(later(m.start, m.options.APIAlive())).Seconds()))
		}))
	}
	return all
}

func (m *Metrics) standingStatus() []prometheus.Collector {
	gauge := func(name, help string, read func(engine.Status) float64) prometheus.Collector {
		def := definition{name: name, help: help, labels: []string{ipFamily}}
		return newScraped(def, prometheus.GaugeValue, func(emit func(float64, ...string)) {
			for _, s := range m.options.Status() {
				emit(read(s), s.Family.String())
			}
		})
	}
	return []prometheus.Collector{
		gauge("switchyard_services_differing",
			"Service ports whose kernel state is not, or not known to be, as the cluster wants it: those set aside; all of them, and at least 1, after a failed sync until one succeeds, and while a change has been waiting for too long.",
			m.differing),
		gauge("switchyard_services_set_aside",
			"Service ports that the last successful sync left out so that all others could go in.",
			func(s engine.Status) float64 { return float64(len(s.SetAside)) }),
		gauge("switchyard_oldest_change_age_seconds",
			"How long the oldest change has been waiting that is not in the kernel; 0 if there is none.",
			func(s engine.Status) float64 { return age(s).Seconds() }),
	}
}

// differing errs to the side of the alarm: what is not known counts.
func (m *Metrics) differing(s engine.Status) float64 {
	if s.Failures == 0 && age(s) < m.options.Late {
		return float64(len(s.SetAside))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	all := 1
	if f := m.family(s.Family); f != nil && f.state != nil {
		all = max(all, len(f.state.Services))
	}
	return float64(all)
}

// age of the oldest change that is not applied.
func age(s engine.Status) time.Duration {
	if s.PendingSince.IsZero() {
		return 0
	}
	return max(0, time.Since(s.PendingSince))
}

func (m *Metrics) readTotals(emit func(float64, ...string)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, f := range m.families {
		for kind, n := range f.total {
			emit(float64(n), name.String(), kind)
		}
	}
}

// later is the later of two times.
func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
