package userspace

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/userspace/keeper"
	"switchyard/userspace/relay"
)

// Driver is the userspace backend for cmd/backends.
func Driver() proxier.Driver {
	return proxier.Driver{Name: "userspace", Relay: relay.Port, Open: open, Render: Render, Prepare: prepare, Cleanup: cleanUp,
		Rules: ruleClaim(), Objects: dismiss}
}

// prepare does what takes a writable /proc/sys, which the relay would do at its start.
func prepare(context.Context, proxier.Family, *proxier.Node, proxier.Settings) ([]string, error) {
	did, err := relay.LetPortsClash()
	if did == "" {
		return nil, err
	}
	return []string{did}, err
}

// nftCommit is how many rules go into one COMMIT of the nft flavour, whose cost is
// quadratic in the size of one COMMIT.
const nftCommit = 2000

func open(ctx context.Context, family proxier.Family, s proxier.Settings) (proxier.Backend, string, error) {
	tool, err := ruleset.Find(ctx, family, "")
	if err != nil {
		return nil, "", fmt.Errorf("open userspace for %s: %w", family, err)
	}
	r, about, err := relay.Open(relay.Options{Family: family, Port: relay.Port, MarkBit: s.MasqueradeBit,
		Keeper: s.Userspace.Keeper, Warn: s.Userspace.Warn})
	if err != nil {
		return nil, "", fmt.Errorf("open userspace for %s: %w", family, err)
	}
	return New(tool, r, s), fmt.Sprintf("%s; iptables %s, %s", about, tool.Version(), tool.Reason()), nil
}

// New makes the backend on a tool that was found and a relay that listens.
func New(tool *ruleset.Tool, r *relay.Relay, s proxier.Settings) *Backend {
	b := newBackend(tool, s)
	if r != nil {
		b.relay = r
	}
	if tool.Flavour() == ruleset.NFT {
		b.perCommit = nftCommit
	}
	return b
}

func newBackend(k kernel, s proxier.Settings) *Backend {
	return &Backend{kernel: k, config: configOf(s), drain: s.Userspace.Drain,
		hasher: ruleset.NewHasher()}
}

func configOf(s proxier.Settings) Config {
	return Config{MarkBit: s.MasqueradeBit, Port: relay.Port}
}

// cleanUp takes the rules out, and then ends the keeper of the sockets that they led to.
func cleanUp(ctx context.Context) ([]string, error) {
	removed, err := cleanup(ctx)
	kept, dismissErr := dismiss(ctx)
	return append(removed, kept...), errors.Join(err, dismissErr)
}

// dismiss ends the keeper, which would hold the sockets for a while.
func dismiss(context.Context) ([]string, error) {
	if keeper.Dismiss(relay.Port) {
		return []string{"the keeper of the listening sockets"}, nil
	}
	return nil, nil
}

// Render is the input for iptables-restore that programs a State from nothing, but
// for the rules in the base chains, which stand before it as comments.
func Render(want *proxier.State, s proxier.Settings) (string, error) {
	p := newPlan(emptyMemory(), want, configOf(s), ruleset.NewHasher())
	var b strings.Builder
	fmt.Fprintf(&b, "# %s: services are relayed by port %d of this node\n", want.Family, relay.Port)
	for _, r := range baseRules() {
		fmt.Fprintf(&b, "# -t %s -I %s %s\n", r.table, r.chain, r.rule)
	}
	b.Write(ruleset.Print(p.changes(), 0).Text)
	var errs []error
	for _, f := range p.failed {
		errs = append(errs, fmt.Errorf("service %s: %w", f.service.Name, f.reason))
	}
	return b.String(), errors.Join(errs...)
}

// Tables are the chains of a State with the rules in the base chains that lead to
// them: what ruleset.Tables.Trace follows packets through.
func Tables(want *proxier.State, s proxier.Settings) (ruleset.Tables, error) {
	text, err := Render(want, s)
	if err != nil {
		return nil, err
	}
	tables := ruleset.Tables{}
	if err := ruleset.Scan([]byte(text), nil, tables.Add); err != nil {
		return nil, err
	}
	for _, b := range baseRules() {
		rules := append([]ruleset.Rule{b.rule}, tables[b.table][b.chain]...)
		delete(tables[b.table], b.chain)
		tables.Add(b.table, ruleset.Chain{Name: b.chain, Rules: rules})
	}
	return tables, nil
}
