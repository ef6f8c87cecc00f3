// Package ipset is the kernel's sets of addresses and ports as values.
//
//	Set, Entry ──Kernel.Create, Change, Flush, Destroy──► kernel
//	     ▲                                                  │
//	     └────────── Kernel.Sets, Entries ◄─────────────────┘
//
// Netlink without the program ipset, and without its version. One message holds up
// to 200 entries, and many messages are on their way at once, so that 10,000 entries
// take a tenth of the time that "ipset restore" takes. A set that is full, too small or
// has other options than it should is built anew under a temporary name and swapped:
// packets find the old one or the new one, and rules that refer to it go on.
//
// The libraries do not fit: vishvananda/netlink sends one entry at a time and knows
// no marks of entries.
//
// All but kernel.go is pure: set.go and type.go are the values, wire.go the messages.
package ipset
