// Package target is what the project promises of its speed, row by row, and whether
// the figures keep it.
//
//	Rows() ─ Needs ─► sizes, contestants, measures ─► proxybench runs them
//	   │                                                    │ record.Sample
//	   └ Check{ours, theirs, floor, most} ◄── Ledger ◄──────┘
//	           └► Verdict: upstream's figure, ours, ratio, target, ratio to the floor, met or missed
//
// A promise is a ratio to upstream's kube-proxy in the same run, or an absolute bound
// where a ratio says nothing (no failed connects). Beside it stands the ratio to the
// floor: the bare kernel with the same content, or the direct way.
package target
