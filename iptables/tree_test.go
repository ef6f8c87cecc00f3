package iptables

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// maxChain is how many rules a packet may have to be compared with in one chain.
const maxChain = 256

// keySet is a sort of destinations; its n-th ones are all different.
type keySet struct {
	name   string
	root   root
	family proxier.Family
	max    int // how many it has
	nth    func(i int, rng *rand.Rand) (netip.Addr, proxier.Protocol, uint16)
}

var keySets = []keySet{
	{"random", natServices, 4, 1 << 30, func(i int, rng *rand.Rand) (netip.Addr, proxier.Protocol, uint16) {
		v := rng.Uint32()
		return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(i >> 8), byte(i)}), proxier.TCP, uint16(v)
	}},
	{"one address, ports of three protocols", filterExternal, 4, 12000, func(i int, _ *rand.Rand) (netip.Addr, proxier.Protocol, uint16) {
		return netip.MustParseAddr("198.51.100.1"), nibbleProtocol(byte(i % 3)), uint16(1000 + i/3)
	}},
	{"consecutive addresses", natServices, 4, 1 << 16, func(i int, _ *rand.Rand) (netip.Addr, proxier.Protocol, uint16) {
		return netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), proxier.TCP, 443
	}},
	{"one /24, many ports", filterServices, 4, 1 << 16, func(i int, _ *rand.Rand) (netip.Addr, proxier.Protocol, uint16) {
		return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), proxier.UDP, uint16(8000 + i>>8)
	}},
	// Chosen by somebody who wants the tree deep: at every nibble of one address
	// something else branches off.
	{"deep", natServices, 4, 1 << 14, func(i int, _ *rand.Rand) (netip.Addr, proxier.Protocol, uint16) {
		b := [4]byte{10, 11, 12, 13}
		if i%8 < 7 {
			b[i%8/2] ^= byte(1 + i/8%15<<(4*(1-i%8%2)))
		}
		return netip.AddrFrom4(b), proxier.TCP, uint16(1 + i*5)
	}},
	{"IPv6, deep", natServices, 6, 1 << 14, func(i int, _ *rand.Rand) (netip.Addr, proxier.Protocol, uint16) {
		b := netip.MustParseAddr("2001:db8:1234:5678:9abc:def0:1234:5678").As16()
		if i%32 < 31 {
			b[i%32/2] ^= byte(1 + i/32%15<<(4*(1-i%32%2)))
		}
		return netip.AddrFrom16(b), proxier.TCP, uint16(1 + i*5)
	}},
	{"IPv6, consecutive", natServices, 6, 1 << 16, func(i int, _ *rand.Rand) (netip.Addr, proxier.Protocol, uint16) {
		return v6("fd00:172:30::", i), proxier.TCP, 80
	}},
	{"IPv6, one address", filterFirewall, 6, 60000, func(i int, _ *rand.Rand) (netip.Addr, proxier.Protocol, uint16) {
		return v6("2001:db8::", 1), proxier.SCTP, uint16(i + 1)
	}},
	{"node ports of three protocols", natNodePorts, 4, 3 * 2768, func(i int, _ *rand.Rand) (netip.Addr, proxier.Protocol, uint16) {
		return netip.Addr{}, nibbleProtocol(byte(i % 3)), uint16(30000 + i/3)
	}},
	{"health-check ports", filterHealth, 4, 2768, func(i int, _ *rand.Rand) (netip.Addr, proxier.Protocol, uint16) {
		return netip.Addr{}, proxier.TCP, uint16(30000 + i)
	}},
}

func v6(prefix string, i int) netip.Addr {
	b := netip.MustParseAddr(prefix).As16()
	b[13], b[14], b[15] = byte(i>>16), byte(i>>8), byte(i)
	return netip.AddrFrom16(b)
}

