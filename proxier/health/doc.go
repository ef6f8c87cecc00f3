// Package health answers those who ask whether this node should get traffic: a
// cloud's load balancer, at a Service's healthCheckNodePort, and whoever watches
// the proxy, at /healthz and /livez.
//
//	State of each family ──wanted (pure)──► address ► answer ─┐ diff
//	                                        open listeners ───┴──► open, close, new answers
//	load balancer ──GET any path──► 200 or 503, local endpoints in JSON
//
//	engine ──Queued, Applied──► Healthz ──► /healthz, /livez
//	Node of the API ──SetEligible──┘   └──Healthy──► part of each Service's answer
//
// A listener that cannot be opened is an error of the Service that wants it and
// of no other; the next Apply tries again. An answer changes without touching its
// listener.
package health
