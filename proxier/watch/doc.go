// Package watch feeds a [cluster.Store] from the API server. It is the one door
// to it.
//
//	          Services (no other proxy's, not headless) ─┐
//	          EndpointSlices (not headless)             ─┤
//	API ─────► this Node                                 ─┼─ one object at a time ─► Store ─► changed
//	          ServiceCIDRs (if there are any)           ─┘         │
//	                                                               └─ keys: what a new list no longer holds is deleted
//
// Each kind has a follower: it takes everything once and then the changes from
// there on. An object goes straight from the wire into the Store, which keeps the
// few fields that decide something; nothing keeps the object itself, not even
// while the first list arrives, since that comes as a stream (KEP-3157) where the
// server has it, and in pages where not. So there are no informers here: their
// caches would hold every object whole.
//
//	nothing known ──all──► up to version n ──watch from n──► n+1, n+2, …
//	      ▲                      ▲                               │
//	      └── n is too old (410) └── anything else, after a pause ┘
//
// The Service default/kubernetes and its EndpointSlices are asked for by themselves,
// so that a node that holds nothing yet can serve the API before all else.
//
// A watch that breaks is taken up where it ended. Only a server that says that it
// no longer knows that version causes another full list: restarts of the API
// server cause none, whatever they answer with in between.
//
// A server that is late, away or refuses is waited for, and named in one line
// that is repeated at the 10th, 100th, … failure. What the Store holds stays. A
// connection that died silently is found by HTTP/2 pings within 45 s. A watch that
// has said nothing for 90 s is opened anew, which is no failure: of a kind that has
// not changed since it started, an API server sends no bookmarks.
// [Source.Age] tells how long ago the API last proved alive.
package watch
