// Package netlab lays out hosts as network namespaces of the running kernel,
// so that a proxy can be tried with real packets: nodes, pods and clients
// outside, each with its own interfaces, routes, sockets and netfilter rules.
//
//	                     203.0.113.7, .8
//	                  ┌──────────────────┐
//	                  │     outside      │ everything but node-b's pods
//	                  └────────┬─────────┘ goes by way of node-a
//	                           │ eth0
//	┌─ fabric ─────────────────┴───────────────────────────────┐
//	│  one bridge: the layer 2 that nodes and clients share    │
//	└──────┬────────────────────────────────────────────┬──────┘
//	       │ eth0 192.168.0.2, 192.168.7.2              │ eth0 192.168.0.3
//	┌──────┴──────────┐                          ┌──────┴──────────┐
//	│     node-a      │                          │     node-b      │
//	│ cbr0 10.180.0.1 │                          │ cbr0 10.180.1.1 │
//	└──┬─────┬─────┬──┘                          └──┬─────┬─────┬──┘
//	 pod-a1 pod-a2 pod-a3                         pod-b1 pod-b2 pod-b3
//
// Every host has IPv6 addresses beside these. Nothing here translates
// addresses: what a server sees as its client is what the sender had, unless
// the proxy under test changed it. A pod has a /32 address and knows no
// neighbour but its node, so each of its packets enters the node by cbr0 and
// each reply passes the node, also between pods of one node.
//
// The namespaces are bound under /run/netns, so `ip netns exec` works on them.
// Their interfaces are made inside them: the namespace that the program runs
// in never gets one. All of it needs root.
package netlab
