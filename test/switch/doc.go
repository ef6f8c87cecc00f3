// Package switching has the proxy change its mode on a node under load: one process
// ends, another is started with another --proxy-mode, and nothing may be lost that the
// kernel can keep, and nothing may be left that nobody keeps true any more.
//
//	fresh start of B ─► dump: what B makes of the node
//	                     │
//	start of A ─► load, streams ─► end of A, start of B ─► dump ═ the same? ─► cleanup
//	                │                 │                                          │
//	                └─ gaps ◄─────────┘                    dump ═ as before A? ◄─┘
//
// What becomes of established connections stands in docs/upgrade.md: its tables are read
// by the tests, which hold every cell.
package switching
