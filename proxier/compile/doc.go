// Package compile decides: a Snapshot of the cluster and the Node's part of it
// become the State of one IP family.
//
//	cluster.Service ─┬─ endpoints.go: which endpoints, by conditions and topology hints
//	                 ├─ routes.go:    which source goes to which of them
//	                 ├─ frontends.go: at which addresses
//	                 └─ claims.go:    who has an address that several Services want
//	                                  └──► []*proxier.Service ──► State
//
// All policy of Kubernetes' Services is here and nowhere else. Compiling one
// Service is a pure function of it and of the [Env]; the [Compiler] only keeps
// the last results, so that the cost of a change is the cost of what changed,
// and a Service that comes out the same keeps its pointer.
package compile
