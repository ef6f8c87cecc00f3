// Package contest is who takes part in a benchmark, and what each of them uses up.
//
//	"upstream=/path/kube-proxy,mode=iptables,tables=legacy"
//	      │ Parse
//	      ▼
//	 Contestant ──Open(Stage)──► Runner ──Start──► in sync? ── the measures ask from outside
//	      │                        │
//	      │  Proxy: a program      ├─ CPU, RSS: its cgroup, with all its children
//	      │  Floor: the bare kernel│
//	      └  Direct: nobody        └─ Stop
//
// A Proxy is any program that takes upstream kube-proxy's configuration file; ours
// is not treated otherwise. It runs on the street's node, in a cgroup of its own, and
// finds the iptables programs of the flavour that it is to use first in PATH. What
// it used is read from the cgroup (CPU) and from the processes in it (memory), so
// the programs that it starts count as its own.
package contest
