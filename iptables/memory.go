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
	state *proxier.State // what was rendered last; nil: nothing is known of it
	trees trees          // its dispatch
	held  held           // what stands in the kernel
}

// held is a hash for each of our chains in the kernel, by table.
type held map[string]map[string]uint64

// trees is the dispatch of every root.
type trees [roots]*node

// emptyMemory is a memory of a kernel that holds nothing of ours.
func emptyMemory() *memory {
	m := &memory{held: held{"nat": {}, "filter": {}}}
	for r := range roots {
		m.trees[r] = &node{}
	}
	return m
}

// isEmpty reports whether nothing of ours stands in the kernel.
func (m *memory) isEmpty() bool { return len(m.held["nat"])+len(m.held["filter"]) == 0 }

// chains counts what stands, by table.
func (h held) chains() map[string]int {
	n := map[string]int{}
	for table, chains := range h {
		n[table] = len(chains)
	}
	return n
}

// scan reads what stands in the kernel of ours from dumps of iptables-save, and
// which of the base rules do.
func scan(dumps [][]byte, base []baseRule, h *ruleset.Hasher) (*memory, []bool, error) {
	m := emptyMemory()
	found := make([]bool, len(base))
	want := func(table, chain string) bool {
		return owns(table, chain) || slices.ContainsFunc(base, func(b baseRule) bool {
			return b.table == table && b.chain == chain
		})
	}
	each := func(table string, c ruleset.Chain) {
		if owns(table, c.Name) {
			m.held[table][strings.Clone(c.Name)] = h.Sum(&c)
			return
		}
		for i, b := range base {
			found[i] = found[i] || b.table == table && b.chain == c.Name && slices.Contains(c.Rules, b.rule)
		}
	}
	for _, dump := range dumps {
		if err := ruleset.Scan(dump, want, each); err != nil {
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
	default:
		return false
	}
	return slices.Contains(chains, name) ||
		slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}
