// Package ruleset is the iptables dialect as values.
//
//	Rule, Chain ──Append──► text ──Tool.Restore──► kernel
//	     ▲                                            │
//	     └────────Scan──────── text ◄──Tool.Save──────┘
//	     │
//	     └──Tables.Trace──► what would happen to this packet
//
// A [Rule] is a comparable value that prints in exactly the form in which
// iptables-save prints it back, so a chain that stands in the kernel and a chain
// that we want are compared by the hash of their text, and Scan(Append(r)) == r.
// What the dialect does not know (rules of others) is kept word for word.
//
// The values are pure. tool.go, flavour.go, restore.go, jumps.go, stamp.go and
// prints.go are the only door to the iptables programs and the kernel behind them.
package ruleset
