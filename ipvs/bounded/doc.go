// Package bounded is what the three dialects of the IPVS backend share: ways to the
// kernel on which nobody waits for ever.
//
//	caller ──call──► Line ──► goroutine that owns the connection ──► kernel
//	   ▲              │
//	   └─ErrNoAnswer──┘ no progress within the time-out: the connection is given up,
//	                    the next call opens another
//
// A [Line] is for any connection, also one of a library that waits without a bound.
// A [Socket] is a netlink socket as such a connection: it sends requests in
// batches and reads every answer. message.go builds and reads the messages; it is
// pure. kernel.go is the door.
package bounded
