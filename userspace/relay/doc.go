// Package relay carries the connections of Services through this process: TCP
// streams and UDP flows that netfilter has led to its port.
//
//	client ─► VIP:80 ══DNAT══► node:Port ─ accept, or a datagram
//	                                │ which address was asked? conntrack knows
//	                                ▼
//	       table.go   address, port ─► service, frontend ─► Frontend.Decide ─► pool
//	       balance.go, affinity.go    pool ─► endpoint
//	                                │
//	       tcp.go     connect, and try another endpoint if it fails
//	       link.go    bytes, both ways (splice)
//	       udp.go     a socket for each client's flow; ICMP errors back
//
// A [Relay] serves one IP family with one listener for each protocol. What it knows
// of services changes while connections go on: an entry of the table is replaced, and
// a connection asks the table once, at its start. An established TCP connection stays
// with its endpoint until it ends; a UDP flow ends with its endpoint.
//
// TCP is carried by a few workers, each with an epoll set and all state of its links:
//
//	worker.go  events and times ─► course.go: what is to be done ─► sockets
//	                wheel.go ─► patience.go: what may stay; room.go: what goes first
//
// course.go, patience.go and wheel.go decide, and touch nothing.
//
// kernel.go and its neighbours kernel_… are the only door to the kernel. Sockets
// belong to the network namespace of the thread that called [Open].
package relay
