// Package keeper is a small process beside the proxy that holds the relay's listening
// sockets, so that they outlive it: while no proxy runs, after kill -9 or between two
// that do not overlap, the kernel completes connects into the backlog and datagrams
// wait in the buffer. The next proxy takes the very same sockets and serves what waits.
//
//	proxy 1                        keeper                      proxy 2
//	 starts it, gives the sockets ─► holds them
//	 serves                          │
//	   ✝ (or not)                    │ ◄──────────────── asks for the sockets
//	                                 ├─────────────────► gets them, writes its rules
//	   told to retire, drains ◄──────┤ ◄──────────────── serves
//
// One way for every restart: it does not matter whether the one before still runs. The
// keeper ends when no proxy has been there for [Patience], or when it is told to. It
// accepts nothing, reads nothing but from proxies of its own user, and has given up all
// privileges.
//
// The door is an abstract Unix socket: its name lives in the network namespace, as the
// sockets do, and is gone with the process. A proxy binds it and hands it to the keeper
// that it starts, so that of two proxies that start one at once only one succeeds.
package keeper
