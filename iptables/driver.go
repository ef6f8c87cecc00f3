package iptables

import (
	"context"
	"fmt"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// Driver is the iptables backend for cmd/backends.
func Driver() proxier.Driver {
	return proxier.Driver{Name: "iptables", Localnet: true, Open: open, Render: Render, Prepare: prepare, Cleanup: cleanup,
		Rules: ruleClaim()}
}

// nftCommit is how many rules go into one COMMIT of the nft flavour: its cost is
// quadratic in the size of one COMMIT, and a constant for each. The legacy
// flavour swaps the whole table at each COMMIT.
const nftCommit = 2000

func open(ctx context.Context, family proxier.Family, s proxier.Settings) (proxier.Backend, string, error) {
	tool, err := ruleset.Find(ctx, family, "")
	if err != nil {
		return nil, "", fmt.Errorf("open iptables for %s: %w", family, err)
	}
	about := fmt.Sprintf("iptables %s, %s", tool.Version(), tool.Reason())
	return New(tool, s), about, nil
}

// New makes the backend on a tool that was found.
func New(tool *ruleset.Tool, s proxier.Settings) *Backend {
	b := &Backend{kernel: tool, config: configOf(s, tool.RandomFully(), tool.Itself()), hasher: ruleset.NewHasher()}
	if tool.Flavour() == ruleset.NFT {
		b.perCommit = nftCommit
	}
	return b
}

func configOf(s proxier.Settings, randomFully bool, itself proxier.Family) Config {
	return Config{MasqueradeBit: s.MasqueradeBit, Liberal: s.ConntrackLiberal, RandomFully: randomFully, Itself: itself}
}

// Render is the input for iptables-restore that programs a State from nothing,
// but for the rules in the base chains. A service that cannot be rendered makes
// an error beside the text of all others.
func Render(want *proxier.State, s proxier.Settings) (string, error) {
	text, err := RenderIn(want, s, 0)
	return string(text), err
}

// RenderIn is Render in COMMITs of not many more rules than perCommit, chains that
// others lead to first; 0: one COMMIT a table.
func RenderIn(want *proxier.State, s proxier.Settings, perCommit int) ([]byte, error) {
	return renderIn(want, configOf(s, true, want.Family), perCommit)
}

func renderIn(want *proxier.State, c Config, perCommit int) ([]byte, error) {
	p := newPlan(emptyMemory(), want, c, ruleset.NewHasher())
	text := ruleset.Print(p.changes(), perCommit).Text
	for _, f := range p.failed {
		return text, fmt.Errorf("service %s: %w", f.service.Name, f.reason)
	}
	return text, nil
}

// Tables are the chains of a State with the rules in the base chains that lead to
// them: what ruleset.Tables.Trace follows packets through.
func Tables(want *proxier.State, s proxier.Settings) (ruleset.Tables, error) {
	return tablesOf(want, configOf(s, true, want.Family))
}

// TablesWithoutBPF is Tables of a node whose kernel or programs lack xt_bpf.
func TablesWithoutBPF(want *proxier.State, s proxier.Settings) (ruleset.Tables, error) {
	return tablesOf(want, configOf(s, true, 0))
}

func tablesOf(want *proxier.State, c Config) (ruleset.Tables, error) {
	tables := ruleset.Tables{}
	text, err := renderIn(want, c, 0)
	if err != nil {
		return nil, err
	}
	if err := ruleset.Scan(text, nil, tables.Add); err != nil {
		return nil, err
	}
	for _, b := range baseRules(&want.Node) {
		rules := []ruleset.Rule{b.rule}
		if !b.last {
			rules = append(rules, tables[b.table][b.chain]...)
			delete(tables[b.table], b.chain)
		}
		tables.Add(b.table, ruleset.Chain{Name: b.chain, Rules: rules})
	}
	return tables, nil
}
