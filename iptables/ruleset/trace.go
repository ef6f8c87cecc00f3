package ruleset

import (
	"net/netip"
	"slices"

	"switchyard/proxier"
)

// Tables are chains by table ("nat", "filter") and name, base chains included.
type Tables map[string]map[string][]Rule

// Add puts a chain into a table, after the rules that it already has there.
func (t Tables) Add(table string, c Chain) {
	if t[table] == nil {
		t[table] = map[string][]Rule{}
	}
	t[table][c.Name] = append(t[table][c.Name], c.Rules...)
}

// World is what the rules look at besides the packet.
type World struct {
	Local  func(netip.Addr) bool                  // -m addrtype LOCAL
	Recent func(list string, src netip.Addr) bool // -m recent --rcheck; nil: never
	// InSet is -m set: whether the packet is in a set by the fields "dst,dst"; nil:
	// never.
	InSet func(set, fields string, p proxier.Packet) bool
}

// Outcome is one way in which a packet can fare, and how likely it is.
type Outcome struct {
	Verdict     proxier.Verdict // Pass: accepted where it was going; Forward: translated
	To          netip.AddrPort  // Forward: the new destination
	Masq        bool            // the source becomes the node's
	Remember    string          // the xt_recent list that took the source in
	Probability float64
}

// Trace follows the first packet of a flow through the nat and filter tables, as
// netfilter would, and returns every way in which it can end; the probabilities
// add up to 1. Chances are the only branches. The policy of base chains is
// ACCEPT. Rules outside the dialect match nothing. A packet that comes back to a
// chain which it is still in is dropped: the kernel takes no such ruleset.
func (t Tables) Trace(p proxier.Packet, w World) []Outcome {
	var out outcomes
	start := packet{Packet: p, origin: p.Dst.Addr()}
	first := "PREROUTING"
	if p.In == "" {
		first = "OUTPUT"
	}
	tr := tracer{tables: t, world: w, out: &out}
	tr.table("nat", first, start, 1, func(pk packet, chance float64) {
		isLocal := w.Local(pk.Dst.Addr())
		tr.filters(filterHooks(p.In == "", isLocal), pk, chance, func(pk packet, chance float64) {
			if isLocal && p.In != "" {
				out.end(pk, chance) // delivered: no postrouting
				return
			}
			tr.table("nat", "POSTROUTING", pk, chance, out.end)
		})
	})
	return out
}

// Passage is a packet on its way through base chains: as it is now, and what
// happened to it so far.
type Passage struct {
	Packet proxier.Packet
	Mark   uint32
	DNAT   bool // its destination is not the one that it came with
	Masq   bool // its source will be the node's
	// End is Pass while the packet goes on, else what a rule did with it.
	End proxier.Verdict
}

// Pass follows a packet through one base chain of one table. It is for kernels in
// which more than the tables decides. Rules that choose by chance are not followed:
// the likeliest way is.
func (t Tables) Pass(table, chain string, p Passage, w World) Passage {
	var ended outcomes
	best, result := 0.0, Passage{}
	tr := tracer{tables: t, world: w, out: &ended}
	start := packet{Packet: p.Packet, origin: p.Packet.Dst.Addr(), mark: p.Mark, dnat: p.DNAT, masq: p.Masq}
	tr.table(table, chain, start, 1, func(pk packet, chance float64) {
		if chance > best {
			best, result = chance, Passage{Packet: pk.Packet, Mark: pk.mark, DNAT: pk.dnat, Masq: pk.masq}
		}
	})
	for _, o := range ended {
		if o.Probability > best {
			best, result = o.Probability, p
			result.End = o.Verdict
		}
	}
	return result
}

// filterHooks are the filter chains between routing and delivery. What a node
// sends to itself leaves by OUTPUT and comes in by INPUT.
func filterHooks(fromNode, toNode bool) []string {
	switch {
	case fromNode && toNode:
		return []string{"OUTPUT", "INPUT"}
	case fromNode:
		return []string{"OUTPUT"}
	case toNode:
		return []string{"INPUT"}
	}
	return []string{"FORWARD"}
}

// mapInto is what NETMAP makes of an address: the prefix's bits in place of its own.
func mapInto(to netip.Prefix, a netip.Addr) netip.Addr {
	from, b := to.Masked().Addr().AsSlice(), a.AsSlice()
	for i := range min(len(from), len(b)) {
		kept := byte(0xff) >> min(8, max(0, to.Bits()-8*i))
		b[i] = from[i]&^kept | b[i]&kept
	}
	mapped, _ := netip.AddrFromSlice(b)
	return mapped
}

// packet is a packet on its way.
type packet struct {
	proxier.Packet
	origin   netip.Addr // the destination that it came with
	mark     uint32
	dnat     bool
	masq     bool
	remember string
}

type outcomes []Outcome

func (o *outcomes) end(p packet, chance float64) {
	verdict, to := proxier.Pass, netip.AddrPort{}
	if p.dnat {
		verdict, to = proxier.Forward, p.Dst
	}
	o.add(Outcome{verdict, to, p.masq, p.remember, chance})
}

func (o *outcomes) add(n Outcome) {
	if n.Probability == 0 {
		return
	}
	i := slices.IndexFunc(*o, func(x Outcome) bool {
		x.Probability = n.Probability
		return x == n
	})
	if i < 0 {
		*o = append(*o, n)
		return
	}
	(*o)[i].Probability += n.Probability
}

// then is what follows once a chain is through with a packet.
type then func(p packet, chance float64)

type tracer struct {
	tables Tables
	world  World
	out    *outcomes
}

