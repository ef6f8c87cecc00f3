package main

import (
	"slices"

	"switchyard/proxier"
)

// upstreamTable is the table in which upstream's nftables mode has everything, in each
// family. Upstream's other modes remove it at their start, too.
const upstreamTable = "kube-proxy"

// upstreamCanary is a chain by which upstream's iptables mode notices a flush.
const upstreamCanary = "KUBE-PROXY-CANARY"

// upstreamRelics are chains and rules that upstream's modes have and none of ours: the
// canaries of its iptables mode, and the firewall of its IPVS mode, which is in another
// table here.
func upstreamRelics() proxier.Claim {
	firewall := []string{"KUBE-SOURCE-RANGES-FIREWALL", "KUBE-IPVS-OUT-FILTER", "KUBE-PROXY-FIREWALL"}
	return proxier.Claim{
		Chain: func(table, name string) bool {
			return name == upstreamCanary || table == "filter" && slices.Contains(firewall, name)
		},
		Ways: []string{
			`filter -A INPUT -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL`,
			`filter -A FORWARD -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL`,
			`filter -A OUTPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-OUT-FILTER`,
		},
	}
}
