package userspace

import (
	"net/netip"
	"slices"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// The stages of a plan, in the order in which they keep faith with packets: what
// refuses stands before nat stops forwarding, nat forwards before filter stops
// refusing, a chain stands before another points at it, and goes after the last one
// did.
const (
	filterBefore = iota
	natLeaves
	natDispatch
	natGone
	filterAfter
	stages
)

// plan is what it takes to get from a memory to a wanted State. It changes nothing
// by itself: see learn.
type plan struct {
	config Config
	hasher *ruleset.Hasher
	from   *memory
	want   *proxier.State

	stages   [stages]ruleset.Change
	services []*proxier.Service // owners of the stages' chains, by index
	failed   []failure          // services that cannot be rendered
	lists    [roots][]*entry

	sums        held // of the chains that the plan writes
	wanted      map[chainID]bool
	gone        []chainID
	lost, added [roots][]*entry
}

// chainID names a chain of the kernel.
type chainID struct{ table, name string }

// failure is a service that is not programmed, and why.
type failure struct {
	service *proxier.Service
	reason  error
}

// newPlan computes the plan. Services that cannot be rendered are named in failed.
// Pure but for the hasher's buffer.
func newPlan(m *memory, want *proxier.State, c Config, h *ruleset.Hasher) *plan {
	p := &plan{config: c, hasher: h, from: m, want: want, lists: m.lists,
		sums: held{"nat": {}, "filter": {}}, wanted: map[chainID]bool{}}
	for i := range p.stages {
		p.stages[i].Table = "nat"
	}
	p.stages[filterBefore].Table, p.stages[filterAfter].Table = "filter", "filter"
	p.plumb()
	p.refuseHeld()
	p.renderChanges()
	for r := range roots {
		if r.table() == "nat" {
			p.grow(r, natDispatch, p.lost[r], p.added[r])
			continue
		}
		p.grow(r, filterBefore, nil, p.added[r])
		p.grow(r, filterAfter, p.lost[r], nil)
	}
	p.deleteGone()
	return p
}

// plumb plans the chains that no service owns; there are pages of them.
func (p *plan) plumb() {
	nat, filter := plumbing(p.config, &p.want.Node, p.want.Family)
	if p.from.state != nil {
		oldNAT, oldFilter := plumbing(p.config, &p.from.state.Node, p.want.Family)
		p.lose("nat", oldNAT)
		p.lose("filter", oldFilter)
	}
	p.writeAll(filterBefore, -1, filter)
	p.writeAll(natLeaves, -1, nat)
}

// refuseHeld plans what refuses at addresses that the node holds. Refusals of an address
// that is held no more go when nat has the new ways. There are at least as many pages for
// both as for either.
func (p *plan) refuseHeld() {
	held := p.want.Node.Held
	both := held
	if p.from.state != nil {
		both = ruleset.Union(p.from.state.Node.Held, held)
	}
	draw := func(held []netip.Addr) []ruleset.Chain {
		return pages(heldChain, ruleset.RefuseHeld(held, p.want.Family))
	}
	before := draw(both)
	p.writeAll(filterBefore, -1, before)
	for _, c := range before {
		delete(p.wanted, chainID{"filter", c.Name})
	}
	p.lose("filter", before)
	p.writeAll(filterAfter, -1, draw(held))
}

// changes lists the plan's changes in order. A chain must not stand twice in a
// COMMIT: without a change of nat the two stages of filter are one.
func (p *plan) changes() []ruleset.Change {
	todo := p.stages
	pending := func(c ruleset.Change) bool { return len(c.Writes)+len(c.Deletes) > 0 }
	if !slices.ContainsFunc(todo[natLeaves:filterAfter], pending) {
		todo[filterAfter] = settled(todo[filterBefore], todo[filterAfter])
		todo[filterBefore] = ruleset.Change{}
	}
	return slices.DeleteFunc(todo[:], func(c ruleset.Change) bool { return !pending(c) })
}

// settled is two changes of one table as one: the last version of each chain.
func settled(first, second ruleset.Change) ruleset.Change {
	writes := slices.Clone(second.Writes)
	for _, w := range first.Writes {
		again := slices.ContainsFunc(second.Writes, func(o ruleset.Write) bool { return o.Name == w.Name })
		if !again && !slices.Contains(second.Deletes, w.Name) {
			writes = append(writes, w)
		}
	}
	return ruleset.Change{Table: first.Table, Writes: writes, Deletes: second.Deletes}
}

// renderChanges renders both versions of every changed service. A change of the
// node changes them all.
func (p *plan) renderChanges() {
	var last []*proxier.Service
	lastNode := &p.want.Node
	if p.from.state != nil {
		last, lastNode = p.from.state.Services, &p.from.state.Node
	}
	proxier.EachChange(last, p.want.Services, !sameToRules(lastNode, &p.want.Node), func(was, is *proxier.Service) {
		var old, next rendered
		var err error
		if is != nil {
			if next, err = p.from.relics.render(is, p.want.Family, &p.want.Node); err != nil {
				p.failed = append(p.failed, failure{is, err})
			}
		}
		if was != nil {
			old, _ = p.from.relics.render(was, p.want.Family, lastNode) // failed then: nothing stands
		}
		p.replace(is, old, next)
	})
}

// sameToRules reports whether two nodes are the same to the rules of services.
func sameToRules(a, b *proxier.Node) bool {
	return slices.Equal(a.PodRanges, b.PodRanges) && slices.Equal(a.PodInterfaces, b.PodInterfaces) &&
		slices.Equal(a.Local, b.Local) && slices.Equal(a.NodePorts.Addrs, b.NodePorts.Addrs) &&
		a.NodePorts.Any == b.NodePorts.Any && a.NodePorts.Localhost == b.NodePorts.Localhost
}

// replace plans one service's own chains, and notes what becomes of its old ones
// and of its entries.
func (p *plan) replace(is *proxier.Service, old, next rendered) {
	owner := -1
	if is != nil {
		owner = len(p.services)
		p.services = append(p.services, is)
	}
	p.writeAll(natLeaves, owner, next.nat)
	p.writeAll(filterBefore, owner, next.filter)
	p.lose("nat", old.nat)
	p.lose("filter", old.filter)
	same := func(a, b *entry) bool { return *a == *b }
	if slices.EqualFunc(old.entries, next.entries, same) {
		return
	}
	for _, e := range old.entries {
		p.lost[e.root] = append(p.lost[e.root], e)
	}
	for _, e := range next.entries {
		p.added[e.root] = append(p.added[e.root], e)
	}
}

// lose notes chains that something had before.
func (p *plan) lose(table string, chains []ruleset.Chain) {
	for _, c := range chains {
		p.gone = append(p.gone, chainID{table, c.Name})
	}
}

func (p *plan) writeAll(stage, owner int, chains []ruleset.Chain) {
	for i := range chains {
		p.write(stage, owner, &chains[i])
	}
}

// write adds a chain to a stage unless the kernel, or this plan already, has it so.
func (p *plan) write(stage, owner int, c *ruleset.Chain) {
	change := &p.stages[stage]
	p.wanted[chainID{change.Table, c.Name}] = true
	text := c.AppendTo(nil)
	sum := p.hasher.SumText(text)
	stands, ok := p.sums[change.Table][c.Name]
	if !ok {
		stands, ok = p.from.held[change.Table][c.Name]
	}
	if ok && stands == sum {
		return
	}
	p.sums[change.Table][c.Name] = sum
	change.Writes = append(change.Writes, ruleset.Write{Name: c.Name, Text: text, Rules: len(c.Rules), Owner: owner})
}

// grow brings a root to its new entries and plans the chains that differ.
func (p *plan) grow(r root, stage int, lost, added []*entry) {
	old := p.lists[r]
	next := edited(old, lost, added)
	p.lists[r] = next
	d := drawer{root: r, nibbles: r.addrNibbles(p.want.Family)}
	fresh := func(c ruleset.Chain) { p.write(stage, -1, &c) }
	if p.from.state == nil && stage != filterAfter {
		d.each(node{entries: next}, fresh)
		return
	}
	if len(lost)+len(added) == 0 {
		return
	}
	changed := make([]key, 0, len(lost)+len(added))
	for _, e := range slices.Concat(lost, added) {
		changed = append(changed, e.key)
	}
	slices.Sort(changed)
	gone := func(name string) {
		p.gone = append(p.gone, chainID{r.table(), name})
		delete(p.wanted, chainID{r.table(), name})
	}
	d.difference(node{entries: old}, node{entries: next}, changed, gone, fresh)
}

// edited is a sorted list without some entries and with others. An entry that
// several services want is in it as often.
func edited(list, lost, added []*entry) []*entry {
	if len(lost)+len(added) == 0 {
		return list
	}
	slices.SortStableFunc(lost, compareEntries)
	slices.SortStableFunc(added, compareEntries)
	next := make([]*entry, 0, len(list)+len(added))
	for _, e := range list {
		for len(added) > 0 && compareEntries(added[0], e) < 0 {
			next, added = append(next, added[0]), added[1:]
		}
		for len(lost) > 0 && compareEntries(lost[0], e) < 0 {
			lost = lost[1:]
		}
		if len(lost) > 0 && compareEntries(lost[0], e) == 0 {
			lost = lost[1:]
			continue
		}
		next = append(next, e)
	}
	return append(next, added...)
}

// deleteGone plans the end of chains that nothing wants any more. If the plan
// starts from what the kernel really holds it wants everything anew, and all else
// goes.
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
	h := p.from.held
	for _, c := range p.stages {
		for _, w := range c.Writes {
			p.from.rules[c.Table][w.Name] = uint64(w.Rules)
		}
		for _, name := range c.Deletes {
			delete(h[c.Table], name)
			delete(p.from.rules[c.Table], name)
		}
	}
	for table, sums := range p.sums {
		for name, sum := range sums {
			h[table][name] = sum
		}
	}
	return &memory{state: p.want, relics: p.from.relics, lists: p.lists, held: h, rules: p.from.rules}
}
