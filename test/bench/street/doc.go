// Package street is the lab of a benchmark: a client, a node that a contestant
// programs, and a server that is every pod at once.
//
//	client ────── out │ node │ in ────── server
//	10.191.255.2      └──────┘           10.128.0.0/10 on lo: any address answers
//	(a pod, too)          │ eth0 192.168.0.2
//	                      └── cp 192.168.0.10: the API server
//
// A street is made for one visit of one contestant, in milliseconds, and is gone
// after it, so each begins with a kernel that holds nothing of the one before. The
// control plane is built once and each street is joined to it.
//
// Clients are threads that stay in the client's namespace and block in their system
// calls: no scheduler of Go's is part of what they measure, and no state of the lab
// grows with the number of services.
package street
