// Package record is what a benchmark found out, and what that means.
//
//	Sample ─► Run (machine, arguments, samples) ─► JSON, CSV
//	   └► Summarize ─► []Row: median and spread of each contestant over the rounds,
//	                   and its ratio to the reference, round by round
//
// A time depends on the machine and on who else uses it; a ratio of two contestants
// in the same round much less. So ratios are taken within each round and their median
// is what counts; the spread says how far to trust it.
package record
