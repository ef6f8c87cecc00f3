// Package metrics counts what the proxy did, for those who scrape it: upstream
// kube-proxy's metrics under upstream's names, labels and buckets, so that its
// dashboards and alerts keep working, and our own under the prefix switchyard_,
// for what upstream's cannot tell: whether the kernel is as the cluster wants it.
//
//	source ──Changes────────────┐                                ┌─► kubeproxy_*
//	engine ──Look, Queued,      │                                │
//	         Applied, Failed────┼─► Metrics ─► its own registry ─┼─► switchyard_*  ──Handler──► /metrics
//	conntrack ──ConntrackPass───┤                    ▲           │
//	health ──CountProbes────────┘                    │           └─► kubernetes_build_info, go_*, process_*
//	                         engine.Status, API age ─┘ read at each scrape
//
// What is counted is pushed, as it happens; what stands is read when somebody
// asks, so that it cannot be left over from an earlier time. A value that is not
// known is absent, never 0: after a start no timestamp is 0, and no latency is
// made up from what happened before.
//
// The package knows no backend: what a Report calls the kernel's objects becomes
// the label kind, and the proxy mode only decides which of upstream's names exist.
package metrics
