// Package iptables programs Services with iptables rules: a random DNAT for the
// first packet of each connection; conntrack does the rest.
//
// A packet's walk (nat above, filter below):
//
//	PREROUTING, OUTPUT                                                POSTROUTING
//	      │                                                                │
//	KUBE-SERVICES ─ ClusterIP ─────────────► KUBE-SVC-h ┐          KUBE-POSTROUTING
//	      │ └ external IP, LB IP ─► KUBE-EXT-h ──┤      ├─► DNAT   (marked, or to oneself:
//	      │        └ with ranges ─► KUBE-FW-h ─┘ └► KUBE-SVL-h ┘    masquerade)
//	      └ local address ─► KUBE-NODEPORTS ─► KUBE-EXT-h
//
//	INPUT, FORWARD, OUTPUT: KUBE-PROXY-FIREWALL (sources not allowed: drop),
//	KUBE-SERVICES and KUBE-EXTERNAL-SERVICES (no endpoints: reject or drop),
//	KUBE-FORWARD (what was translated may pass)
//
// With session affinity an endpoint has a chain of its own, KUBE-SEP, before the
// DNAT. Names and hashes are upstream's. What differs is the cost: no chain is longer
// than 256 rules. A long list of addresses is a tree of chains (tree.go), a
// service with many endpoints chooses in two levels (choice.go), and a change
// rewrites the chains whose content changed and no other (diff.go).
//
//	State ─ render.go, choice.go ─► chains and entries ─ tree.go, dispatch.go ─► chains
//	      ─ diff.go, against memory.go ─► plan ─ attempt.go ─► iptables-restore
//
// What the kernel refuses is found by the lines that it names, or by halving, and
// set aside (attempt.go, isolate.go, proxier/aside); what others do to our chains is noticed by a
// fingerprint of the tables (watch.go).
package iptables
