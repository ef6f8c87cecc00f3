package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"switchyard/proxier"
)

// trafficLabels name a service port in one family.
var trafficLabels = []string{ipFamily, "namespace", "service", "port", "protocol"}

// traffic are the counts of a backend that carries the bytes itself, read at each
// scrape; none where it does not.
func (m *Metrics) traffic() []prometheus.Collector {
	if m.options.Traffic == nil {
		return nil
	}
	one := func(name, help string, kind prometheus.ValueType, read func(proxier.Traffic) int64) prometheus.Collector {
		def := definition{name: name, help: help, labels: trafficLabels}
		return newScraped(def, kind, func(emit func(float64, ...string)) {
			for family, all := range m.options.Traffic() {
				for _, t := range all {
					n := t.Service
					emit(float64(read(t)), family.String(), n.Namespace, n.Service, n.Port, t.Protocol.String())
				}
			}
		})
	}
	counter, gauge := prometheus.CounterValue, prometheus.GaugeValue
	return []prometheus.Collector{
		one("switchyard_relay_connections", "Connections and UDP flows that the relay holds.",
			gauge, func(t proxier.Traffic) int64 { return t.Active }),
		one("switchyard_relay_connections_total", "Connections and UDP flows that the relay took, whatever became of them.",
			counter, func(t proxier.Traffic) int64 { return t.Connections }),
		one("switchyard_relay_received_bytes_total", "Bytes from clients.",
			counter, func(t proxier.Traffic) int64 { return t.Received }),
		one("switchyard_relay_sent_bytes_total", "Bytes to clients.",
			counter, func(t proxier.Traffic) int64 { return t.Sent }),
		one("switchyard_relay_retries_total", "Endpoints that did not take a connection, so that another was tried.",
			counter, func(t proxier.Traffic) int64 { return t.Retries }),
		one("switchyard_relay_failures_total", "Connections that no endpoint took.",
			counter, func(t proxier.Traffic) int64 { return t.Failed }),
		one("switchyard_relay_refusals_total", "Connections over the limit of one service port.",
			counter, func(t proxier.Traffic) int64 { return t.Refused }),
		one("switchyard_relay_evictions_total", "Connections that made room for others.",
			counter, func(t proxier.Traffic) int64 { return t.Evicted }),
		one("switchyard_relay_timeouts_total", "Connections whose peer vanished, took nothing or said nothing for too long.",
			counter, func(t proxier.Traffic) int64 { return t.TimedOut }),
	}
}
