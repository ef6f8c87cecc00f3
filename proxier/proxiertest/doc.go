// Package proxiertest holds what every room of the house is tested against: a
// suite of scenarios written from Kubernetes' documentation, a laboratory of
// fixed addresses in which they play, and random clusters in the same
// laboratory. It is for tests only.
//
//	scenarios/*.txtar ──Load──► Scenario ─┬─ Cluster (YAML) ──► Snapshot ──► State ──► State.String()
//	                                      ├─ Flags ───────────────────────────┘          must be Scenario.State
//	                                      └─ Packets ──► proxier.Packet ──► fate         must be Packet.Want
//
//	seed ──Random──► Objects ──RandomPacket──► proxier.Packet     two ways of deciding a packet must agree
//
// A scenario is a text file of four sections, read by people first:
//
//	A title
//
//	Free text: what it shows and where that is specified, with tags:
//	[checklist 59] [feature terminating]
//	-- flags --
//	--masquerade-all
//	-- cluster.yaml --
//	(Service, EndpointSlice and Node documents; this node is "node-a")
//	-- state --
//	(written by [WriteState], reviewed by a person)
//	-- packets --
//	tcp pod-a   -> 172.30.0.41:80    forward 10.180.0.2:8080 10.180.1.2:8080
//	tcp outside -> 192.168.0.2:30080 forward masq 10.180.0.2:8080 10.180.1.2:8080
//	udp node    -> 172.30.0.41:53    reject
//
// "checklist" is a row of the acceptance checklist of upstream's behaviour,
// "feature" one of the features that coverage_test.go lists.
//
// The fates say what a user may expect. They are never copied from what the code
// answers: where the two disagree, the specification tells who is wrong.
//
// A packet's source is a [Host] of the laboratory, with an address of its own
// choice after "@": "pod@10.180.0.2", "node@198.51.100.1". After "forward" may
// stand "masq" (every endpoint sees the node's address, not the client's) and
// "sticky" (the client stays with its first endpoint); "(masq)" after an endpoint
// says it of that endpoint only, which is hairpin.
package proxiertest
