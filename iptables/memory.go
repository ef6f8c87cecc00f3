package iptables

import (
	"maps"
	"slices"
	"strings"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// memory is what the backend knows of the kernel.
type memory struct {
	state  *proxier.State // what was rendered last; nil: nothing is known of it
	relics relics         // services of the state that were not rendered but found
	trees  trees          // its dispatch
	held   held           // what stands in the kernel
	rules  map[string]int // how many rules that is, by table
}

// held is a fingerprint for each of our chains in the kernel, by table.
type held map[string]map[string]uint64

// A chain's fingerprint is a hash of its text, of which the lowest bits give way to its
// number of rules: 54 bits are enough to tell chains apart that were not chosen
// to collide, and 10 for chains of at most 256 rules.
const (
	ruleBits = 10
	ruleMask = 1<<ruleBits - 1
)

func fingerprint(sum uint64, rules int) uint64 { return sum&^ruleMask | uint64(min(rules, ruleMask)) }

func rulesIn(print uint64) int { return int(print & ruleMask) }

// trees is the dispatch of every root.
type trees [roots]*node

// emptyMemory is a memory of a kernel that holds nothing of ours.
func emptyMemory() *memory {
	m := &memory{held: held{"nat": {}, "filter": {}}, rules: map[string]int{}}
	for r := range roots {
		m.trees[r] = &node{}
	}
	return m
}

// isEmpty reports whether nothing of ours stands in the kernel.
func (m *memory) isEmpty() bool { return len(m.held["nat"])+len(m.held["filter"]) == 0 }

// put and drop note that a chain stands as it was written, or no more.
func (m *memory) put(table, chain string, print uint64) {
	m.rules[table] += rulesIn(print) - rulesIn(m.held[table][chain])
	m.held[table][chain] = print
}

func (m *memory) drop(table, chain string) {
	m.rules[table] -= rulesIn(m.held[table][chain])
	delete(m.held[table], chain)
}

// totals counts what stands.
func (m *memory) totals() map[string]int {
	n := map[string]int{}
	for table, chains := range m.held {
		n["chains"] += len(chains)
		n["rules"] += m.rules[table]
	}
	return n
}

// scan reads what stands in the kernel of ours from dumps of iptables-save, and
// which of the base rules do.
func scan(dumps [][]byte, base []baseRule, h *ruleset.Hasher) (*memory, []bool, error) {
	m := emptyMemory()
	found := make([]bool, len(base))
	leads := func(table, chain string) bool {
		return slices.ContainsFunc(base, func(b baseRule) bool { return b.table == table && b.chain == chain })
	}
	own := func(c ruleset.Found) { m.put(c.Table, c.Name, fingerprint(c.Sum, c.Rules)) }
	each := func(table string, c ruleset.Chain) {
		for i, b := range base {
			found[i] = found[i] || b.table == table && b.chain == c.Name && slices.Contains(c.Rules, b.rule)
		}
	}
	for _, dump := range dumps {
		if err := h.Scan(dump, owns, leads, own, each); err != nil {
			return nil, nil, err
		}
	}
	return m, found, nil
}

// same reports whether two kernels hold the same, and names a chain that differs.
func (h held) same(o held) (chain string, ok bool) {
	for _, table := range []string{"filter", "nat"} {
		if maps.Equal(h[table], o[table]) {
			continue
		}
		for name, sum := range h[table] {
			if o[table][name] != sum {
				return table + " " + name, false
			}
		}
		for name := range o[table] {
			if _, ok := h[table][name]; !ok {
				return table + " " + name, false
			}
		}
	}
	return "", true
}

// owns reports whether a chain of the kernel is ours. KUBE-FIREWALL is not: the
// kubelet shares it.
func owns(table, name string) bool {
	if !strings.HasPrefix(name, "KUBE-") {
		return false
	}
	for r := range roots {
		if p := r.place(); p.table == table && (name == p.chain || strings.HasPrefix(name, p.prefix)) {
			return true
		}
	}
	chains, prefixes := []string{forwardChain}, []string{firewallPrefix, addressesChain}
	switch table {
	case "nat":
		chains = []string{postroutingChain, markMasqChain}
		prefixes = append(prefixes, servicePrefix, localPrefix, externalPrefix, endpointPrefix,
			affinityPrefix, localAffinityPrefix, bypassPrefix)
	case "filter":
		prefixes = append(prefixes, heldChain)
	default:
		return false
	}
	return slices.Contains(chains, name) ||
		slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}
