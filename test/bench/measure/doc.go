// Package measure asks each contestant the same questions, from outside.
//
//	Visit: one contestant on one fresh street
//	  start ── coldstart ── idle ── size ── connect, throughput, spread
//	        ── change ── churn ── start again without a minimum interval ── change-zero ── restart ── programs
//	                                    │
//	                                    └► record.Sample
//
// Whether a contestant is in sync is never taken from its own word: a client
// connects to the last service until it answers, and then to a sample of all. That a
// change has arrived is when the endpoint that is new answers. What a contestant
// used is read from its cgroup, until it is quiet again, so work that is put off is
// not forgotten.
package measure
