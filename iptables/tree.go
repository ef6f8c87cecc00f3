package iptables

import (
	"cmp"
	"slices"

	"switchyard/iptables/ruleset"
)

// A tree holds the entries of one root. Its shape is a function of the set of
// entries alone, so a restart builds the same chains, and one more service
// touches one leaf and what leads to it:
//
//	KUBE-SERVICES ─ 10.96.0.0/20 ─► KUBE-VIP-10.96.0.0/20 ─ 10.96.3.0/24 ─► KUBE-VIP-10.96.3.0/24
//	              ─ 10.96.16.0/20 ─► …                    ─ 10.96.4.7 tcp 80 ─► KUBE-SVC-…
//
// Nodes are never changed: add and remove copy the path to what they change, so
// two trees share all the rest, and their difference is found by comparing
// pointers.
const (
	flatEntries = 200 // a root with at most this many is a flat list
	leafEntries = 32  // any other node with at most this many is
	inlined     = 2   // a child with at most this many stands in its parent's chain

	// The nft flavour follows 15 jumps and refuses a ruleset with more. Ten of them
	// are for what is around a tree; whoever chooses addresses so that one grows
	// deeper gets a plain list at its end.
	maxDepth = 5
)

// node is a leaf, with entries in order, or has children.
type node struct {
	branch  key // the prefix that leads here: names the node's chain
	common  key // not a leaf: what all entries' keys begin with
	count   int
	height  uint8 // levels of nodes below this one
	entries []*slot
	kids    *[16]*node // nil: a leaf
}

// slot is an entry in a leaf. Several owners may hold the very same rule. Never
// changed once it is in a tree.
type slot struct {
	key  key
	rule ruleset.Rule
	refs int
}

func compareSlots(a, b *slot) int {
	return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.rule.Comment, b.rule.Comment),
		cmp.Compare(a.rule.Jump, b.rule.Jump))
}

// limit is how many entries a node may have and still be a flat list.
func (n *node) limit() int {
	if n.branch == "" {
		return flatEntries
	}
	return leafEntries
}

// measured is the node, whose children are new, with its height.
func (n *node) measured() *node {
	n.height = 0
	for _, kid := range n.kids {
		if kid != nil {
			n.height = max(n.height, kid.height+1)
		}
	}
	return n
}

// add returns the tree with one more entry; n may be nil for an empty root.
func (n *node) add(s slot) *node {
	if n == nil {
		n = &node{}
	}
	if n.kids == nil {
		return n.addToLeaf(s)
	}
	if m := commonLen(n.common, s.key); m < len(n.common) {
		return n.fork(m, s)
	}
	c := s.key[len(n.common)]
	next := *n
	next.kids = new([16]*node)
	*next.kids = *n.kids
	kid := n.kids[c]
	if kid == nil {
		kid = &node{branch: s.key[:len(n.common)+1]}
	}
	next.kids[c] = kid.add(s)
	next.count += next.kids[c].count - kid.count
	return next.measured()
}

func (n *node) addToLeaf(s slot) *node {
	next := *n
	at, found := slices.BinarySearchFunc(n.entries, &s, compareSlots)
	if found {
		s.refs += n.entries[at].refs
		next.entries = slices.Clone(n.entries)
		next.entries[at] = &s
		return &next
	}
	next.entries = slices.Concat(n.entries[:at], []*slot{&s}, n.entries[at:])
	next.count++
	return next.split()
}

// split turns a leaf that is too long into a node with children. Entries with
// the very same key cannot be split.
func (n *node) split() *node {
	if len(n.entries) <= n.limit() {
		return n
	}
	first, last := n.entries[0].key, n.entries[len(n.entries)-1].key
	m := commonLen(first, last)
	if m == len(first) {
		return n
	}
	next := &node{branch: n.branch, common: first[:m], count: n.count, kids: new([16]*node)}
	for i := 0; i < len(n.entries); {
		c := n.entries[i].key[m]
		j := i
		for j < len(n.entries) && n.entries[j].key[m] == c {
			j++
		}
		kid := &node{branch: first[:m] + key(c), count: j - i, entries: slices.Clone(n.entries[i:j])}
		next.kids[c] = kid.split()
		i = j
	}
	return next.measured()
}

// fork puts a node above this one, for an entry that lacks its common prefix.
func (n *node) fork(m int, s slot) *node {
	below := *n
	below.branch = n.common[:m+1]
	next := &node{branch: n.branch, common: n.common[:m], count: n.count + 1, kids: new([16]*node)}
	next.kids[n.common[m]] = &below
	next.kids[s.key[m]] = &node{branch: s.key[:m+1], count: 1, entries: []*slot{&s}}
	return next.measured()
}

