// Package proxier is the contract of the house: what a node must do for every
// packet to a Service, as a plain value, and what a backend owes for it.
//
//	sources ──event──► cluster.Store ──Snapshot──► compile ──State──► Backend.Apply ──Report──► metrics, health, log
//
// A [State] holds every policy decision for one IP family of one node. A
// backend only translates it: it never looks at a traffic policy, a topology
// hint or an endpoint condition again. [State.Decide] is the executable meaning
// of a State; every backend is tested against it, and every backend gives every
// packet the same fate.
//
// The package imports the standard library only, so that it outlives its users.
package proxier
