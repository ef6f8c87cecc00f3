// Package vs is the kernel's table of virtual servers (IPVS) as values.
//
//	Key, Server, Destination ──Write──► Kernel.Batch, Add, Update, Delete, … ──► kernel
//	     ▲                                                                         │
//	     └──────────── Kernel.Servers, Destinations, AllDestinations ◄─────────────┘
//
// A [Server] or [Destination] that is read back equals the one that was written, so
// what stands and what is wanted are compared with ==. What the kernel holds and
// these values cannot say (another way of forwarding, a netmask) makes them differ.
// Operations mean what they leave behind: adding what exists updates it, deleting
// what is gone is no error. Everything else is an [OpError].
//
// Questions and timeouts go by way of github.com/moby/ipvs. Its traps, and what is
// done about them here:
//
//   - It asks for IPVS once in a process. If the module comes later, or comes again
//     under another number, every call fails with ENOENT, which also means "no such
//     destination" and "no such scheduler". Open asks first, and ENOENT is confirmed.
//   - It waits for an answer without end. A bounded.Line ends the wait.
//   - It runs modprobe, and complains on standard error where there is none.
//   - It waits for each answer before it sends the next request, and needs 64 KiB
//     of memory for each.
//
// For the last reason writes do not go by way of it: wire.go has the messages, and
// bounded.Socket sends many at once. In User Mode Linux 1,000 servers of 10
// destinations take Batch about 1 s, as they do bare pipelined messages, and the
// library 3 s. One trap is the kernel's: it keeps deleted destinations for two minutes
// and looks through all of them for each one that is added, so that deleting and
// adding ten thousand is quadratic.
//
// The kernel does not tell when somebody else writes. The cheapest look is Servers:
// 5,000 in 0.1 s there; their destinations take 2 s, as the kernel lists them for one
// server at a time, so a look at some of them each time will do.
//
// All but kernel.go is pure.
package vs
