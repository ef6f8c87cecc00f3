// Package kubeapi runs a real Kubernetes API server with etcd on a host of a
// [netlab.Lab], for tests.
//
//	host of the lab ── eth address ── kube-apiserver :6443 (TLS) ──► etcd on 127.0.0.1
//	                                        ▲
//	       kubeconfigs, RBAC: administrator ┤
//	        service accounts by their token ┘
//
// Both are programs in the host's namespace, so nothing of them can be reached
// from elsewhere. The API server is bin/kube-apiserver, which test/apiserver builds;
// etcd is Debian's etcd-server. Certificates and keys are made anew for each start
// and live, with etcd's data, in a folder that the caller removes.
package kubeapi
