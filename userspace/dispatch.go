package userspace

import (
	"cmp"
	"hash/fnv"
	"net/netip"
	"slices"
	"sort"
	"strconv"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// root is a chain that finds the rules for a packet by its destination.
type root uint8

// The roots.
const (
	natPortals      root = iota // addresses that go to the relay
	natNodePorts                // node ports that do
	filterPortals               // addresses that refuse, for some source
	filterNodePorts             // node ports that do, and health-check ports
	roots                       // how many there are
)

// addressRoot is the root of a frontend's table, given that of addresses.
func addressRoot(r root, f *proxier.Frontend) root {
	if f.Kind == proxier.NodePort {
		return r + 1
	}
	return r
}

func (r root) table() string {
	if r == natPortals || r == natNodePorts {
		return "nat"
	}
	return "filter"
}

// chain is the root's own chain, and how those below it are named.
func (r root) chain() (name, prefix string) {
	if r == natPortals || r == filterPortals {
		return portalsChain, portalPrefix
	}
	return nodePortChain, nodePortPrefix
}

// addrNibbles is the length of the addresses in the root's keys.
func (r root) addrNibbles(f proxier.Family) int {
	if r == natPortals || r == filterPortals {
		return f.Bits() / 4
	}
	return 0
}

// tail is what stands behind the entries in the root's own chain.
func (r root) tail() []ruleset.Rule {
	if r == filterPortals {
		return []ruleset.Rule{{Jump: addressesChain}}
	}
	return nil
}

// entry is one rule of a root, found by its key. Never changed once made.
type entry struct {
	root  root
	key   key
	order int // among those of the same key
	rule  ruleset.Rule
}

func compareEntries(a, b *entry) int {
	return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.order, b.order),
		cmp.Compare(a.rule.Comment, b.rule.Comment), cmp.Compare(a.rule.Jump, b.rule.Jump))
}

// key is a destination in nibbles, high ones first: the address (8 or 32; none for
// a node port), the protocol (1), the port (4). A prefix of a key is a set of
// destinations that one rule can match.
type key string

var protocols = [...]proxier.Protocol{proxier.TCP, proxier.UDP, proxier.SCTP}

func keyOf(addr netip.Addr, protocol proxier.Protocol, port uint16) key {
	var k []byte
	for _, b := range addr.AsSlice() {
		k = append(k, b>>4, b&15)
	}
	k = append(k, byte(slices.Index(protocols[:], protocol)))
	return key(append(k, byte(port>>12), byte(port>>8&15), byte(port>>4&15), byte(port&15)))
}

// Sizes of the tree. The nft flavour follows 15 jumps at most; around a tree there
// are eight.
const (
	flatEntries = 200 // a root with at most this many is a flat list
	leafEntries = 64  // any other chain with at most this many is
	inlined     = 2   // a child with at most this many stands in its parent's chain
	maxDepth    = 5   // whoever makes a tree grow deeper gets pages at its end
)

// node is a chain of a root's tree: the entries, sorted, whose keys have a prefix.
// The shape of a tree is a function of its entries alone.
type node struct {
	entries []*entry
	prefix  key
	depth   int
}

// common is how many nibbles all keys have in common.
func (n node) common() int {
	a, b := n.entries[0].key, n.entries[len(n.entries)-1].key
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	return i
}

// splits reports whether the node has children, and at which nibble they differ.
func (n node) splits() (at int, ok bool) {
	limit := leafEntries
	if n.depth == 0 {
		limit = flatEntries
	}
	if len(n.entries) <= limit || n.depth == maxDepth {
		return 0, false
	}
	at = n.common()
	return at, at < len(n.entries[0].key)
}

// kid is the child whose keys have c at the nibble where the node splits.
func (n node) kid(at int, c byte) node {
	lo := sort.Search(len(n.entries), func(i int) bool { return n.entries[i].key[at] >= c })
	hi := lo + sort.Search(len(n.entries)-lo, func(i int) bool { return n.entries[lo+i].key[at] > c })
	kid := node{entries: n.entries[lo:hi], depth: n.depth + 1}
	if hi > lo {
		kid.prefix = n.entries[lo].key[:at+1]
	}
	return kid
}

// hasChain reports whether the node has a chain of its own.
func (n node) hasChain() bool { return n.depth == 0 || len(n.entries) > inlined }

// drawer draws the chains of one root.
type drawer struct {
	root    root
	nibbles int // of the addresses in its keys
}

// each calls do for all chains of a node, those that others lead to first.
func (d drawer) each(n node, do func(ruleset.Chain)) {
	if at, ok := n.splits(); ok {
		for c := range byte(16) {
			if kid := n.kid(at, c); kid.hasChain() {
				d.each(kid, do)
			}
		}
	}
	if n.hasChain() {
		d.own(n, do)
	}
}

