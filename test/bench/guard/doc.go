// Package guard holds the ratios that must not get worse unnoticed: those that are
// cheap to take and that no machine changes.
//
//	load ─► compile ─► State ─┬─ allocations for each service
//	                          ├─ iptables.Backend.Apply of one change ─► lines, operations
//	                          └─ streets of 10 and of 10,000 services ─► first connects, in turns
//	                                              │
//	baseline.json ──────── Compare, 1.25 × ───────┴─► what got worse
//
// Counts are the same everywhere. The one ratio of times is of two nodes side by side
// in the same seconds.
package guard
