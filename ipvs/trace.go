package ipvs

import (
	"errors"
	"fmt"
	"net/netip"

	"switchyard/iptables/ruleset"
	"switchyard/ipvs/ipset"
	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

// Model is a State as it would be in the kernel: rules, sets, addresses and virtual
// servers, through which packets can be followed.
type Model struct {
	mem    *memory
	node   *proxier.Node
	tables ruleset.Tables
	ranges map[ipset.Entry][]netip.Prefix // of set ranges, by address and port
}

// NewModel renders a State. The error names the services that cannot be rendered.
func NewModel(want *proxier.State, s proxier.Settings) (*Model, error) {
	c := configOf(s, true)
	m := &Model{mem: newMemory(want.Family, &c), node: &want.Node, tables: ruleset.Tables{},
		ranges: map[ipset.Entry][]netip.Prefix{}}
	m.mem.move(want)
	var failed []error
	for key, err := range m.mem.failed {
		failed = append(failed, fmt.Errorf("service %s: %w", key.name, err))
	}
	for table, chains := range (ruler{c, want.Family, &want.Node}).chains() {
		for _, chain := range chains {
			m.tables.Add(table, chain)
		}
	}
	for _, b := range baseRules() {
		above := m.tables[b.table][b.chain]
		delete(m.tables[b.table], b.chain)
		m.tables.Add(b.table, ruleset.Chain{Name: b.chain, Rules: append([]ruleset.Rule{b.rule}, above...)})
	}
	for e, line := range m.mem.entries.lines {
		if e.set == ranges && line.wanted > 0 {
			at := e.entry
			at.Net = netip.Prefix{}
			m.ranges[at] = append(m.ranges[at], e.entry.Net)
		}
	}
	return m, errors.Join(failed...)
}

// Sticky reports whether a client of an address stays with its endpoint.
func (m *Model) Sticky(p proxier.Packet) bool {
	at := m.run("mangle", hook(p), ruleset.Passage{Packet: p})
	at = m.run("nat", hook(p), at)
	s := m.mem.servers[vs.At(p.Protocol, at.Packet.Dst)]
	return s != nil && s.want != nil && s.want.Persistence > 0
}

// Holds reports whether kube-ipvs0 has an address of a service.
func (m *Model) Holds(a netip.Addr) bool { return m.has(held, ipset.Entry{Addr: a}) }

func (m *Model) local(a netip.Addr) bool { return m.node.IsLocal(a) || m.mem.addrs.lines[a].wanted > 0 }

// run follows a packet through a base chain, unless it has ended.
func (m *Model) run(table, chain string, p ruleset.Passage) ruleset.Passage {
	if p.End != proxier.Pass {
		return p
	}
	return m.tables.Pass(table, chain, p, ruleset.World{Local: m.local, InSet: m.inSet})
}

// hook is where a packet meets rules first.
func hook(p proxier.Packet) string {
	if p.In == "" {
		return "OUTPUT"
	}
	return "PREROUTING"
}

// Trace follows the first packet of a flow as the kernel does, and returns every way
// in which it can end.
//
//	in:   mangle, nat PREROUTING ─ local ─► filter INPUT ─► IPVS ─► OUTPUT, nat POSTROUTING
//	out:  mangle, nat OUTPUT ─► IPVS ─► filter OUTPUT, nat POSTROUTING
func (m *Model) Trace(p proxier.Packet) []ruleset.Outcome {
	at := m.run("mangle", hook(p), ruleset.Passage{Packet: p})
	at = m.run("nat", hook(p), at)
	toNode := m.local(at.Packet.Dst.Addr())
	if p.In != "" && toNode {
		at = m.run("filter", "INPUT", at)
	}
	if at.End != proxier.Pass {
		return end(at)
	}
	if s := m.mem.servers[vs.At(p.Protocol, at.Packet.Dst)]; s != nil && s.want != nil && (p.In == "" || toNode) {
		return m.balance(s.want, at)
	}
	switch {
	case p.In != "" && toNode: // delivered
	case p.In != "":
		at = m.run("nat", "POSTROUTING", m.run("filter", "FORWARD", at))
	default:
		at = m.run("nat", "POSTROUTING", m.run("filter", "OUTPUT", at))
		if toNode {
			at.Packet.In = "lo"
			at = m.run("filter", "INPUT", at)
		}
	}
	return end(at)
}

func end(p ruleset.Passage) []ruleset.Outcome {
	o := ruleset.Outcome{Verdict: p.End, Masq: p.Masq, Probability: 1}
	if p.End == proxier.Pass && p.DNAT {
		o.Verdict, o.To = proxier.Forward, p.Packet.Dst
	}
	if p.End != proxier.Pass {
		o.Masq = false
	}
	return []ruleset.Outcome{o}
}

// balance is what IPVS does: it refuses where no destination can be chosen, and else
// sends the packet on as if the node had sent it.
func (m *Model) balance(s *server, at ruleset.Passage) []ruleset.Outcome {
	total := 0
	for _, d := range s.pool {
		total += d.Weight
	}
	if total == 0 {
		return []ruleset.Outcome{{Verdict: proxier.Reject, Probability: 1}}
	}
	var out []ruleset.Outcome
	for _, d := range s.pool {
		next := at
		next.Packet.Dst, next.DNAT = d.Addr, true
		here := m.local(d.Addr.Addr())
		if at.Packet.In == "" || !here {
			next.Packet.In = ""
			if !here {
				next = m.run("mangle", "OUTPUT", next)
			}
			next = m.run("nat", "POSTROUTING", m.run("filter", "OUTPUT", next))
		}
		o := end(next)[0]
		o.Probability = float64(d.Weight) / float64(total)
		out = append(out, o)
	}
	return out
}

func (m *Model) has(s set, e ipset.Entry) bool { return m.mem.entries.lines[member{s, e}].wanted > 0 }

// inSet is the match of a set.
func (m *Model) inSet(name, fields string, p proxier.Packet) bool {
	s, ok := setByName(name, m.mem.family)
	if !ok {
		return false
	}
	e := ipset.Entry{Addr: p.Dst.Addr(), Protocol: p.Protocol, Port: p.Dst.Port()}
	if fields == "src,dst" {
		e.Addr = p.Src
	}
	switch s.kind() {
	case ipset.HashIPPortIP:
		e.Addr2 = p.Src
	case ipset.HashIPPortNet:
		for _, r := range m.ranges[e] {
			if r.Contains(p.Src) {
				return true
			}
		}
		return false
	}
	return m.has(s, inSet(s, e))
}
