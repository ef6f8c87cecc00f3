// Package ipvs programs Services as virtual servers of the kernel's load balancer:
// one lookup for each new connection, whatever the number of Services.
//
// A packet's walk. IPVS stands behind filter INPUT for what comes in, and behind nat
// OUTPUT for what the node sends; what it sends on is as if the node had sent it:
//
//	in ─► mangle PREROUTING ─► nat PREROUTING ─► local? ─► filter INPUT ─┐
//	      drop                 mark, map                   refuse        ▼
//	                                                                   IPVS ─► nat POSTROUTING ─► endpoint
//	out ─► mangle OUTPUT ─► nat OUTPUT ────────────────────────────────▲       masquerade
//
//	mangle KUBE-PROXY-FIREWALL  sources that are not allowed, policy Local without an endpoint
//	nat    KUBE-SERVICES        what is to be masqueraded; the short way of policy Local
//	filter KUBE-IPVS-FILTER     an address of a Service at a port that none has
//	IPVS                        which endpoint; none: ICMP port unreachable
//
// Addresses are local because the device kube-ipvs0 has them. The rules are constant:
// which addresses they mean stands in sets (sets.go), so a change of a Service is a few
// netlink messages and no program is run. Names are upstream's.
//
// One address and port has one pool. Frontends with policy Local need two: the
// outside world's (endpoints of this node) and that of pods and the node (all
// endpoints). The second one is a virtual server at an alternate address, to which
// nat maps the packets of pods and the node, all by one rule: NETMAP puts 240.0.0.0/4
// (IPv6: 100::/8) in place of an address's first bits. A packet mark that leads to a
// second server would not do: with affinity such servers do not translate ports, and
// marks are others' too. Of a mapped connection IPVS sees the first packet only;
// conntrack translates the others by itself, so an endpoint that goes cuts none of
// them.
//
//	State ─ render.go ─► portals ─ memory.go, ledger.go: who wants what ─► what differs
//	      ─ diff.go, drain.go ─► changes ─ attempt.go, in safe order ─► vs, ipset, dummy
//	      ─ rules.go ─ wall.go ─► iptables/ruleset
//
// Whose a virtual server is: ours is one whose address and port is in one of our sets,
// or whose address is on kube-ipvs0. Sets are written before servers and emptied after
// them, so that is true after a crash too. Servers for packet marks, and those in the
// excluded ranges, are never ours.
//
// An endpoint that goes keeps its TCP connections at weight 0 (drain.go); what has
// drained is deleted by Drifted, which the engine calls every second. A deleted
// Service keeps its server, address and entries as long. All of that is read back
// from the kernel after a restart. What others do is noticed by watch.go.
package ipvs
