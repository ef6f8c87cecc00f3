// Package aside decides what becomes of a service that the kernel refuses, so that
// all others go in. It is pure: a backend asks it for the next State to try, and
// tells it what the kernel said.
//
//	want ── Without ──► a State to try: of a service that is set aside, its older version
//	                      │
//	        refused, and ─┤ the kernel names the service: Put, and Without again
//	                      └ it names none: Steps from what stands, in order, and Search:
//
//	a b c d e f g h refused ──► a b c d  accepted
//	                       └──► e f g h  refused ──► e f  accepted
//	                                            └──► g h  refused ──► g accepted, h set aside
//
// Nothing that stands is taken away for the search. An address that one service loses
// and another gets is given to the second before it is taken from the first
// ([Steps]), and an older version stays where it does no harm ([Services.Without]).
package aside
