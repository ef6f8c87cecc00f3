package ipvs

import (
	"strings"

	"switchyard/ipvs/ipset"
	"switchyard/proxier"
)

// deviceName is the dummy device that has the addresses of services.
const deviceName = "kube-ipvs0"

// set is one of the sets that the rules look into, of one family.
type set uint8

// The sets. Where upstream has one its name and type are upstream's; the others are
// ours alone. Those from shortExternal on send packets to where a server and an
// address must stand already: they are filled last and emptied first.
const (
	ranges      set = iota // sources that may use a load balancer's address
	firewalled             // load balancers' addresses with source ranges
	dropped                // addresses that drop everybody's packets
	noLocal                // addresses that drop all but pods' and the node's packets
	hairpins               // endpoints as destination and source at once
	held                   // addresses on kube-ipvs0: what no service claims there is refused
	elsewhere              // addresses of services that another interface of the node has
	alternates             // where the node's and its pods' packets are mapped to
	clusterIPs             // ClusterIPs
	clusterMasq            // those of them whose packets are all masqueraded
	externalIPs            // external IPs
	balancers              // load balancers' addresses
	nodeAddrs              // the node's addresses at which node ports answer
	nodeTCP                // node ports
	nodeUDP
	nodeSCTP
	health        // health-check node ports
	shortExternal // external IPs with policy Local: the short way for pods and the node
	shortBalancer // the same of load balancers
	shortTCP      // the same of node ports
	shortUDP
	shortSCTP
	setCount // how many there are
)

// setNames are the sets' names behind "KUBE-", or "KUBE-6-".
var setNames = [setCount]string{
	ranges: "LOAD-BALANCER-SOURCE-CIDR", firewalled: "LOAD-BALANCER-FW",
	dropped: "DROP", noLocal: "NO-LOCAL-ENDPOINT",
	hairpins: "LOOP-BACK", held: "IPVS-IPS", elsewhere: "HELD-IPS", alternates: "SHORT-CIRCUIT",
	clusterIPs: "CLUSTER-IP", clusterMasq: "CLUSTER-IP-MASQ",
	externalIPs: "EXTERNAL-IP", balancers: "LOAD-BALANCER",
	nodeAddrs: "NODE-PORT-IPS", nodeTCP: "NODE-PORT-TCP", nodeUDP: "NODE-PORT-UDP", nodeSCTP: "NODE-PORT-SCTP-HASH",
	health:        "HEALTH-CHECK-NODE-PORT",
	shortExternal: "EXTERNAL-IP-LOCAL", shortBalancer: "LOAD-BALANCER-LOCAL",
	shortTCP: "NODE-PORT-LOCAL-TCP", shortUDP: "NODE-PORT-LOCAL-UDP", shortSCTP: "NODE-PORT-LOCAL-SCTP-HASH",
}

// maxSetName is the longest name of a set, in bytes (IPSET_MAXNAMELEN less the final
// zero); longer ones are cut, as upstream does.
const maxSetName = 31

func (s set) name(f proxier.Family) string {
	name := "KUBE-" + setNames[s]
	if f == proxier.IPv6 {
		name = "KUBE-6-" + setNames[s]
	}
	return name[:min(len(name), maxSetName)]
}

func (s set) kind() ipset.Type {
	switch s {
	case held, elsewhere, nodeAddrs:
		return ipset.HashIP
	case hairpins:
		return ipset.HashIPPortIP
	case ranges:
		return ipset.HashIPPortNet
	case nodeTCP, nodeUDP, shortTCP, shortUDP, health:
		return ipset.BitmapPort
	}
	return ipset.HashIPPort
}

// fields are what a rule compares with the set's entries.
func (s set) fields() string {
	switch s {
	case held, elsewhere, nodeAddrs, nodeTCP, nodeUDP, shortTCP, shortUDP, health:
		return "dst"
	case hairpins, ranges:
		return "dst,dst,src"
	}
	return "dst,dst"
}

// header is the set as it is created.
func (s set) header(f proxier.Family) ipset.Set {
	h := ipset.Set{Name: s.name(f), Type: s.kind(), Family: f, MaxElem: ipset.DefaultMaxElem}
	if h.Type == ipset.BitmapPort {
		h.Family, h.MaxElem = 0, 0
	}
	return h
}

// leads reports whether the set sends packets to a place of our own making.
func (s set) leads() bool { return s >= shortExternal }

// setByName finds a set of a family.
func setByName(name string, f proxier.Family) (set, bool) {
	if !strings.HasPrefix(name, "KUBE-") {
		return 0, false
	}
	for s := range setCount {
		if s.name(f) == name {
			return s, true
		}
	}
	return 0, false
}

// nodePortSets are the sets of a protocol's node ports: all, and those with a short
// way.
func nodePortSets(p proxier.Protocol) (all, short set) {
	switch p {
	case proxier.TCP:
		return nodeTCP, shortTCP
	case proxier.UDP:
		return nodeUDP, shortUDP
	}
	return nodeSCTP, shortSCTP
}

// member is an entry of one of the sets.
type member struct {
	set   set
	entry ipset.Entry
}
