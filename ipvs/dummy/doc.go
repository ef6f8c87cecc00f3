// Package dummy is the device that holds the addresses of Services, kube-ipvs0.
//
//	addresses ──Kernel.Ensure, Change──► kernel
//	    ▲                                  │
//	    └── Kernel.Addresses, Drifted ◄────┘
//
// An address on any device of the node, also one that is down, is local: packets to
// it enter INPUT, where IPVS takes them. A dummy device never answers ARP, and one
// that is down is overlooked by programs that search for the node's own address.
//
// The device's name is an option of Open; Ensure and Delete have no argument.
// Addresses asks for one family, since each family's backend has a Kernel of its own
// on the one device.
//
// IPv6 addresses vanish when somebody sets the device up and down again; the kernel
// tells, and Drifted says so.
//
// All but kernel.go is pure.
package dummy
