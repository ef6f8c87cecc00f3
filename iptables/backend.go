package iptables

import (
	"context"
	"sync/atomic"
	"time"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/proxier/aside"
)

// kernel is what the backend asks of the iptables programs; *ruleset.Tool.
type kernel interface {
	Save(ctx context.Context, table string) ([]byte, error)
	Restore(ctx context.Context, input []byte) error
	EnsureChain(table, chain string) error
	EnsureJump(ruleset.Jump) (added bool, err error)
	Stamp() (ruleset.Stamp, error)
	Prints(table string, chains []string) (map[string]uint64, error)
	RulePrints(table, chain string) ([]uint64, error)
	Chains(table string) ([]string, error)
	Packets(ctx context.Context, table, chain string) ([]uint64, error)
	Execs() int64
}

// Backend programs one family. See proxier.Backend.
type Backend struct {
	kernel    kernel
	config    Config
	perCommit int // rules; 0: a table in one COMMIT
	hasher    *ruleset.Hasher

	mem      *memory        // nil: nothing is known of the kernel
	missing  []baseRule     // base rules that the last reading did not find
	base     []baseRule     // base rules that stand
	accepted *proxier.State // what was programmed last
	last     *proxier.State // what was asked for last
	aside    aside.Services
	relics   relics // services of accepted that were found in the kernel
	watch    watch

	localhost atomic.Bool // the rule that counts node ports on localhost stands
}

var (
	_ proxier.Backend  = (*Backend)(nil)
	_ proxier.Watcher  = (*Backend)(nil)
	_ proxier.Resyncer = (*Backend)(nil)
)

// Apply implements proxier.Backend.
func (b *Backend) Apply(ctx context.Context, want *proxier.State) (proxier.Report, error) {
	start := time.Now()
	a := attempt{Backend: b}
	a.report.Full = b.mem == nil || b.mem.state == nil
	a.report.Repaired = b.watch.takeRepair()
	// Else what somebody else did since would be taken for our own write.
	quiet := b.mem == nil || b.watch.quiet(b.kernel)
	fresh := len(b.watch.unread) == 0
	err := a.apply(ctx, want)
	a.report.Took = time.Since(start)
	b.last = want
	if err != nil {
		b.Forget()
		return a.report, err
	}
	b.localhost.Store(want.Node.NodePorts.Localhost)
	b.watch.applied(b.kernel, quiet)
	b.watch.promptly(b.kernel, quiet, fresh)
	a.report.SetAside = b.aside.List()
	a.report.Total = b.mem.totals()
	a.countStanding()
	return a.report, nil
}

// Forget implements proxier.Resyncer.
func (b *Backend) Forget() { b.mem, b.base = nil, nil }

// Close implements proxier.Backend.
func (b *Backend) Close() error { return nil }

// read learns what stands in the kernel.
func (b *Backend) read(ctx context.Context, n *proxier.Node) error {
	var dumps [][]byte
	for _, table := range []string{"filter", "nat"} {
		dump, err := b.kernel.Save(ctx, table)
		if err != nil {
			return err
		}
		dumps = append(dumps, dump)
	}
	base := baseRules(n)
	mem, found, err := scan(dumps, base, b.hasher)
	if err != nil {
		return err
	}
	b.mem, b.base, b.missing = mem, nil, nil
	b.watch.forget(mem.held)
	for i, rule := range base {
		if found[i] {
			b.base = append(b.base, rule)
			b.watch.ensured(rule)
		} else {
			b.missing = append(b.missing, rule)
		}
	}
	return nil
}
