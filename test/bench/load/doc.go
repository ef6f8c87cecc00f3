// Package load is what the contestants of a benchmark serve: N Services of M
// endpoints each, every one of them a pure function of its number.
//
//	Load{N, M} ── Service(i), Slice(i) ──► API ───► API server: by way of its etcd, changes by client-go
//	     │                              └► Files ─► a directory of manifests
//	     └ Turn(i): an endpoint of service i is replaced by one that nobody had
//
// ClusterIPs lie all over a /12, as an API server gives them out, and pods side by
// side in a /10, which the lab's server answers for as a whole. So any number of
// services has endpoints that work, and the number costs the lab nothing.
package load
