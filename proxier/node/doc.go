// Package node knows the machine that the proxy runs on, so that nobody else
// has to: its addresses, which of them answer a NodePort, which packets are a
// pod's, and its sysctls.
//
//	nodePortAddresses ──ParseSelection──► Selection ─┐
//	flags, config file ──────────────────► Options ──┤
//	the Node of the API ─────────────────────────────┼─Describe─► proxier.Node
//	kernel ──Addresses──► every local address ───────┘             (in a State)
//	       ──WatchAddresses──► "look again"
//	/proc/sys ◄─SetSysctl── EnableRouteLocalnet
//
// ParseSelection and Describe are pure; kernel.go alone makes system calls. An
// address that comes or goes is a new list, hence a new proxier.Node, hence an
// ordinary change of State: no backend follows addresses itself.
//
// Nothing here fails open. A choice of node-port addresses that matches no
// address of a family means that no NodePort answers in that family.
package node