// own calls do for the node's own chain, after its pages.
func (d drawer) own(n node, do func(ruleset.Chain)) {
	c := ruleset.Chain{Name: d.name(n.prefix)}
	if at, ok := n.splits(); ok {
		for nibble := range byte(16) {
			c.Rules = append(c.Rules, d.ways(n.kid(at, nibble))...)
		}
	} else {
		for i, page := range keyPages(n.entries) {
			if len(page) == len(n.entries) {
				c.Rules = rulesOf(page)
				break
			}
			name := pageName(c.Name, i+1)
			do(ruleset.Chain{Name: name, Rules: rulesOf(page)})
			c.Rules = append(c.Rules, ruleset.Rule{Jump: name})
		}
	}
	if n.depth == 0 {
		c.Rules = append(c.Rules, d.root.tail()...)
	}
	do(c)
}

func (d drawer) ways(kid node) []ruleset.Rule {
	if !kid.hasChain() {
		return rulesOf(kid.entries)
	}
	way := d.match(kid.prefix)
	way.Jump = d.name(kid.prefix)
	return []ruleset.Rule{way}
}

// rulesOf are the rules of entries; one that several services want stands once.
func rulesOf(entries []*entry) []ruleset.Rule {
	rules := make([]ruleset.Rule, len(entries))
	for i, e := range entries {
		rules[i] = e.rule
	}
	return slices.Compact(rules)
}

// keyPages deals a long list out by a hash of the key, so that one more entry
// changes one page. No packet meets more than one key's rules, so only the order
// within a key counts.
func keyPages(entries []*entry) [][]*entry {
	n := 1
	for len(entries) > pageRules && n*pageRules < 3*len(entries) {
		n *= 2 // a third full on the average: none is too full by any odds
	}
	pages := make([][]*entry, n)
	for _, e := range entries {
		h := fnv.New32a()
		h.Write([]byte(e.key))
		i := h.Sum32() % uint32(n)
		pages[i] = append(pages[i], e)
	}
	return pages
}

// match is the rule that matches what a prefix of a key stands for.
func (d drawer) match(prefix key) ruleset.Rule {
	var r ruleset.Rule
	n := min(len(prefix), d.nibbles)
	if n > 0 {
		r.Dst = ruleset.NetOf(d.addrs(prefix[:n]))
	}
	rest := prefix[n:]
	if len(rest) == 0 {
		return r
	}
	r.Proto, rest = protocols[rest[0]], rest[1:]
	if len(rest) == 0 {
		return r
	}
	var from uint16
	for i := range 4 {
		from <<= 4
		if i < len(rest) {
			from |= uint16(rest[i])
		}
	}
	r.Ports = ruleset.Ports{From: from, To: from | uint16(0xffff>>(4*len(rest)))}
	return r
}

// addrs is the range of addresses that begin with some nibbles.
func (d drawer) addrs(nibbles key) netip.Prefix {
	b := make([]byte, d.nibbles/2)
	for i := range len(nibbles) {
		b[i/2] |= nibbles[i] << (4 * (1 - i%2))
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, 4*len(nibbles))
}

// name names the chain of a prefix: readable where the kernel's limit leaves room
// (KUBE-PORTAL-10.96.16.0/20), else by a hash.
func (d drawer) name(prefix key) string {
	chain, behind := d.root.chain()
	if prefix == "" {
		return chain
	}
	var name string
	switch set := d.match(prefix); {
	case len(prefix) <= d.nibbles:
		name = d.addrs(prefix).String()
	case d.nibbles == 0 && set.Ports != (ruleset.Ports{}):
		name = set.Proto.Lower() + "-" + strconv.Itoa(int(set.Ports.From)) + "-" + strconv.Itoa(len(prefix)-1)
	case d.nibbles == 0:
		name = set.Proto.Lower()
	}
	if room := ruleset.MaxChainName - len(behind); name == "" || len(name) > room {
		name = hashOf(chain + string(prefix))[:min(16, room)]
	}
	return behind + name
}

// difference walks two trees at once, which differ in the keys of changed (sorted),
// and calls gone and fresh for the chains that the one or the other may have alone
// or otherwise. What no changed key is in is left out where the shapes are the same.
func (d drawer) difference(was, is node, changed []key, gone func(string), fresh func(ruleset.Chain)) {
	at, split := was.splits()
	to, splits := is.splits()
	if !split || !splits || at != to || was.prefix != is.prefix || was.entries[0].key[:at] != is.entries[0].key[:at] {
		if was.hasChain() {
			d.each(was, func(c ruleset.Chain) { gone(c.Name) })
		}
		if is.hasChain() {
			d.each(is, fresh)
		}
		return
	}
	for len(changed) > 0 {
		c := changed[0][at]
		n := sort.Search(len(changed), func(i int) bool { return changed[i][at] > c })
		d.difference(was.kid(at, c), is.kid(at, c), changed[:n], gone, fresh)
		changed = changed[n:]
	}
	d.own(is, fresh)
}
