package userspace

import (
	"context"
	"time"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/proxier/aside"
)

// kernel is what the backend asks of the iptables programs; *ruleset.Tool.
type kernel interface {
	Save(ctx context.Context, table string) ([]byte, error)
	Restore(ctx context.Context, input []byte) error
	EnsureJump(ruleset.Jump) (added bool, err error)
	Stamp() (ruleset.Stamp, error)
}

// carrier is what the backend asks of the relay; *relay.Relay.
type carrier interface {
	Add(want *proxier.State) []proxier.Note
	Settle()
	Traffic() []proxier.Traffic
	Close(drain time.Duration) error
}

// Backend programs one family. See proxier.Backend.
type Backend struct {
	kernel    kernel
	relay     carrier
	config    Config
	perCommit int // rules; 0: a table in one COMMIT
	drain     time.Duration
	hasher    *ruleset.Hasher

	mem   *memory    // nil: nothing is known of the kernel
	base  []baseRule // that stand
	watch watch

	aside    aside.Services
	relics   relics         // services of accepted that were found in the kernel
	last     *proxier.State // asked for
	accepted *proxier.State // by the kernel: last without what is set aside
}

var (
	_ proxier.Backend  = (*Backend)(nil)
	_ proxier.Watcher  = (*Backend)(nil)
	_ proxier.Resyncer = (*Backend)(nil)
	_ proxier.Carrier  = (*Backend)(nil)
)

// Apply implements proxier.Backend. The relay knows a new service before the rules
// lead to it, and forgets an old one after they do no more.
func (b *Backend) Apply(ctx context.Context, want *proxier.State) (proxier.Report, error) {
	start := time.Now()
	a := attempt{Backend: b}
	a.report.Full = b.mem == nil
	a.report.Repaired = b.watch.takeRepair()
	// Else what somebody else did since would be taken for our own write.
	quiet := b.mem == nil || b.watch.quiet(b.kernel)
	a.report.Notes = b.relay.Add(want)
	err := a.apply(ctx, want)
	a.report.Took = time.Since(start)
	if err != nil {
		b.Forget()
		return a.report, err
	}
	if b.accepted != want {
		b.relay.Add(b.relayed(want)) // the rules lead to the older versions
	}
	b.relay.Settle()
	b.watch.applied(b.kernel, quiet)
	return a.report, nil
}

// Traffic implements proxier.Carrier.
func (b *Backend) Traffic() []proxier.Traffic { return b.relay.Traffic() }

// Forget implements proxier.Resyncer.
func (b *Backend) Forget() { b.mem, b.base = nil, nil }

// Close implements proxier.Backend. It returns when the last connection has ended,
// or after Settings.Userspace.Drain; the rules stay.
func (b *Backend) Close() error {
	if b.relay == nil {
		return nil
	}
	return b.relay.Close(b.drain)
}
