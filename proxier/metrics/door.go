package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// definition is a metric before it is made.
type definition struct {
	name, help string
	labels     []string
	buckets    []float64
	modes      []string // nil: every mode
}

// door registers what the proxy mode has. What it has not can be counted all the
// same, and is seen by nobody.
type door struct {
	registry *prometheus.Registry
	mode     string
}

func (d door) has(def definition) bool {
	return def.modes == nil || slices.Contains(def.modes, d.mode)
}

func (d door) register(def definition, c prometheus.Collector) {
	if d.has(def) {
		d.registry.MustRegister(c)
	}
}

func (d door) counter(def definition) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: def.name, Help: def.help}, def.labels)
	d.register(def, v)
	return v
}

func (d door) gauge(def definition) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: def.name, Help: def.help}, def.labels)
	d.register(def, v)
	return v
}

func (d door) histogram(def definition) *prometheus.HistogramVec {
	opts := prometheus.HistogramOpts{Name: def.name, Help: def.help, Buckets: def.buckets}
	v := prometheus.NewHistogramVec(opts, def.labels)
	d.register(def, v)
	return v
}

// scraped is a metric whose samples are read at each scrape. What read does not
// emit is absent.
type scraped struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(emit func(value float64, labels ...string))
}

func newScraped(def definition, kind prometheus.ValueType, read func(emit func(float64, ...string))) *scraped {
	return &scraped{prometheus.NewDesc(def.name, def.help, def.labels, nil), kind, read}
}

// Describe implements prometheus.Collector.
func (s *scraped) Describe(to chan<- *prometheus.Desc) { to <- s.desc }

// Collect implements prometheus.Collector.
func (s *scraped) Collect(to chan<- prometheus.Metric) {
	s.read(func(value float64, labels ...string) {
		metric, err := prometheus.NewConstMetric(s.desc, s.kind, value, labels...)
		if err != nil {
			metric = prometheus.NewInvalidMetric(s.desc, err)
		}
		to <- metric
	})
}
