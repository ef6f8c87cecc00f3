package userspace

import (
	"slices"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// memory is what the backend knows of the kernel.
type memory struct {
	state  *proxier.State  // what was rendered last; nil: nothing is known of it
	relics relics          // services of the state that were not rendered but found
	lists  [roots][]*entry // its dispatch, sorted
	held   held            // what stands in the kernel
	rules  held            // how many rules each of those chains has
}

// held is a hash for each of our chains in the kernel, by table.
type held map[string]map[string]uint64

func emptyMemory() *memory {
	return &memory{held: held{"nat": {}, "filter": {}}, rules: held{"nat": {}, "filter": {}}}
}

// scan reads what stands in the kernel of ours from dumps of iptables-save, and
// which of the base rules do.
func scan(dumps [][]byte, h *ruleset.Hasher) (*memory, []baseRule, error) {
	m := emptyMemory()
	base := baseRules()
	var found []baseRule
	leads := func(table, chain string) bool {
		return slices.ContainsFunc(base, func(b baseRule) bool { return b.table == table && b.chain == chain })
	}
	own := func(c ruleset.Found) {
		m.held[c.Table][c.Name], m.rules[c.Table][c.Name] = c.Sum, uint64(c.Rules)
	}
	each := func(table string, c ruleset.Chain) {
		for _, b := range base {
			if b.table == table && b.chain == c.Name && slices.Contains(c.Rules, b.rule) {
				found = append(found, b)
			}
		}
	}
	for _, dump := range dumps {
		if err := h.Scan(dump, owns, leads, own, each); err != nil {
			return nil, nil, err
		}
	}
	return m, found, nil
}

// difference names a chain that two kernels do not hold alike, "" if there is none.
func (h held) difference(o held) string {
	for _, table := range []string{"filter", "nat"} {
		for name, sum := range h[table] {
			if other, ok := o[table][name]; !ok || other != sum {
				return table + " " + name
			}
		}
		for name := range o[table] {
			if _, ok := h[table][name]; !ok {
				return table + " " + name
			}
		}
	}
	return ""
}

func (h held) chains() map[string]int {
	n := map[string]int{}
	for table, chains := range h {
		n[table] = len(chains)
	}
	return n
}
