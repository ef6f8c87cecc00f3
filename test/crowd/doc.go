// Package crowd fills the kernel's connection tracking table, as nodes of busy
// clusters have it: a million flows cannot be sent within a test, but can be told to
// the kernel by netlink, a thousand in a message.
//
//	Fill(n, flow) ──► n entries: client's tuple, reply's tuple, an hour to live
//
// The tests of the package show what the program does beside such a crowd.
package crowd
