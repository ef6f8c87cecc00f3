package ipvs

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"time"

	"switchyard/iptables/ruleset"
	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

// Backend programs one family. See proxier.Backend.
type Backend struct {
	family   proxier.Family
	config   Config
	settings proxier.IPVSSettings
	tuner    tuner
	log      *slog.Logger
	servers  servers
	sets     sets
	device   device
	rules    rules
	hasher   *ruleset.Hasher

	mem   *memory             // nil: nothing is known of the kernel
	wall  wall                // the rules that stand
	since map[vs.Key]leavings // destinations that are leaving
	watch watch
}

var (
	_ proxier.Backend  = (*Backend)(nil)
	_ proxier.Watcher  = (*Backend)(nil)
	_ proxier.Resyncer = (*Backend)(nil)
)

// Apply implements proxier.Backend.
func (b *Backend) Apply(ctx context.Context, want *proxier.State) (proxier.Report, error) {
	a := attempt{Backend: b, ctx: ctx, now: time.Now(), aside: map[id]error{}}
	a.report.Full = b.mem == nil
	a.report.Repaired = b.watch.takeRepair()
	before := b.operations()
	err := a.apply(want)
	a.report.Operations += int(b.operations() - before)
	a.report.Took = time.Since(a.now)
	if err != nil {
		b.Forget()
		return a.report, err
	}
	a.conclude()
	return a.report, nil
}

func (b *Backend) operations() int64 {
	return b.servers.Operations() + b.sets.Operations() + b.device.Operations()
}

// configured is the configuration with nothing learnt.
func (b *Backend) configured() *Config {
	c := b.config
	c.missing = map[string]bool{}
	return &c
}

// Forget implements proxier.Resyncer.
func (b *Backend) Forget() { b.mem, b.wall = nil, wall{} }

// Close implements proxier.Backend.
func (b *Backend) Close() error {
	b.servers.Close()
	b.sets.Close()
	b.device.Close()
	return nil
}

// Drifted implements proxier.Watcher. It is also what ends the draining of
// destinations: it is called every second, by the same goroutine as Apply.
func (b *Backend) Drifted(ctx context.Context) (string, error) {
	if b.mem == nil {
		return "", nil
	}
	what, err := b.look(ctx)
	if what != "" {
		b.Forget()
		return what, err
	}
	return "", errors.Join(err, b.sweep(ctx))
}

// sinceOf are the moments known for a server's leaving destinations.
func (b *Backend) sinceOf(key vs.Key) leavings { return maps.Clone(b.since[key]) }
