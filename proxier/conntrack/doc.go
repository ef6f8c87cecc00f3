// Package conntrack deletes the flows that the kernel would keep sending to the
// wrong place after the rules have changed.
//
// NAT rules are looked up for a flow's first packet only; conntrack remembers the
// outcome for as long as packets come. TCP ends by itself when its endpoint does.
// A UDP client that keeps its socket (a resolver, statsd, syslog) would be sent to
// a dead pod for hours, or past a Service that came after its first packet.
//
//	engine ──Applied(last, next)──► Cleaner ──Plan──► Policy ──┐
//	 (after the new rules are in)   (off the sync path)        │
//	                                                           ▼
//	 kernel's table ──one streamed pass──► Flow ──► Policy.Stale? ──yes──► delete
//
// A flow is judged by where its client sent it (the original destination) and
// where it really goes (the source of its replies):
//
//	sent to                        goes to                          verdict
//	a Service's address            an endpoint of it                stays, if its answers come back
//	a Service's address            anything else it was NATed to    stale
//	a Service's address            that address itself, no NAT      stale if it forwards now
//	one that was a Service's       an endpoint it had               stale
//	one that rules lead from,      an endpoint they lead to         stale
//	  left by the process before
//	any other                      anywhere                         not ours
//
// Endpoints that get no new connections but still serve count as endpoints: a
// flow that has one stays there. TCP is never touched.
//
// What was a Service's before the process began, only the rules tell that stand at the
// first apply: inherit.go asks the backend for them.
//
// stale.go, diff.go and wire.go are pure; kernel.go alone makes system calls. The verdicts
// hold for backends that translate addresses in the kernel: a backend that sends
// flows through a process of its own must not run a Cleaner.
package conntrack
