package main

import (
	"fmt"
	"slices"
	"strings"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// leftovers tells what one table of the packet filter holds of modes that do not run.
// Pure.
type leftovers struct {
	held proxier.Claim   // of the mode that runs: its chains and ways stay
	all  []proxier.Claim // of every mode

	table  string
	chains map[string]bool     // that stand; true: somebody's who does not run
	rules  map[string][]string // of each chain, as iptables-save prints them
	order  []string            // chains, by their first mention
	shared bool                // KUBE-FIREWALL is the kubelet's, too
	hollow bool                // KUBE-FIREWALL holds nothing: upstream has it so for IPv6
}

// The chain that the kubelet and iptables mode share, and the one by which the kubelet
// is known to be here.
const (
	kubeFirewall  = "KUBE-FIREWALL"
	kubeletCanary = "KUBE-KUBELET-CANARY"
)

// mayGo reports whether a chain's name is one of a mode that does not run.
func (l *leftovers) mayGo(table, chain string) bool {
	has := func(c proxier.Claim) bool { return c.Chain != nil && c.Chain(table, chain) }
	return !has(l.held) && slices.ContainsFunc(l.all, has)
}

// read takes in a dump of iptables-save of one table.
func (l *leftovers) read(table string, dump []byte) {
	*l = leftovers{held: l.held, all: l.all, table: table, chains: map[string]bool{}, rules: map[string][]string{}}
	for line := range strings.Lines(string(dump)) {
		line = strings.TrimSpace(line)
		if chain, ok := strings.CutPrefix(line, ":"); ok {
			chain, _, _ = strings.Cut(chain, " ")
			l.chains[chain] = l.mayGo(table, chain)
			l.order = append(l.order, chain)
		} else if rule, ok := strings.CutPrefix(line, "-A "); ok {
			chain, _, _ := strings.Cut(rule, " ")
			l.rules[chain] = append(l.rules[chain], line)
		}
	}
}

// removal is what goes: rules in chains that stay, then chains, sorted. A chain to which
// a rule of somebody else's leads stays, with all that it leads to.
func (l *leftovers) removal() (ways, chains []string) {
	l.settleFirewall()
	stays := func(chain string) bool { return !l.chains[chain] }
	var queue []string
	for _, chain := range l.order {
		if stays(chain) {
			queue = append(queue, chain)
		}
	}
	for len(queue) > 0 {
		chain := queue[0]
		queue = queue[1:]
		for _, rule := range l.rules[chain] {
			target := jumpOf(rule)
			switch {
			case l.isOld(rule):
				ways = append(ways, "-D"+rule[2:])
			case l.chains[target]:
				l.chains[target] = false
				queue = append(queue, target)
			}
		}
	}
	for _, chain := range l.order {
		if l.chains[chain] {
			chains = append(chains, chain)
		}
	}
	slices.Sort(chains)
	return ways, chains
}

// settleFirewall decides on KUBE-FIREWALL: it goes if all that it holds is what a mode
// put there, and there is no kubelet. Whose the same rule is beside a kubelet nobody
// can tell.
func (l *leftovers) settleFirewall() {
	if _, stands := l.chains[kubeFirewall]; !stands {
		return
	}
	foreign := func(rule string) bool { return !l.isOld(rule) }
	_, kubelet := l.chains[kubeletCanary]
	l.shared = kubelet || slices.ContainsFunc(l.rules[kubeFirewall], foreign)
	l.hollow = !l.shared && len(l.rules[kubeFirewall]) == 0
	l.chains[kubeFirewall] = !l.shared
}

// isOld reports whether a rule in a chain of others' is one that only modes have made
// which do not run.
func (l *leftovers) isOld(rule string) bool {
	words := strings.SplitN(rule, " ", 3)
	if len(words) < 3 || l.shared && (words[1] == kubeFirewall || jumpOf(rule) == kubeFirewall) {
		return false
	}
	parsed := ruleset.ParseRule(words[2])
	way := fmt.Sprintf("%s -A %s %s", l.table, words[1], &parsed)
	has := func(c proxier.Claim) bool { return slices.Contains(c.Ways, way) }
	held := has(l.held) && !(l.hollow && jumpOf(rule) == kubeFirewall)
	return !held && slices.ContainsFunc(l.all, has)
}

// jumpOf is the chain to which a rule leads, or its verdict.
func jumpOf(rule string) string {
	parsed := ruleset.ParseRule(rule[strings.Index(rule[3:], " ")+4:])
	if parsed.Raw == "" {
		return parsed.Jump
	}
	// Outside of our dialect: the last -j or -g; a comment that ends so keeps a chain.
	words := strings.Fields(rule)
	for i := len(words) - 2; i > 0; i-- {
		if words[i] == "-j" || words[i] == "-g" {
			return words[i+1]
		}
	}
	return ""
}

// removalChunk is how many chains go in one transaction of the nft flavour, the cost of
// which grows with the square of their number.
const removalChunk = 1000

// removalInput is the text for iptables-restore. First nothing leads to the chains any
// more, then all are emptied, since they lead to one another, and then they go. Whatever
// is cut off half-way, the next start finds the rest by its names.
func (l *leftovers) removalInput(ways, chains []string, perCommit int) []byte {
	lines := slices.Clone(ways)
	if perCommit > 0 && len(chains) > perCommit {
		lines = append(lines, "COMMIT")
	} else {
		perCommit = len(chains) + 1
	}
	each := func(format string) {
		for i, chain := range chains {
			lines = append(lines, fmt.Sprintf(format, chain))
			if (i+1)%perCommit == 0 {
				lines = append(lines, "COMMIT")
			}
		}
	}
	each(":%s - [0:0]")
	each("-X %s")
	var b strings.Builder
	open := false
	for _, line := range append(lines, "COMMIT") {
		if line == "COMMIT" && !open {
			continue
		}
		if !open {
			b.WriteString("*" + l.table + "\n")
		}
		open = line != "COMMIT"
		b.WriteString(line + "\n")
	}
	return []byte(b.String())
}