// remove returns the tree with one entry less; what it does not hold is no
// matter.
func (n *node) remove(s slot) *node {
	if n == nil {
		return nil
	}
	if n.kids == nil {
		return n.removeFromLeaf(s)
	}
	if len(s.key) <= len(n.common) || s.key[:len(n.common)] != n.common {
		return n
	}
	c := s.key[len(n.common)]
	kid := n.kids[c]
	less := kid.remove(s)
	if less == kid {
		return n
	}
	next := *n
	next.kids = new([16]*node)
	*next.kids = *n.kids
	next.count += less.count - kid.count
	next.kids[c] = less
	if less.count == 0 {
		next.kids[c] = nil
	}
	return next.measured().join()
}

func (n *node) removeFromLeaf(s slot) *node {
	at, found := slices.BinarySearchFunc(n.entries, &s, compareSlots)
	if !found {
		return n
	}
	next := *n
	next.entries = slices.Clone(n.entries)
	if fewer := *n.entries[at]; fewer.refs > s.refs {
		fewer.refs -= s.refs
		next.entries[at] = &fewer
		return &next
	}
	next.entries = slices.Delete(next.entries, at, at+1)
	next.count--
	return &next
}

// join brings a node that lost an entry back to the shape that its set has.
func (n *node) join() *node {
	if n.count <= n.limit() {
		return &node{branch: n.branch, count: n.count, entries: n.gather(nil)}
	}
	var only *node
	for _, kid := range n.kids {
		if kid != nil && only != nil {
			return n
		}
		if kid != nil {
			only = kid
		}
	}
	joined := *only
	joined.branch = n.branch
	return &joined
}

func (n *node) gather(into []*slot) []*slot {
	into = append(into, n.entries...)
	if n.kids != nil {
		for _, kid := range n.kids {
			if kid != nil {
				into = kid.gather(into)
			}
		}
	}
	return into
}

func commonLen(a, b key) int {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return i
}

// at is a node at its depth below the root, which is at 0. The same node may move
// up or down without being changed.
type at struct {
	*node
	depth int
}

func (a at) kid(c int) at {
	if a.node == nil || a.kids == nil {
		return at{}
	}
	return at{a.kids[c], a.depth + 1}
}

// hasChain reports whether the node has a chain of its own: its parent may hold
// its few rules, and what is below maxDepth is drawn there.
func (a at) hasChain() bool {
	return a.node != nil && a.depth <= maxDepth && (a.branch == "" || a.count > inlined)
}

// flattened reports whether the node, although it has children, is drawn as a
// list.
func (a at) flattened() bool { return a.kids != nil && a.depth == maxDepth }

// drawnLike reports whether all chains of two nodes are the same because the nodes
// are.
func (a at) drawnLike(b at) bool {
	return a.node == b.node &&
		(a.node == nil || a.depth == b.depth || max(a.depth, b.depth)+int(a.height) <= maxDepth)
}

// difference walks two trees at once and calls gone for the nodes of a, and
// fresh for the nodes of b, that the other does not share. A child comes before
// its parent. Where the shapes differ it may name nodes whose chains are the
// same; never too few.
func difference(a, b at, gone, fresh func(at)) {
	switch {
	case a.drawnLike(b):
		return
	case a.node == nil || b.node == nil || a.kids == nil || b.kids == nil:
		b.each(fresh)
		a.each(gone)
		return
	}
	// The one whose common prefix is longer stands beside a child of the other.
	switch short := len(a.common) - len(b.common); {
	case short == 0:
		for c := range 16 {
			difference(a.kid(c), b.kid(c), gone, fresh)
		}
		fresh(b)
		gone(a)
	case short > 0:
		for c := range 16 {
			difference(a.only(c, a.common[len(b.common)]), b.kid(c), gone, fresh)
		}
		fresh(b)
	default:
		for c := range 16 {
			difference(a.kid(c), b.only(c, b.common[len(a.common)]), gone, fresh)
		}
		gone(a)
	}
}

// only is the node if c is the way that it is on.
func (a at) only(c int, way byte) at {
	if byte(c) != way {
		return at{}
	}
	return a
}

// each calls do for the node and all below it, children first.
func (a at) each(do func(at)) {
	if a.node == nil {
		return
	}
	for c := range 16 {
		a.kid(c).each(do)
	}
	do(a)
}
