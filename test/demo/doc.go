// Demo shows a node's proxy at work on this machine: it lays out two nodes, six
// pods and a client outside as network namespaces, starts the real kube-proxy on
// node-a with the shop of examples/, sends real connections, and compares what
// came of each with what State.Decide promised.
//
//	examples/ ─copy─► manifest dir ─┬─► bin/kube-proxy (node-a) ─► the kernel's rules
//	                                │                                   ▲
//	                                └─► manifest, cluster,              │ connections
//	                                    node, compile ─► State ─┐       │
//	                                                            ▼       │
//	                                       trials: who asks what ───────┘
//	                                                │
//	                                                └─► judge ─► the table, exit code
//
// It is a program for people: it exists so that somebody new sees the whole path
// work before reading any of it. Needs root, as namespaces do.
package main
