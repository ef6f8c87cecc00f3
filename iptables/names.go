package iptables

import (
	"crypto/sha256"
	"encoding/base32"

	"switchyard/proxier"
)

// The chains that do not belong to one service. Names are upstream's, so the
// commands that people know keep working.
const (
	servicesChain         = "KUBE-SERVICES"
	nodePortsChain        = "KUBE-NODEPORTS"
	externalServicesChain = "KUBE-EXTERNAL-SERVICES"
	postroutingChain      = "KUBE-POSTROUTING"
	markMasqChain         = "KUBE-MARK-MASQ"
	forwardChain          = "KUBE-FORWARD"
	proxyFirewallChain    = "KUBE-PROXY-FIREWALL"
	kubeFirewallChain     = "KUBE-FIREWALL" // the kubelet's too: never flushed
)

// Ours alone: where the filter table's node-port rules are, so that they can be
// kept to the node-port addresses.
const externalNodePortsChain = "KUBE-EXTERNAL-NODEPORTS"

// Ours alone: the ways to the node ports, if there are many node-port addresses.
const addressesChain = "KUBE-NODE-ADDRESSES"

// Ours alone: what keeps others from the node's programs at addresses of services.
const heldChain = "KUBE-NODE-HELD"

// Prefixes of the chains that belong to one service port or endpoint. Behind
// them stands a hash of 16 characters.
const (
	servicePrefix  = "KUBE-SVC-" // any endpoint
	localPrefix    = "KUBE-SVL-" // an endpoint on this node
	externalPrefix = "KUBE-EXT-" // entry from outside
	firewallPrefix = "KUBE-FW-"  // source ranges
	endpointPrefix = "KUBE-SEP-" // one endpoint
	bypassPrefix   = "KUBE-XLB-" // what KUBE-EXT was to upstream before 1.24: only ever deleted

	// Clients that have an endpoint already, of a service with many endpoints.
	affinityPrefix      = "KUBE-AFF-"
	localAffinityPrefix = "KUBE-AFL-"
)

// hashOf is upstream's: the first 16 characters of the base32 of a SHA-256.
func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base32.StdEncoding.EncodeToString(sum[:10])
}

// serviceHash stands in the names of all chains of one service port.
func serviceHash(s *proxier.Service) string {
	return hashOf(s.Name.String() + s.Protocol.Lower())
}

// endpointChain names the chain of one endpoint. key is the service's name and
// lower-case protocol.
func endpointChain(key string, ep proxier.Endpoint) string {
	return endpointPrefix + hashOf(key+ep.Addr.String())
}
