// Package e2e tests the built program as a cluster runs it: by the files of
// deploy/, as the service account kube-proxy with the role system:node-proxier,
// against a real API server, judged by real packets.
//
//	test ──administrator──► kube-apiserver, etcd     on host cp, 192.168.0.10
//	                              ▲       │ audit log: all that the account asked
//	        token, RBAC, protobuf │       ▼
//	                         kube-proxy ──► kernel   on node-a, or a node of its own
//	                                          │
//	test ──probes, flows──► pods, outside ────┘      of a netlab.Cluster
//
// There is one API server for all tests. Most run one after the other on node-a,
// each with a kernel and a cluster that hold nothing of the one before; those that
// need no pods have nodes of their own and run side by side.
package e2e
