// Package cluster is what the API said, trimmed to the fields that decide
// something on this node.
//
//	Service ──┐                        ┌── Services, each with its slices
//	Slice   ──┼─► Store ──► Snapshot ──┤
//	Node    ──┘                        └── this Node
//
// A [Store] takes API objects in any order and keeps one immutable [Service] for
// each Service, together with its EndpointSlices. [Store.Snapshot] hands out a
// sorted list of pointers: two snapshots share every Service that no event
// touched, so whoever compares them compares pointers.
//
// Kubernetes' types stop here: nothing past this package sees them.
package cluster