// slot is the i-th destination with a rule that says which it is.
func (s keySet) slot(i int, rng *rand.Rand) slot {
	addr, protocol, port := s.nth(i, rng)
	rule := ruleset.Rule{Proto: protocol, Ports: ruleset.Port(port), Comment: fmt.Sprint("number ", i), Jump: "DROP"}
	if addr.IsValid() {
		rule.Dst = ruleset.Host(addr)
	}
	return slot{keyOf(addr, protocol, port), rule, 1}
}

func (s keySet) slots(n int, rng *rand.Rand) []slot {
	var out []slot
	for i := range min(n, s.max) {
		out = append(out, s.slot(i, rng))
	}
	return out
}

func (s keySet) drawer() drawer {
	return drawer{place: s.root.place(), nibbles: s.root.addrNibbles(s.family)}
}

// chains are all chains of a tree. It fails the test where two have one name.
func (s keySet) chains(t *testing.T, n *node) map[string]ruleset.Chain {
	t.Helper()
	out := map[string]ruleset.Chain{}
	d := s.drawer()
	at{node: n}.each(func(n at) {
		if !n.hasChain() {
			return
		}
		for i, c := range d.chains(n) {
			if _, twice := out[c.Name]; twice {
				t.Errorf("%s: two chains %s", s.name, c.Name)
			}
			if !slices.Contains(d.names(n), c.Name) {
				t.Errorf("%s: chain %d, %s, is not among its node's names", s.name, i, c.Name)
			}
			out[c.Name] = c
		}
	})
	return out
}

func grown(slots []slot) *node {
	n := &node{}
	for _, s := range slots {
		n = n.add(s)
	}
	return n
}

// eachTree runs a test for every sort of destinations and every size.
func eachTree(t *testing.T, sizes []int, test func(*testing.T, keySet, []slot, *rand.Rand)) {
	for _, s := range keySets {
		for _, n := range sizes {
			t.Run(fmt.Sprintf("%s %d", s.name, n), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(uint64(n), 7))
				test(t, s, s.slots(n, rng), rng)
			})
		}
	}
}

var treeSizes = []int{10, 200, 201, 1000, 10000}

// A restart builds the chains anew; they must be those that stand.
func TestTreeIsAFunctionOfItsSet(t *testing.T) {
	eachTree(t, []int{3, 33, 200, 201, 1000}, func(t *testing.T, s keySet, slots []slot, rng *rand.Rand) {
		n, set := &node{}, map[key]int{}
		for range 6 * len(slots) {
			one := slots[rng.IntN(len(slots))]
			if rng.IntN(2) == 0 {
				n, set[one.key] = n.add(one), set[one.key]+1
			} else {
				n, set[one.key] = n.remove(one), max(0, set[one.key]-1)
			}
			if rng.IntN(len(slots)) == 0 {
				s.sameAsFresh(t, n, slots, set)
			}
		}
		s.sameAsFresh(t, n, slots, set)
		for _, one := range slots { // and to nothing
			for ; set[one.key] > 0; set[one.key]-- {
				n = n.remove(one)
			}
			n = n.remove(one)
		}
		s.sameAsFresh(t, n, slots, set)
	})
}

// Where all but one branch of a node goes, what is left takes the node's place.
func TestLastBranchTakesItsParentsPlace(t *testing.T) {
	s := keySet{name: "10.96 and others", root: natServices, family: proxier.IPv4}
	var near, far []slot
	for i := range 250 {
		near = append(near, plainSlot(netip.AddrFrom4([4]byte{10, 96, byte(i % 4), byte(i)})))
	}
	for _, addr := range []string{"10.97.0.1", "10.96.128.1", "192.0.2.1", "10.96.16.0"} {
		far = append(far, plainSlot(netip.MustParseAddr(addr)))
	}
	for range 50 {
		rand.Shuffle(len(far), func(i, j int) { far[i], far[j] = far[j], far[i] })
		n, left := grown(append(slices.Clip(near), far...)), map[key]int{}
		for _, one := range append(slices.Clip(near), far...) {
			left[one.key] = 1
		}
		for _, one := range far {
			n, left[one.key] = n.remove(one), 0
			s.sameAsFresh(t, n, append(slices.Clip(near), far...), left)
		}
	}
}