// table runs a base chain; ACCEPT, DNAT and MASQUERADE end it and go on with
// what follows.
func (t *tracer) table(table, chain string, p packet, chance float64, next then) {
	walk := walk{t, table, next}
	walk.chain(frame{chain: chain, back: next}, p, chance)
}

func (t *tracer) filters(hooks []string, p packet, chance float64, next then) {
	if len(hooks) == 0 {
		next(p, chance)
		return
	}
	if hooks[0] == "INPUT" && p.In == "" {
		p.In = "lo" // what a node sends to itself
	}
	t.table("filter", hooks[0], p, chance, func(p packet, chance float64) {
		t.filters(hooks[1:], p, chance, next)
	})
}

// walk is one traversal of one table.
type walk struct {
	*tracer
	table  string
	accept then
}

// frame is a chain that a packet is in.
type frame struct {
	chain string
	from  *frame // the chain with the jump or goto to it; nil: a base chain
	back  then   // what follows at its end
}

func (f *frame) holds(chain string) bool {
	for ; f != nil; f = f.from {
		if f.chain == chain {
			return true
		}
	}
	return false
}

// chain runs a chain's rules; a packet that reaches its end goes back to where it
// came from.
func (w *walk) chain(f frame, p packet, chance float64) {
	if f.from.holds(f.chain) {
		w.out.add(Outcome{Verdict: proxier.Drop, Probability: chance})
		return
	}
	w.rules(w.tables[w.table][f.chain], &f, p, chance)
}

func (w *walk) rules(rules []Rule, f *frame, p packet, chance float64) {
	for i := range rules {
		r := &rules[i]
		if !r.matches(&p, w.world) {
			continue
		}
		if r.Recent.Set {
			p.remember = r.Recent.Name
		}
		hit := chance
		if r.Chance != 0 {
			hit = chance * r.Chance.Probability()
		}
		rest := rules[i+1:]
		next := func(p packet, c float64) { w.rules(rest, f, p, c) }
		w.apply(r, frame{from: f, back: next}, p, hit)
		if chance -= hit; chance == 0 {
			return
		}
	}
	if chance > 0 {
		f.back(p, chance)
	}
}

// apply carries out the target of a rule in the chain at.from; at.back goes on with
// the rule after it. Everything ends in an outcome or in a continuation, so the
// caller is through with that part of the chance.
func (w *walk) apply(r *Rule, at frame, p packet, chance float64) {
	switch r.Jump {
	case "":
		at.back(p, chance)
	case "ACCEPT":
		w.accept(p, chance)
	case "RETURN":
		at.from.back(p, chance)
	case "DROP":
		w.out.add(Outcome{Verdict: proxier.Drop, Probability: chance})
	case "REJECT":
		w.out.add(Outcome{Verdict: proxier.Reject, Probability: chance})
	case "MARK":
		p.mark = p.mark&^r.SetMark.Mask ^ r.SetMark.Value
		at.back(p, chance)
	case "DNAT":
		p.Dst, p.dnat = r.To, true
		w.accept(p, chance)
	case "NETMAP":
		p.Dst, p.dnat = netip.AddrPortFrom(mapInto(r.Map, p.Dst.Addr()), p.Dst.Port()), true
		w.accept(p, chance)
	case "MASQUERADE":
		p.masq = true
		w.accept(p, chance)
	default:
		if r.Goto {
			at.back = at.from.back
		}
		at.chain = r.Jump
		w.chain(at, p, chance)
	}
}

func (r *Rule) matches(p *packet, w World) bool {
	return r.Raw == "" &&
		r.Src.matches(p.Src) && r.Dst.matches(p.Dst.Addr()) &&
		r.In.matches(p.In) &&
		(r.Proto == 0 || r.Proto == p.Protocol) &&
		r.Ports.matches(p.Dst.Port()) &&
		r.SrcType.matches(p.Src, w) && r.DstType.matches(p.Dst.Addr(), w) &&
		(!r.OrigDst.IsValid() || r.OrigDst.Contains(p.origin)) &&
		r.CTState.matches(p) && r.Mark.matches(p.mark) &&
		(r.Itself == 0 || p.Src == p.Dst.Addr()) &&
		r.Recent.matches(p.Src, w) && r.Set.matches(p, w)
}

func (n Net) matches(a netip.Addr) bool {
	return !n.Prefix.IsValid() || n.Prefix.Contains(a) != n.Not
}

func (i Interface) matches(name string) bool {
	return i.Name == "" || proxier.MatchInterface(i.Name, name) != i.Not
}

func (p Ports) matches(port uint16) bool {
	return p == Ports{} || p.From <= port && port <= p.To
}

func (a AddrType) matches(addr netip.Addr, w World) bool {
	return a.Type == "" || (a.Type == "LOCAL" && w.Local(addr)) != a.Not
}

// matches knows the states of a flow's first packet: NEW, and DNAT once it is
// translated.
func (s States) matches(p *packet) bool {
	if s.List == "" {
		return true
	}
	hit := false
	for len(s.List) > 0 {
		var one string
		one, s.List = cutComma(s.List)
		hit = hit || one == "NEW" || one == "DNAT" && p.dnat
	}
	return hit != s.Not
}

func (m Mark) matches(mark uint32) bool {
	return m.Mask == 0 || (mark&m.Mask == m.Value) != m.Not
}

func (s SetMatch) matches(p *packet, w World) bool {
	return s.Name == "" || (w.InSet != nil && w.InSet(s.Name, s.Fields, p.Packet)) != s.Not
}

func (r Recent) matches(src netip.Addr, w World) bool {
	if r.Name == "" || r.Set {
		return true
	}
	return w.Recent != nil && w.Recent(r.Name, src)
}

func cutComma(s string) (first, rest string) {
	for i := range s {
		if s[i] == ',' {
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}
