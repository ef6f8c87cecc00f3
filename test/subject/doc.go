// Package subject has what tests of the whole program share: the program, built as
// they need it, and the log of a process, which is read while it is written.
//
//	Build ──► kube-proxy ── runs in ──► a namespace of the test's
//	                                       │ stdout, stderr
//	                                       ▼
//	          Lines, String ◄─────────── Log
//
// Where and with which flags the program runs, and how it is ended, is each test's own:
// that is what they differ in.
package subject
