// Package promcheck checks what we give to people who watch the proxy with
// Prometheus and Grafana, by Prometheus' own code:
//
//	examples/prometheus-rules.yaml ──► rulefmt (what promtool uses) ──► each alert on made-up series:
//	                                                                   when it fires, when it is quiet
//	examples/grafana-dashboard.json ─► the PromQL parser
//	                    both ────────► names of metrics ─► those that proxier/metrics has
//
// It is a module of its own, for Prometheus requires several hundred others, and
// none of them is to get into the go.mod at the root.
package promcheck
