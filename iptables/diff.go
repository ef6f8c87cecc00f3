package iptables

import (
	"net/netip"
	"slices"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// The stages of a plan, in the order in which they keep faith with packets: what
// refuses new traffic stands before nat stops forwarding it, nat forwards before
// filter stops refusing, a chain stands before another points at it, and goes
// after the last one did.
const (
	filterBefore = iota
	natBase
	natEndpoints
	natPolicies
	natDispatch
	natGone
	filterAfter
	stages
)

// plan is what it takes to get from a memory to a wanted State. It changes
// nothing by itself: see learn.
type plan struct {
	config Config
	hasher *ruleset.Hasher
	from   *memory
	want   *proxier.State

	stages   [stages]ruleset.Change
	services []*proxier.Service // owners of the stages' chains, by index
	failed   []failure          // services that cannot be rendered
	trees    trees

	sums   held             // of the chains that the plan writes
	wanted map[chainID]bool // that the plan found to be right, or writes
	gone   []chainID        // that something had before
	added  []entry
	lost   []entry
	text   []byte
}

// chainID names a chain of the kernel.
type chainID struct{ table, name string }

// failure is a service that cannot be rendered, and why.
type failure struct {
	service *proxier.Service
	reason  error
}

// newPlan computes the plan. Services that cannot be rendered are named in
// failed, and left as they stand. Pure but for the hasher's buffer.
func newPlan(m *memory, want *proxier.State, c Config, h *ruleset.Hasher) *plan {
	p := &plan{
		config: c, hasher: h, from: m, want: want, trees: m.trees,
		sums: held{"nat": {}, "filter": {}}, wanted: map[chainID]bool{},
	}
	if m.state == nil { // all chains come anew: three a service at the least
		p.sums["nat"] = make(map[string]uint64, 3*len(want.Services))
		p.wanted = make(map[chainID]bool, 3*len(want.Services))
	}
	for i := range p.stages {
		p.stages[i].Table = "nat"
	}
	p.stages[filterBefore].Table = "filter"
	p.stages[filterAfter].Table = "filter"

	nat, filter := plumbing(c, &want.Node)
	p.writeAll(filterBefore, -1, filter)
	p.writeAll(natBase, -1, nat)
	p.refuseHeld()
	p.renderChanges()
	p.dispatch()
	p.deleteGone()
	return p
}

// refuseHeld plans what refuses at addresses that the node holds. An address that is
// held no more may be the node's port now, or a Service's all the same: its refusals go
// when nat has the new ways. There are at least as many pages for both as for either.
func (p *plan) refuseHeld() {
	held := p.want.Node.Held
	both := held
	if p.from.state != nil {
		both = ruleset.Union(p.from.state.Node.Held, held)
	}
	draw := func(held []netip.Addr) []ruleset.Chain {
		return pages(heldChain, ruleset.RefuseHeld(held, p.want.Family), numbered(heldChain))
	}
	before := draw(both)
	p.writeAll(filterBefore, -1, before)
	for _, c := range before {
		id := chainID{"filter", c.Name}
		p.gone = append(p.gone, id)
		delete(p.wanted, id)
	}
	p.writeAll(filterAfter, -1, draw(held))
}

// changes lists the plan's changes in order. If nothing happens to nat, the two
// stages of filter have no reason to be apart, and are one: a chain must not stand
// twice in a COMMIT.
func (p *plan) changes() []ruleset.Change {
	todo := p.stages
	if !slices.ContainsFunc(todo[natBase:filterAfter], pending) {
		todo[filterBefore], todo[filterAfter] = settled(todo[filterBefore], todo[filterAfter]), ruleset.Change{}
	}
	return slices.DeleteFunc(todo[:], func(c ruleset.Change) bool { return !pending(c) })
}

func pending(c ruleset.Change) bool { return len(c.Writes)+len(c.Deletes) > 0 }

// settled is two changes of one table as one. The second only takes entries away,
// so its version of a chain can stand where the first one's would, and leads to
// nothing that was not there before.
func settled(first, second ruleset.Change) ruleset.Change {
	if !pending(first) {
		return second
	}
	last := map[string]ruleset.Write{}
	for _, w := range second.Writes {
		last[w.Name] = w
	}
	one := ruleset.Change{Table: first.Table, Deletes: slices.Concat(first.Deletes, second.Deletes)}
	for _, w := range first.Writes {
		if newer, ok := last[w.Name]; ok {
			w = newer
			delete(last, w.Name)
		}
		if !slices.Contains(one.Deletes, w.Name) {
			one.Writes = append(one.Writes, w)
		}
	}
	for _, w := range second.Writes {
		if _, left := last[w.Name]; left {
			one.Writes = append(one.Writes, w)
		}
	}
	return one
}

// renderChanges renders both versions of every changed service. A change of what
// the rules of all services look at changes them all.
func (p *plan) renderChanges() {
	var last []*proxier.Service
	lastNode := &p.want.Node
	if p.from.state != nil {
		last, lastNode = p.from.state.Services, &p.from.state.Node
	}
	all := !sameToRules(lastNode, &p.want.Node)
	proxier.EachChange(last, p.want.Services, all, func(was, is *proxier.Service) {
		var old, next rendered
		var err error
		if is != nil {
			if next, err = p.from.relics.render(p.config, is, p.want.Family, &p.want.Node); err != nil {
				p.failed = append(p.failed, failure{is, err})
				return
			}
		}
		if was != nil {
			old, _ = p.from.relics.render(p.config, was, p.want.Family, lastNode) // failed then: nothing stands
		}
		p.replace(is, old, next)
	})
}

// sameToRules reports whether two nodes are the same to the rules of services.
func sameToRules(a, b *proxier.Node) bool {
	return slices.Equal(a.PodRanges, b.PodRanges) && slices.Equal(a.PodInterfaces, b.PodInterfaces) &&
		slices.Equal(a.Local, b.Local) && sameNodePorts(&a.NodePorts, &b.NodePorts)
}

// replace plans one service's own chains, and notes what becomes of its old ones
// and of its entries.
func (p *plan) replace(is *proxier.Service, old, next rendered) {
	owner := -1
	if is != nil {
		owner = len(p.services)
		p.services = append(p.services, is)
	}
	p.writeAll(natEndpoints, owner, next.endpoints)
	p.writeAll(natPolicies, owner, next.services)
	p.writeAll(filterBefore, owner, next.filter)
	for _, c := range old.endpoints {
		p.gone = append(p.gone, chainID{"nat", c.Name})
	}
	for _, c := range old.services {
		p.gone = append(p.gone, chainID{"nat", c.Name})
	}
	for _, c := range old.filter {
		p.gone = append(p.gone, chainID{"filter", c.Name})
	}
	if !slices.Equal(old.entries, next.entries) {
		p.lost = append(p.lost, old.entries...)
		p.added = append(p.added, next.entries...)
	}
}

func (p *plan) writeAll(stage, owner int, chains []ruleset.Chain) {
	for i := range chains {
		p.write(stage, owner, &chains[i])
	}
}

// write adds a chain to a stage unless the kernel, or this plan already, has it
// so.
func (p *plan) write(stage, owner int, c *ruleset.Chain) {
	change := &p.stages[stage]
	p.wanted[chainID{change.Table, c.Name}] = true
	if cap(p.text)-len(p.text) < textSpare {
		p.text = make([]byte, 0, min(max(2*cap(p.text), 2*textSpare), textBlock))
	}
	start := len(p.text)
	p.text = c.AppendTo(p.text)
	sum := fingerprint(p.hasher.SumText(p.text[start:]), len(c.Rules))
	stands, ok := p.sums[change.Table][c.Name]
	if !ok {
		stands, ok = p.from.held[change.Table][c.Name]
	}
	if ok && stands == sum {
		p.text = p.text[:start]
		return
	}
	p.sums[change.Table][c.Name] = sum
	change.Writes = append(change.Writes, ruleset.Write{
		Name: c.Name, Text: p.text[start:len(p.text):len(p.text)], Rules: len(c.Rules), Owner: owner})
}

// The text of all chains is written into blocks: a small one for a small plan, and
// the next ones twice as large. A block with less to spare than most chains need
// is left.
const (
	textSpare = 4 << 10
	textBlock = 1 << 20
)

// dispatch plans the trees. In filter new entries come before nat is touched,
// and old ones go after it was.
func (p *plan) dispatch() {
	known := p.from.state != nil
	retail := !known || !sameNodePorts(&p.from.state.Node.NodePorts, &p.want.Node.NodePorts)
	for r := range roots {
		if r.place().table == "nat" {
			p.grow(r, natDispatch, p.lost, p.added, retail)
		} else {
			p.grow(r, filterBefore, nil, p.added, retail)
			p.grow(r, filterAfter, p.lost, nil, false)
		}
	}
}

func sameNodePorts(a, b *proxier.NodePorts) bool {
	return a.Any == b.Any && a.Localhost == b.Localhost && slices.Equal(a.Addrs, b.Addrs)
}

// grow brings a root's tree to its new entries and plans the chains that differ.
func (p *plan) grow(r root, stage int, lost, added []entry, retail bool) {
	old, next := p.trees[r], p.trees[r]
	for _, e := range lost {
		if e.root == r {
			next = next.remove(slot{e.key, e.rule, 1})
		}
	}
	for _, e := range added {
		if e.root == r {
			next = next.add(slot{e.key, e.rule, 1})
		}
	}
	p.trees[r] = next
	d := p.drawer(r, stage, retail, old != next)
	emit := func(n at) {
		if n.hasChain() {
			p.writeAll(stage, -1, d.chains(n))
		}
	}
	was, is := at{node: old}, at{node: next}
	// A name that goes with an old node and comes with a new one stays.
	difference(was, is, func(n at) {
		if !n.hasChain() {
			return
		}
		for _, name := range d.names(n) {
			p.gone = append(p.gone, chainID{d.table, name})
			delete(p.wanted, chainID{d.table, name})
		}
	}, func(at) {})
	difference(was, is, func(at) {}, emit)
	if old == next && retail {
		emit(is)
	}
}

// drawer draws a root's tree. It plans the pages of the root's last rules, where
// those may have changed.
func (p *plan) drawer(r root, stage int, retail, changed bool) drawer {
	d := drawer{place: r.place(), nibbles: r.addrNibbles(p.want.Family)}
	if changed || retail {
		var pages []ruleset.Chain
		d.tail, pages = tail(r, &p.want.Node, p.want.Family)
		p.writeAll(stage, -1, pages)
	}
	if retail && p.from.state != nil {
		_, pages := tail(r, &p.from.state.Node, p.want.Family)
		for _, c := range pages {
			p.gone = append(p.gone, chainID{d.table, c.Name})
		}
	}
	return d
}

// deleteGone plans the end of chains that nothing wants any more. If the plan
// starts from what the kernel really holds it wants everything anew, and all
// else goes.
func (p *plan) deleteGone() {
	if p.from.state == nil {
		for table, chains := range p.from.held {
			for name := range chains {
				p.gone = append(p.gone, chainID{table, name})
			}
		}
	}
	for _, g := range p.gone {
		_, stands := p.from.held[g.table][g.name]
		_, fresh := p.sums[g.table][g.name]
		if p.wanted[g] || !stands && !fresh {
			continue
		}
		p.wanted[g] = true // once
		delete(p.sums[g.table], g.name)
		stage := natGone
		if g.table == "filter" {
			stage = filterAfter
		}
		p.stages[stage].Deletes = append(p.stages[stage].Deletes, g.name)
	}
}

// learn is the memory once the plan's changes are in the kernel. The plan's own
// memory is used up.
func (p *plan) learn() *memory {
	next := &memory{state: p.want, relics: p.from.relics, trees: p.trees, held: p.from.held, rules: p.from.rules}
	for _, c := range p.stages {
		for _, name := range c.Deletes {
			next.drop(c.Table, name)
		}
	}
	for table, sums := range p.sums {
		for name, sum := range sums {
			next.put(table, name, sum)
		}
	}
	return next
}
