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
//	SetSlice ─trim─► Slice ─equal to the last?─► nothing happened
//	                   │ no
//	                   └─► entry touched ──Snapshot──► one new Service an entry
//
// An event costs the trimming of its own object, and nothing at all further on
// when only fields changed that decide nothing here (annotations, resource
// versions, status of other controllers). Snapshot rebuilds the Services that
// were touched since the last one, each once, and copies N pointers.
//
// What cannot be used is left out and named in a [Problem]; the rest of the
// object counts. No object that the API can hold makes the Store fail.
//
// Kubernetes' types stop here: nothing past this package sees them.
package cluster
