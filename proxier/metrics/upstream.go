package metrics

import "github.com/prometheus/client_golang/prometheus"

// upstream are the metrics that upstream kube-proxy v1.37 has in the modes that
// we have, under its names, labels and buckets.
type upstream struct {
	syncs, fullSyncs, partialSyncs *prometheus.HistogramVec
	lastSync, lastQueued           *prometheus.GaugeVec
	programming                    *prometheus.HistogramVec
	serviceChanges, sliceChanges   prometheus.Counter
	noLocalEndpoints               *prometheus.GaugeVec
	healthz, livez                 *prometheus.CounterVec

	rulesTotal, rulesLast            *prometheus.GaugeVec
	restoreFailures, partialFailures *prometheus.CounterVec

	reconciled       *prometheus.HistogramVec
	reconcileDeleted *prometheus.CounterVec
}

const ipFamily = "ip_family"

func newUpstream(d door) (u upstream) {
	u.addSyncs(d)
	u.addChanges(d)
	u.addIPTables(d)
	u.addConntrack(d)
	code := []string{"code"}
	u.healthz = d.counter(definition{
		name: "kubeproxy_proxy_healthz_total", labels: code,
		help: "Answers at /healthz, by HTTP status code: 200 while the proxy keeps up with changes and the node is eligible for traffic.",
	})
	u.livez = d.counter(definition{
		name: "kubeproxy_proxy_livez_total", labels: code,
		help: "Answers at /livez, by HTTP status code: 200 while the proxy keeps up with changes.",
	})
	return u
}

func (u *upstream) addSyncs(d door) {
	family, buckets := []string{ipFamily}, syncBuckets()
	both := []string{"iptables", "nftables"}
	u.syncs = d.histogram(definition{
		name: "kubeproxy_sync_proxy_rules_duration_seconds", labels: family, buckets: buckets,
		help: "How long each sync took that brought the kernel to what the cluster wants.",
	})
	u.fullSyncs = d.histogram(definition{
		name: "kubeproxy_sync_full_proxy_rules_duration_seconds", labels: family, buckets: buckets, modes: both,
		help: "How long each sync took that started from what the kernel held.",
	})
	u.partialSyncs = d.histogram(definition{
		name: "kubeproxy_sync_partial_proxy_rules_duration_seconds", labels: family, buckets: buckets, modes: both,
		help: "How long each sync took that started from what the sync before had left.",
	})
	u.lastSync = d.gauge(definition{
		name: "kubeproxy_sync_proxy_rules_last_timestamp_seconds", labels: family,
		help: "When the last sync succeeded, in Unix time. Absent before the first.",
	})
	u.lastQueued = d.gauge(definition{
		name: "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", labels: family,
		help: "When a sync was last asked for, in Unix time. Absent before the first.",
	})
	u.programming = d.histogram(definition{
		name: "kubeproxy_network_programming_duration_seconds", labels: family, buckets: programmingBuckets(),
		help: "From the change of a Service or its pods, as the EndpointSlice tells it, until the kernel was programmed. What changed before this process started does not count.",
	})
}

func (u *upstream) addChanges(d door) {
	u.sliceChanges = d.counter(definition{
		name: "kubeproxy_sync_proxy_rules_endpoint_changes_total",
		help: "Changes of EndpointSlices that came from the API.",
	}).WithLabelValues()
	u.serviceChanges = d.counter(definition{
		name: "kubeproxy_sync_proxy_rules_service_changes_total",
		help: "Changes of Services that came from the API.",
	}).WithLabelValues()
	u.noLocalEndpoints = d.gauge(definition{
		name: "kubeproxy_sync_proxy_rules_no_local_endpoints_total", labels: []string{ipFamily, "traffic_policy"},
		help: "Service ports with the traffic policy Local that have endpoints, but none on this node.",
	})
}

func (u *upstream) addIPTables(d door) {
	iptables := []string{"iptables"}
	u.rulesTotal = d.gauge(definition{
		name: "kubeproxy_sync_proxy_rules_iptables_total", labels: []string{ipFamily, "table"}, modes: iptables,
		help: "Rules of ours that stand in a table.",
	})
	u.rulesLast = d.gauge(definition{
		name: "kubeproxy_sync_proxy_rules_iptables_last", labels: []string{ipFamily, "table"}, modes: iptables,
		help: "Rules of a table that the last sync wrote.",
	})
	u.restoreFailures = d.counter(definition{
		name: "kubeproxy_sync_proxy_rules_iptables_restore_failures_total", labels: []string{ipFamily},
		modes: []string{"iptables", "ipvs"},
		help:  "Writes of rules that failed.",
	})
	u.partialFailures = d.counter(definition{
		name: "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total", labels: []string{ipFamily},
		modes: iptables,
		help:  "Writes of rules that failed and started from what the sync before had left. They are among the restore failures.",
	})
}

func (u *upstream) addConntrack(d door) {
	modes := []string{"iptables", "ipvs", "nftables"}
	u.reconciled = d.histogram(definition{
		name: "kubeproxy_conntrack_reconciler_sync_duration_seconds", labels: []string{ipFamily},
		buckets: syncBuckets(), modes: modes,
		help: "How long each pass over the kernel's connection table took that looked for stale flows.",
	})
	u.reconcileDeleted = d.counter(definition{
		name: "kubeproxy_conntrack_reconciler_deleted_entries_total", labels: []string{ipFamily}, modes: modes,
		help: "Stale flows that were deleted from the kernel's connection table.",
	})
}

// standingUpstream are those of upstream's that are read at each scrape.
func (m *Metrics) standingUpstream() []prometheus.Collector {
	d := door{m.registry, m.options.Mode}
	all := []prometheus.Collector{
		newScraped(definition{
			name: "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
			help: "Changes of EndpointSlices that are not yet in the kernel for every family.",
		}, prometheus.GaugeValue, func(emit func(float64, ...string)) { emit(float64(m.pending().slices)) }),
		newScraped(definition{
			name: "kubeproxy_sync_proxy_rules_service_changes_pending",
			help: "Changes of Services that are not yet in the kernel for every family.",
		}, prometheus.GaugeValue, func(emit func(float64, ...string)) { emit(float64(m.pending().services)) }),
	}
	for _, c := range []struct {
		name, help string
		read       func() (uint64, bool)
	}{
		{"kubeproxy_iptables_ct_state_invalid_dropped_packets_total",
			"Packets that were dropped because conntrack took them for invalid.", m.options.InvalidDropped},
		{"kubeproxy_iptables_localhost_nodeports_accepted_packets_total",
			"Packets to a NodePort at a loopback address.", m.options.LocalhostAccepted},
	} {
		def := definition{name: c.name, help: c.help, modes: []string{"iptables"}}
		if c.read == nil || !d.has(def) {
			continue
		}
		all = append(all, newScraped(def, prometheus.CounterValue, func(emit func(float64, ...string)) {
			if n, known := c.read(); known {
				emit(float64(n))
			}
		}))
	}
	return all
}

// syncBuckets are 1 ms to 16.384 s, each twice the one before.
func syncBuckets() []float64 { return prometheus.ExponentialBuckets(0.001, 2, 15) }

// programmingBuckets are upstream's: 0.25 s and 0.5 s, then steps of 1 s up to a
// minute, of 5 s up to two, and of 30 s up to five.
func programmingBuckets() []float64 {
	b := []float64{0.25, 0.5}
	b = append(b, prometheus.LinearBuckets(1, 1, 59)...)
	b = append(b, prometheus.LinearBuckets(60, 5, 12)...)
	return append(b, prometheus.LinearBuckets(120, 30, 7)...)
}
