package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"switchyard/iptables"
	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/test/netlab"
	"switchyard/test/uml"
)

// xtables is the iptables mode, in one of its flavours.
type xtables struct {
	flavour string
	nft     string // the nft program; "": there is none
}

func newXtables(flavour string) (*xtables, error) {
	if flavour != "nft" && flavour != "legacy" {
		return nil, fmt.Errorf("flavour %q: want nft or legacy", flavour)
	}
	x := &xtables{flavour: flavour}
	if path, err := exec.LookPath("nft"); err == nil && !uml.Inside() { // where no kernel is for it
		x.nft = path
	}
	return x, nil
}

// tool is the name of a family's program: "iptables-nft-save".
func (x *xtables) tool(f proxier.Family, suffix string) string {
	prefix := map[proxier.Family]string{proxier.IPv4: "iptables-", proxier.IPv6: "ip6tables-"}[f]
	return prefix + x.flavour + suffix
}

func (x *xtables) programs() (all []string) {
	for _, f := range families {
		all = append(all, x.tool(f, ""), x.tool(f, "-save"), x.tool(f, "-restore"))
	}
	return all
}

func (x *xtables) traits() traits { return traits{} }

func (x *xtables) settled(ours, _ []string) []string { return ours }

func (x *xtables) fresh(ctx context.Context, host *netlab.Host, want states, s proxier.Settings) error {
	return host.Do(func() error {
		for f, state := range want {
			tool, err := ruleset.Find(ctx, f, ruleset.Flavour(x.flavour))
			if err != nil {
				return err
			}
			report, err := iptables.New(tool, s).Apply(ctx, state)
			if err != nil {
				return err
			}
			for _, aside := range report.SetAside {
				return fmt.Errorf("set aside on an empty node: %s", aside)
			}
		}
		return nil
	})
}

// mark is how the proxy notes that a sysctl is its doing. Only a node that had it
// switched off has the mark.
const mark = "KUBE-PROXY-LOCALNET"

// dump has each rule with its family and table before it. Rules of ours in chains
// that are not are sorted: they stand in the order in which they were missing.
func (x *xtables) dump(host *netlab.Host) (ours, others []string, err error) {
	for _, f := range families {
		text, err := host.Output(context.Background(), x.tool(f, "-save"))
		if err != nil {
			return nil, nil, err
		}
		table := ""
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if name, ok := strings.CutPrefix(line, "*"); ok {
				table = fmt.Sprintf("%s %s ", f, name)
			}
			switch whose(line) {
			case "ours":
				ours = append(ours, table+plain(line))
			case "others":
				others = append(others, table+plain(line))
			}
		}
	}
	slices.SortStableFunc(ours, func(a, b string) int { return strings.Compare(place(a), place(b)) })
	slices.SortStableFunc(others, func(a, b string) int { return strings.Compare(chainOf(a), chainOf(b)) })
	tables, err := x.tables(host)
	return ours, append(others, tables...), err
}

// whose tells ours from others' lines. The kernel's own chains are nobody's.
func whose(line string) string {
	words := strings.Fields(line)
	switch {
	case len(words) < 2 || line[0] == '#' || strings.Contains(line, mark):
		return ""
	case strings.HasPrefix(line, ":KUBE-"), strings.HasPrefix(line, "-A KUBE-"), strings.Contains(line, " -j KUBE-"):
		return "ours"
	case line[0] == ':' && words[1] != "-":
		return ""
	}
	return "others"
}

// plain is a line without the counters of a chain.
func plain(line string) string {
	if strings.HasPrefix(line, ":") {
		line, _, _ = strings.Cut(line, " [")
	}
	return line
}

// chainOf is the family, table and chain of a line of a dump.
func chainOf(line string) string {
	words := strings.Fields(line)
	if strings.HasPrefix(words[2], ":") {
		return strings.Join(words[:2], " ") + " " + words[2][1:]
	}
	return strings.Join(append(words[:2:2], words[min(3, len(words)-1)]), " ")
}

// place is where a line of ours is to be sorted.
func place(line string) string {
	if chain := chainOf(line); strings.Contains(chain, " KUBE-") {
		return chain
	}
	return line
}

