// Package userspace sends every Service through a relay in this process: the
// kernel brings the packets, the relay chooses the endpoint and carries the bytes.
//
// A packet's walk (nat above, filter below):
//
//	PREROUTING                          OUTPUT
//	     │                                 │ (the relay's own: marked, left alone)
//	KUBE-PORTALS-CONTAINER          KUBE-PORTALS-HOST
//	     └────────► KUBE-PORTALS ◄─────────┤
//	                     │ the address of a Service
//	KUBE-NODEPORT-CONTAINER │       KUBE-NODEPORT-HOST
//	     └──► KUBE-NODEPORT-ADDRS ◄────────┘
//	                     │  │ a local address
//	                     │  └─► KUBE-NODEPORT ─┐
//	                     ▼                     ▼
//	            KUBE-ALLOW-h (ranges) ──► KUBE-RELAY (DNAT to the relay's port)
//
//	INPUT, FORWARD, OUTPUT: KUBE-PORTALS, KUBE-NODEPORT (no endpoints, or not for
//	this source: reject or drop); INPUT: KUBE-RELAY (what was sent to the relay may
//	come in)
//
// The rules decide the verdict, so that a refusal is a refusal and not a
// connection that is accepted and closed. The relay asks the same
// [proxier.Frontend] again for each connection, and so learns the pool:
//
//	State ─ render.go ─► chains and entries ─ dispatch.go ─► chains
//	  │   ─ diff.go, against memory.go ─► plan ─ attempt.go ─► iptables-restore
//	  └──► relay.Relay: address and port ─► service ─► endpoint
//
// One listener for each protocol and family serves all services: the address that
// the client asked is what conntrack remembers of the translation. The client's
// address is lost to the endpoint by nature; Service.ProxyProtocol tells it.
package userspace
