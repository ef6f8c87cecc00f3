package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"switchyard/cmd/backends"
	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// takeover removes what other modes have left in the kernel, once this one serves: ours
// and upstream's, in both flavours of iptables.
//
//	first sync of each family ─► route_localnet ─► rules ─► upstream's nftables ─► virtual servers, …
//
// Until then both stand side by side: a new connection goes the way of either, and both
// know the same endpoints. What has names that both modes have was taken over by the
// first sync. A crash in between leaves less to find at the next start.
type takeover struct {
	driver proxier.Driver
	log    *slog.Logger
	begun  func() bool // all there is was delivered

	mu      sync.Mutex
	waiting map[proxier.Family]bool   // whose first sync is still to come
	flavour map[proxier.Family]string // of this mode's own rules
	ready   chan struct{}
}

func newTakeover(p *proxy) *takeover {
	t := &takeover{
		driver: p.driver, log: p.log, begun: p.start.hasBegun, ready: make(chan struct{}),
		waiting: map[proxier.Family]bool{}, flavour: map[proxier.Family]string{},
	}
	for i, f := range p.families {
		t.waiting[f] = true
		if b, ok := p.opened[i].(proxier.Filterer); ok {
			t.flavour[f] = b.Flavour()
		}
	}
	return t
}

// Queued implements engine.Observer.
func (t *takeover) Queued(time.Time) {}

// Failed implements engine.Observer.
func (t *takeover) Failed(proxier.Family, error) {}

// Applied implements engine.Observer. A start with the Service of the API server alone
// is none of a node where another mode has served.
func (t *takeover) Applied(f proxier.Family, _, _ *proxier.State, _ proxier.Report) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.waiting[f] || !t.begun() {
		return
	}
	delete(t.waiting, f)
	if len(t.waiting) == 0 {
		close(t.ready)
	}
}

// How long to wait before what could not be removed is tried again.
const (
	removeAgain    = 5 * time.Second
	removeAgainMax = 5 * time.Minute
)

// run waits for the first syncs, and sees to it that all is removed.
func (t *takeover) run(ctx context.Context) {
	select {
	case <-t.ready:
	case <-ctx.Done():
		return
	}
	for wait := removeAgain; ; wait = min(2*wait, removeAgainMax) {
		removed, err := t.remove(ctx)
		if len(removed) > 0 {
			t.log.Info("removed what another mode had left", "what", removed)
		}
		if err == nil {
			t.log.Info("no other mode has anything in the kernel")
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		t.log.Error("what another mode has left cannot be removed: it is tried again", "in", wait, "error", err)
		if sleep(ctx, wait); ctx.Err() != nil {
			return
		}
	}
}

func (t *takeover) remove(ctx context.Context) (removed []string, err error) {
	var errs []error
	note := func(what []string, err error) {
		removed, errs = append(removed, what...), append(errs, err)
	}
	note(nil, adoptLocalnet(ctx))
	if !t.driver.Localnet {
		// Before the guard that stands behind it goes.
		note(closeLocalhost(ctx))
	}
	note(removeRules(ctx, t.driver.Rules, t.flavour))
	if t.driver.Localnet {
		note(nil, keepMark(ctx, ruleset.Flavour(t.flavour[proxier.IPv4])))
	}
	for _, other := range backends.All() {
		if other.Name != t.driver.Name && other.Objects != nil {
			note(other.Objects(ctx))
		}
	}
	return removed, errors.Join(errs...)
}

// removeRules removes the rules of all modes but those that are held, which are those
// of one flavour in each family.
func removeRules(ctx context.Context, held proxier.Claim, flavours map[proxier.Family]string) (removed []string, err error) {
	all := []proxier.Claim{upstreamRelics()}
	for _, d := range backends.All() {
		all = append(all, d.Rules)
	}
	var errs []error
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		for _, flavour := range []ruleset.Flavour{ruleset.NFT, ruleset.Legacy} {
			if flavour == ruleset.Legacy && !ruleset.LegacyTables(family, ruleTables...) {
				continue
			}
			tool, err := ruleset.Find(ctx, family, flavour)
			if err != nil {
				continue // not there: nothing of ours either
			}
			l := leftovers{all: all}
			if flavours[family] == string(flavour) {
				l.held = held
			}
			what, err := l.removeFrom(ctx, tool)
			removed, errs = append(removed, what...), append(errs, err)
		}
	}
	return removed, errors.Join(errs...)
}

// ruleTables are those in which some mode has rules. What leads connections comes first:
// a relay that has ended takes none.
var ruleTables = []string{"nat", "mangle", "filter"}

// removeFrom removes them from one family's tables of one flavour.
func (l *leftovers) removeFrom(ctx context.Context, tool *ruleset.Tool) (removed []string, err error) {
	var errs []error
	if tool.Flavour() == ruleset.NFT {
		gone, err := tool.DeleteTable(upstreamTable)
		if gone {
			removed = append(removed, fmt.Sprintf("%s, nftables: table %s", tool.Family(), upstreamTable))
		}
		errs = append(errs, err)
	}
	for _, table := range ruleTables {
		n, err := l.removeFromTable(ctx, tool, table)
		if err != nil {
			errs = append(errs, fmt.Errorf("remove rules of another mode, %s, %s, table %s: %w", tool.Family(), tool.Flavour(), table, err))
		}
		if n > 0 {
			removed = append(removed, fmt.Sprintf("%s, %s, table %s: %d chains", tool.Family(), tool.Flavour(), table, n))
		}
	}
	return removed, errors.Join(errs...)
}

func (l *leftovers) removeFromTable(ctx context.Context, tool *ruleset.Tool, table string) (chains int, err error) {
	if tool.Flavour() == ruleset.Legacy && !ruleset.LegacyTables(tool.Family(), table) {
		return 0, nil // to look into it would make it
	}
	// Names alone are read at a small part of the cost of rules.
	names, err := tool.Chains(table)
	old := func(chain string) bool { return chain == kubeFirewall || l.mayGo(table, chain) }
	if err == nil && !slices.ContainsFunc(names, old) {
		return 0, nil
	}
	dump, err := tool.Save(ctx, table)
	if err != nil {
		return 0, err
	}
	l.read(table, dump)
	ways, gone := l.removal()
	if len(ways)+len(gone) == 0 {
		return 0, nil
	}
	perCommit := 0
	if tool.Flavour() == ruleset.NFT {
		perCommit = removalChunk
	}
	return len(gone), tool.Restore(ctx, l.removalInput(ways, gone, perCommit))
}
