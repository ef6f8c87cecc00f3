// Package report shows a run to people.
//
//	record.Run ─Summarize─► rows ─┬─ Print: tables for a terminal
//	                              ├─ Plot: a metric against the number of services, PNG and SVG
//	                              ├─ Markdown: a summary of several runs
//	                              └─ HTML: tables and plots in one file that needs nothing else
//
// Every value stands with its spread over the rounds and its ratio to the reference.
package report