// tables are those of nftables that belong to no iptables program.
func (x *xtables) tables(host *netlab.Host) ([]string, error) {
	if x.nft == "" {
		return nil, nil
	}
	names, err := host.Output(context.Background(), x.nft, "list", "tables", "inet")
	if err != nil {
		return nil, err
	}
	var all []string
	for line := range strings.Lines(names) {
		words := append([]string{"list"}, strings.Fields(line)...)
		text, err := host.Output(context.Background(), x.nft, words...)
		if err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return all, nil
}

func (x *xtables) damages() map[string]damage {
	run := func(suffix ...string) damage {
		return damage{do: func(host *netlab.Host, n int) error {
			_, err := host.Output(context.Background(), x.tool(families[n%2], ""), suffix...)
			return err
		}}
	}
	return map[string]damage{
		"flush-nat":    run("-w", "-t", "nat", "-F"),
		"flush-filter": run("-w", "-t", "filter", "-F"),
		"empty-chain":  {do: x.emptyChain},
		"drop-rule":    {do: x.dropRule},
		"delete-chain": {do: x.deleteChain},
		"unhook":       {do: x.unhook},
		"flush-all":    {do: x.flushAll, flows: true},
		"conntrack":    {do: func(h *netlab.Host, _ int) error { return h.ForgetFlows() }, flows: true, harmless: true},
	}
}

// flushAll is what a firewall does that is loaded anew: no rules, no connections.
func (x *xtables) flushAll(host *netlab.Host, _ int) error {
	for _, f := range families {
		for _, table := range []string{"nat", "filter"} {
			if _, err := host.Output(context.Background(), x.tool(f, ""), "-w", "-t", table, "-F"); err != nil {
				return err
			}
		}
	}
	return host.ForgetFlows()
}

// lines are those of ours in nat that begin so.
func (x *xtables) lines(host *netlab.Host, f proxier.Family, prefix string) ([]string, error) {
	text, err := host.Output(context.Background(), x.tool(f, "-save"), "-t", "nat")
	var found []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) && whose(line) == "ours" {
			found = append(found, plain(strings.TrimSpace(line)))
		}
	}
	return found, err
}

// feed gives one table's lines to the restore program.
func (x *xtables) feed(host *netlab.Host, f proxier.Family, lines ...string) error {
	cmd := host.Command(context.Background(), x.tool(f, "-restore"), "-w", "5", "--noflush")
	cmd.Stdin = strings.NewReader("*nat\n" + strings.Join(lines, "\n") + "\nCOMMIT\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("feed %q: %w: %s", lines, err, out)
	}
	return nil
}

// emptyChain takes the rules out of one of our chains.
func (x *xtables) emptyChain(host *netlab.Host, n int) error {
	f := families[n%2]
	chains, err := x.lines(host, f, ":KUBE-")
	if err != nil || len(chains) == 0 {
		return err
	}
	return x.feed(host, f, chains[n%len(chains)]+" [0:0]")
}

// dropRule deletes one rule of ours.
func (x *xtables) dropRule(host *netlab.Host, n int) error {
	f := families[n%2]
	rules, err := x.lines(host, f, "-A KUBE-")
	if err != nil || len(rules) == 0 {
		return err
	}
	return x.feed(host, f, "-D"+rules[n%len(rules)][2:])
}

// deleteChain deletes a Service's chain and each rule that leads to it.
func (x *xtables) deleteChain(host *netlab.Host, n int) error {
	f := families[n%2]
	chains, err := x.lines(host, f, ":KUBE-SVC-")
	if err != nil || len(chains) == 0 {
		return err
	}
	name := strings.Fields(chains[n%len(chains)])[0][1:]
	rules, err := x.lines(host, f, "-A KUBE-")
	if err != nil {
		return err
	}
	change := []string{":" + name + " - [0:0]"}
	for _, r := range rules {
		if strings.HasSuffix(r, " -j "+name) {
			change = append(change, "-D"+r[2:])
		}
	}
	return x.feed(host, f, append(change, "-X "+name)...)
}

// unhook deletes a rule that leads to our chains.
func (x *xtables) unhook(host *netlab.Host, n int) error {
	f := families[n%2]
	for _, from := range []string{"PREROUTING", "OUTPUT", "POSTROUTING"}[n%3:] {
		rules, err := x.lines(host, f, "-A "+from)
		if err != nil {
			return err
		}
		if len(rules) > 0 {
			return x.feed(host, f, "-D"+rules[0][2:])
		}
	}
	return nil
}

func (x *xtables) strangers(n int) (add, remove [][]string) {
	for _, f := range families {
		tool, net := x.tool(f, ""), map[proxier.Family]string{proxier.IPv4: "192.0.2.250", proxier.IPv6: "2001:db8:192::fa"}[f]
		for i, place := range [][2]string{{"nat", "PREROUTING"}, {"filter", "FORWARD"}, {"filter", "INPUT"}, {"nat", "POSTROUTING"}} {
			chain := fmt.Sprintf("STRANGER-%d-%d", n, i)
			base := []string{tool, "-w", "-t", place[0]}
			how := []string{"-I", "-A"}[(n+i)%2]
			rule := []string{place[1], "-s", net, "-m", "comment", "--comment", fmt.Sprintf("KUBE-like words of a stranger %d", n), "-j", chain}
			add = append(add, append(base[:4:4], "-N", chain), append(base[:4:4], "-A", chain, "-m", "mark", "--mark", "0x7/0x7", "-j", "RETURN"),
				append(append(base[:4:4], how), rule...))
			remove = append(remove, append(append(base[:4:4], "-D"), rule...), append(base[:4:4], "-F", chain), append(base[:4:4], "-X", chain))
		}
	}
	if x.nft != "" {
		table := fmt.Sprintf("stranger%d", n)
		add = append(add, []string{x.nft, fmt.Sprintf(
			"add table inet %s; add chain inet %[1]s in { type filter hook input priority 5; }; add rule inet %[1]s in ip saddr 192.0.2.250 drop", table)})
		remove = append(remove, []string{x.nft, "delete", "table", "inet", table})
	}
	return add, remove
}
