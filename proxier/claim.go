package proxier

// Claim is what of the packet filter's tables goes by a backend's names. Two backends
// may have the same name for a chain: the one that runs owns it.
type Claim struct {
	// Chain reports whether a chain's name is one of the backend's; nil: none is.
	Chain func(table, name string) bool
	// Ways are the rules that the backend may put into chains that are not its own, as
	// iptables-save prints them, behind the name of their table:
	// "nat -A PREROUTING … -j KUBE-SERVICES".
	Ways []string
}

// Filterer is a Backend whose rules stand in one of the two sets of tables that the
// kernel may have for iptables.
type Filterer interface {
	// Flavour is "nft" or "legacy", "" if it is not known.
	Flavour() string
}