func plainSlot(addr netip.Addr) slot {
	return slot{keyOf(addr, proxier.TCP, 80), ruleset.Rule{Dst: ruleset.Host(addr), Proto: proxier.TCP, Ports: ruleset.Port(80), Jump: "DROP"}, 1}
}

// sameAsFresh compares a tree with one built of the set at once, in sorted order.
func (s keySet) sameAsFresh(t *testing.T, n *node, slots []slot, set map[key]int) {
	t.Helper()
	fresh, count := &node{}, 0
	for _, one := range slots {
		if set[one.key] > 0 {
			one.refs = set[one.key]
			fresh, count = fresh.add(one), count+1
		}
	}
	if n.count != count {
		t.Fatalf("counts %d entries, has %d", n.count, count)
	}
	got, want := s.chains(t, n), s.chains(t, fresh)
	if !maps.EqualFunc(got, want, sameChain) {
		t.Fatalf("%d entries: %d chains, a fresh tree has %d, or other ones", count, len(got), len(want))
	}
}

func sameChain(a, b ruleset.Chain) bool { return slices.Equal(a.Rules, b.Rules) }

func TestNoChainOfATreeIsLong(t *testing.T) {
	eachTree(t, treeSizes, func(t *testing.T, s keySet, slots []slot, _ *rand.Rand) {
		longest := 0
		for name, c := range s.chains(t, grown(slots)) {
			longest = max(longest, len(c.Rules))
			if len(c.Rules) > maxChain-inlineWays {
				t.Errorf("%s has %d rules", name, len(c.Rules))
			}
			if len(name) > ruleset.MaxChainName {
				t.Errorf("%s has %d bytes", name, len(name))
			}
		}
		t.Logf("longest chain: %d rules", longest)
	})
}

// What one more entry rewrites: the chain it is in and what leads there. Where it
// makes a list too long the entries move into chains of their own, of three or more
// each.
const (
	usualRewriteChains = 4
	maxRewriteChains   = 2 + (leafEntries+1)/(inlined+1)
	maxRewriteLines    = 300
)

func TestOneMoreEntryChangesFewChains(t *testing.T) {
	eachTree(t, treeSizes, func(t *testing.T, s keySet, slots []slot, rng *rand.Rand) {
		all := grown(slots)
		had := s.chains(t, all)
		var chains, lines []int
		for range 6 {
			less := s.chains(t, all.remove(slots[rng.IntN(len(slots))]))
			removed, l := rewritten(had, less)
			added, l2 := rewritten(less, had)
			chains, lines = append(chains, removed, added), append(lines, l, l2)
		}
		slices.Sort(chains)
		slices.Sort(lines)
		if all.height > maxDepth { // the pages of a flattened node may double
			chains, lines = chains[:len(chains)*3/4+1], lines[:len(lines)*3/4+1]
		}
		if most := lines[len(lines)-1]; most > maxRewriteLines {
			t.Errorf("one entry rewrites %d lines, at most %d", most, maxRewriteLines)
		}
		if len(slots) == flatEntries+1 { // a flat list becomes a tree
			return
		}
		if usual, most := chains[len(chains)*3/4], chains[len(chains)-1]; usual > usualRewriteChains || most > maxRewriteChains {
			t.Errorf("one entry rewrites %v chains", chains)
		}
	})
}

// rewritten counts the chains of next that last does not have so, and their rules.
func rewritten(last, next map[string]ruleset.Chain) (chains, lines int) {
	for name, c := range next {
		if was, ok := last[name]; !ok || !sameChain(was, c) {
			chains, lines = chains+1, lines+len(c.Rules)
		}
	}
	return chains, lines
}

