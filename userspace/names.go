package userspace

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"

	"switchyard/proxier"
)

// The chains that do not belong to one service. The first four have the names that
// kube-proxy's userspace mode had; those of other modes are left alone.
const (
	portalsContainerChain  = "KUBE-PORTALS-CONTAINER" // nat, from PREROUTING
	portalsHostChain       = "KUBE-PORTALS-HOST"      // nat, from OUTPUT
	nodePortContainerChain = "KUBE-NODEPORT-CONTAINER"
	nodePortHostChain      = "KUBE-NODEPORT-HOST"

	portalsChain   = "KUBE-PORTALS"        // addresses of services
	nodePortChain  = "KUBE-NODEPORT"       // node ports, behind the addresses that have them
	addressesChain = "KUBE-NODEPORT-ADDRS" // the addresses that have node ports
	heldChain      = "KUBE-PORTALS-HELD"   // refuses others at addresses of services that the node holds
	relayChain     = "KUBE-RELAY"          // nat: to the relay; filter: may come in
)

// Prefixes of the chains that are parts of long lists, and of those that belong to
// one frontend, behind which stands a hash of 16 characters.
const (
	portalPrefix   = "KUBE-PORTAL-"   // part of KUBE-PORTALS
	nodePortPrefix = "KUBE-NODEPORT-" // part of KUBE-NODEPORT
	allowPrefix    = "KUBE-ALLOW-"    // sources that may connect
	fromPrefix     = "KUBE-FROM-"     // classes of sources, behind KUBE-ALLOW
)

// owns reports whether a chain of the kernel is ours.
func owns(table, name string) bool {
	if table != "nat" && table != "filter" {
		return false
	}
	if name == portalsChain || name == nodePortChain || name == relayChain {
		return true
	}
	for _, prefix := range []string{"KUBE-PORTALS-", portalPrefix, nodePortPrefix, allowPrefix, fromPrefix} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// hashOf is the form in which kube-proxy's chains are named: the first 16
// characters of the base32 of a SHA-256.
func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base32.StdEncoding.EncodeToString(sum[:10])
}

// frontendHash stands in the names of the chains of one frontend.
func frontendHash(s *proxier.Service, f *proxier.Frontend) string {
	return hashOf(s.Name.String() + s.Protocol.Lower() + f.Address())
}
