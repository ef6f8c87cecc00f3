package iptables

import (
	"hash/fnv"
	"net/netip"
	"strconv"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// root is a chain that finds the rule for a packet by its destination.
type root uint8

// The roots. Each is the flat list that people know while it is short; past
// that its entries move into a tree of chains (tree.go). A root whose last rules
// lead to another comes after that one.
const (
	natNodePorts    root = iota // nat KUBE-NODEPORTS: node ports that forward
	natServices                 // nat KUBE-SERVICES: addresses that forward
	filterNodePorts             // filter KUBE-EXTERNAL-NODEPORTS: node ports that reject or drop
	filterExternal              // filter KUBE-EXTERNAL-SERVICES: the same for addresses
	filterServices              // filter KUBE-SERVICES: the same for ClusterIPs
	filterFirewall              // filter KUBE-PROXY-FIREWALL: sources that are not allowed
	filterHealth                // filter KUBE-NODEPORTS: health-check ports to accept
	roots                       // how many there are
)

// place is where a root stands, and how the chains below it are named.
type place struct {
	table, chain string
	prefix       string // of the names of its tree's chains
}

func (r root) place() place {
	switch r {
	case natNodePorts:
		return place{"nat", nodePortsChain, "KUBE-NP-"}
	case natServices:
		return place{"nat", servicesChain, "KUBE-VIP-"}
	case filterNodePorts:
		return place{"filter", externalNodePortsChain, "KUBE-XNP-"}
	case filterExternal:
		return place{"filter", externalServicesChain, "KUBE-XIP-"}
	case filterServices:
		return place{"filter", servicesChain, "KUBE-VIP-"}
	case filterFirewall:
		return place{"filter", proxyFirewallChain, "KUBE-PFW-"}
	}
	return place{"filter", nodePortsChain, "KUBE-HNP-"}
}

// addrNibbles is the length of the addresses in the root's keys, in nibbles.
func (r root) addrNibbles(f proxier.Family) int {
	switch r {
	case natNodePorts, filterNodePorts, filterHealth:
		return 0
	}
	return f.Bits() / 4
}

// entry is one rule of a root, found by its key.
type entry struct {
	root root
	key  key
	rule ruleset.Rule
}

// key is a destination in nibbles, high ones first: the address (8 or 32; none
// for a node port), the protocol (1), the port (4). Keys of one root sort by
// address, protocol and port, and a prefix of a key is a set of destinations that
// one rule can match.
type key string

const (
	protocolNibbles = 1
	portNibbles     = 4
)

func keyOf(addr netip.Addr, protocol proxier.Protocol, port uint16) key {
	var buf [32 + protocolNibbles + portNibbles]byte
	k := buf[:0]
	for _, b := range addr.AsSlice() {
		k = append(k, b>>4, b&15)
	}
	k = append(k, protocolNibble(protocol))
	return key(append(k, byte(port>>12), byte(port>>8&15), byte(port>>4&15), byte(port&15)))
}

func protocolNibble(p proxier.Protocol) byte {
	switch p {
	case proxier.TCP:
		return 0
	case proxier.UDP:
		return 1
	}
	return 2
}

func nibbleProtocol(n byte) proxier.Protocol {
	return [3]proxier.Protocol{proxier.TCP, proxier.UDP, proxier.SCTP}[n]
}

// set is what a prefix of a key stands for.
type set struct {
	addrs    netip.Prefix // invalid for node ports
	protocol proxier.Protocol
	ports    ruleset.Ports
}

// setOf reads a prefix of a key whose address has addrNibbles.
func setOf(prefix key, addrNibbles int) set {
	var s set
	n := min(len(prefix), addrNibbles)
	if addrNibbles > 0 {
		s.addrs = netip.PrefixFrom(addrOf(prefix[:n], addrNibbles), 4*n)
	}
	rest := prefix[n:]
	if len(rest) == 0 {
		return s
	}
	s.protocol, rest = nibbleProtocol(rest[0]), rest[protocolNibbles:]
	if len(rest) == 0 {
		return s
	}
	var from uint16
	for i := range portNibbles {
		from <<= 4
		if i < len(rest) {
			from |= uint16(rest[i])
		}
	}
	s.ports = ruleset.Ports{From: from, To: from | uint16(0xffff>>(4*len(rest)))}
	return s
}

func addrOf(nibbles key, addrNibbles int) netip.Addr {
	var b [16]byte
	for i := range len(nibbles) {
		b[i/2] |= nibbles[i] << (4 * (1 - i%2))
	}
	a, _ := netip.AddrFromSlice(b[:addrNibbles/2])
	return a
}

// match is the rule that matches the set.
func (s set) match() ruleset.Rule {
	r := ruleset.Rule{Proto: s.protocol}
	if s.addrs.IsValid() && s.addrs.Bits() > 0 {
		r.Dst = ruleset.NetOf(s.addrs)
	}
	if s.protocol != 0 {
		r.Ports = s.ports
	}
	return r
}

// drawer makes the chains of one root's tree.
type drawer struct {
	place
	nibbles int            // of the addresses in its keys
	tail    []ruleset.Rule // behind the entries of the root itself
}

// name names a node's chain: readable where the kernel's limit leaves room
// (KUBE-VIP-10.96.16.0/20, KUBE-NP-tcp-30720:30975), else a hash.
func (d *drawer) name(n at) string {
	if n.branch == "" {
		return d.place.chain
	}
	s := setOf(n.branch, d.nibbles)
	var name string
	switch {
	case d.nibbles == 0 && s.ports != (ruleset.Ports{}):
		name = s.protocol.Lower() + "-" + strconv.Itoa(int(s.ports.From)) + ":" + strconv.Itoa(int(s.ports.To))
	case d.nibbles == 0:
		name = s.protocol.Lower()
	case s.protocol == 0:
		name = s.addrs.String()
	}
	if name == "" || len(d.prefix)+len(name) > ruleset.MaxChainName {
		name = hashOf(d.table + d.place.chain + string(n.branch))
	}
	return d.prefix + name
}

// names are the names of a node's chains: one, and its pages'.
func (d *drawer) names(n at) []string {
	names := []string{d.name(n)}
	if n.flattened() {
		for i := range keyPages(n.gather(nil)) {
			names = append(names, d.page(n, i))
		}
	}
	return names
}

// page names a page of a flattened node.
func (d *drawer) page(n at, i int) string {
	return d.prefix + hashOf(d.name(n)+" page "+strconv.Itoa(i))
}

// chains are a node's chains: its entries, or the ways to its children's chains. A
// flattened node that is long has pages; its own chain comes last.
func (d *drawer) chains(n at) []ruleset.Chain {
	c := ruleset.Chain{Name: d.name(n)}
	var out []ruleset.Chain
	switch {
	case n.flattened():
		slots := n.gather(nil)
		for i, page := range keyPages(slots) {
			out = append(out, ruleset.Chain{Name: d.page(n, i), Rules: slotRules(page)})
			c.Rules = append(c.Rules, ruleset.Rule{Jump: d.page(n, i)})
		}
		if len(out) == 0 {
			c.Rules = slotRules(slots)
		}
	default:
		c.Rules = slotRules(n.entries)
		for i := range 16 {
			c.Rules = append(c.Rules, d.ways(n.kid(i))...)
		}
	}
	if n.branch == "" {
		c.Rules = append(c.Rules, d.tail...)
	}
	return append(out, c)
}

// keyPages deals a long list out to pages by a hash of the key, so that one more
// entry changes one page; a list that fits a chain has none. No packet meets more
// than one key's rules, so only the order within a key counts.
func keyPages(slots []*slot) [][]*slot {
	if len(slots) <= pageRules {
		return nil
	}
	for n := 2; ; n *= 2 {
		if n*pageRules < 2*len(slots) {
			continue
		}
		pages, longest := make([][]*slot, n), 0
		for _, s := range slots {
			h := fnv.New32a()
			h.Write([]byte(s.key))
			i := h.Sum32() % uint32(n)
			pages[i] = append(pages[i], s)
			longest = max(longest, len(pages[i]))
		}
		if longest <= pageRules || n >= pageRules {
			return pages
		}
	}
}

func (d *drawer) ways(kid at) []ruleset.Rule {
	if kid.node == nil {
		return nil
	}
	if kid.hasChain() {
		way := setOf(kid.branch, d.nibbles).match()
		way.Jump = d.name(kid)
		return []ruleset.Rule{way}
	}
	return slotRules(kid.gather(nil))
}

func slotRules(slots []*slot) []ruleset.Rule {
	rules := make([]ruleset.Rule, len(slots))
	for i, s := range slots {
		rules[i] = s.rule
	}
	return rules
}