// What the difference of two trees names as gone is deleted, then what it names
// as fresh is written: that must make the one's chains of the other's.
func TestDifferenceOfTreesIsWhole(t *testing.T) {
	eachTree(t, []int{5, 60, 201, 1000}, func(t *testing.T, s keySet, slots []slot, rng *rand.Rand) {
		for range 10 {
			a, b := s.subset(slots, rng), s.subset(slots, rng)
			if rng.IntN(2) == 0 { // most steps are small
				b = a
				for range 1 + rng.IntN(8) {
					one := slots[rng.IntN(len(slots))]
					b = b.add(one).remove(slots[rng.IntN(len(slots))])
				}
			}
			s.checkDifference(t, a, b)
		}
	})
}

func (s keySet) subset(slots []slot, rng *rand.Rand) *node {
	n, share := &node{}, rng.IntN(101)
	for _, one := range slots {
		if rng.IntN(100) < share {
			n = n.add(one)
		}
	}
	return n
}

func (s keySet) checkDifference(t *testing.T, a, b *node) {
	t.Helper()
	d := s.drawer()
	stands := s.chains(t, a)
	difference(at{node: a}, at{node: b}, func(n at) {
		if n.hasChain() {
			for _, name := range d.names(n) {
				delete(stands, name)
			}
		}
	}, func(at) {})
	written := map[string]bool{}
	difference(at{node: a}, at{node: b}, func(at) {}, func(n at) {
		if !n.hasChain() {
			return
		}
		for _, c := range d.chains(n) {
			for _, r := range c.Rules {
				if _, there := stands[r.Jump]; r.Jump != "DROP" && !there {
					t.Errorf("%s is written before %s, to which it leads", c.Name, r.Jump)
				}
			}
			stands[c.Name], written[c.Name] = c, true
		}
	})
	want := s.chains(t, b)
	if !maps.EqualFunc(stands, want, sameChain) {
		t.Errorf("%d to %d entries: the difference leaves %d chains, want %d, or other ones", a.count, b.count, len(stands), len(want))
	}
	if a == b && len(written) > 0 {
		t.Errorf("the same tree differs from itself")
	}
}

// A packet meets the rule of its destination and no other.
func TestTreeFindsEveryKey(t *testing.T) {
	eachTree(t, treeSizes, func(t *testing.T, s keySet, slots []slot, rng *rand.Rand) {
		p := s.root.place()
		tables := ruleset.Tables{"filter": {}}
		tables.Add("filter", ruleset.Chain{Name: "INPUT", Rules: []ruleset.Rule{{Jump: p.chain}}})
		has := map[key]slot{}
		all := &node{}
		for i, one := range slots {
			if i%4 == 0 {
				continue // not in the tree: its packets pass
			}
			one.rule.Jump, one.rule.To = "DNAT", s.mark(i)
			all, has[one.key] = all.add(one), one
		}
		for _, c := range s.chains(t, all) {
			tables.Add("filter", c)
		}
		for range min(len(slots), 500) {
			one := slots[rng.IntN(len(slots))]
			s.lookUp(t, tables, one, has)
		}
	})
}

// mark is an address that says which entry it is.
func (s keySet) mark(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{1, 0, byte(i >> 8), byte(i)}), 1)
}

func (s keySet) lookUp(t *testing.T, tables ruleset.Tables, one slot, has map[key]slot) {
	t.Helper()
	dst := one.rule.Dst.Prefix.Addr()
	if !dst.IsValid() {
		dst = netip.MustParseAddr("192.168.0.2")
	}
	out := tables.Trace(
		proxier.Packet{Protocol: one.rule.Proto, Src: dst.Next(), Dst: netip.AddrPortFrom(dst, one.rule.Ports.From), In: "eth0"},
		ruleset.World{Local: func(netip.Addr) bool { return true }})
	want, there := has[one.key]
	found := len(out) == 1 && out[0].Verdict == proxier.Forward
	if len(out) != 1 || found != there || there && out[0].To != want.rule.To {
		t.Errorf("%v: %v, want %v (in the tree: %v)", one.rule, out, want.rule.To, there)
	}
}
