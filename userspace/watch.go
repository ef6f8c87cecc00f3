package userspace

import (
	"context"
	"slices"
	"time"

	"switchyard/iptables/ruleset"
)

// watch notices that somebody else wrote to the kernel's tables: a fingerprint of
// all tables is compared each time, ours only if it changed.
type watch struct {
	stamp  ruleset.Stamp // after our last write, or the last comparison
	known  bool          // stamp is
	cost   time.Duration // of the last comparison
	last   time.Time     // when that was
	repair string        // what the next Apply puts right
}

// compareShare bounds what comparing costs where somebody else writes all the time:
// at most one part in this many of one core's time.
const compareShare = 10

func (w *watch) takeRepair() string {
	repair := w.repair
	w.repair = ""
	return repair
}

// quiet reports whether nobody wrote since the stamp was taken.
func (w *watch) quiet(k kernel) bool {
	stamp, err := k.Stamp()
	return err == nil && w.known && stamp == w.stamp
}

// applied takes the stamp after our own write. quiet: nobody else had written before
// it; else the tables are to be compared.
func (w *watch) applied(k kernel, quiet bool) {
	stamp, err := k.Stamp()
	w.stamp, w.known = stamp, err == nil && quiet
}

// Drifted implements proxier.Watcher.
func (b *Backend) Drifted(ctx context.Context) (string, error) {
	w := &b.watch
	if b.mem == nil || b.mem.state == nil {
		return "", nil
	}
	if w.quiet(b.kernel) {
		return "", nil
	}
	if time.Since(w.last) < compareShare*w.cost {
		return "", nil
	}
	start := time.Now()
	// What is written from here on shows in the next comparison.
	stamp, err := b.kernel.Stamp()
	w.stamp, w.known = stamp, err == nil
	standing, base, err := b.look(ctx)
	if err != nil {
		b.Forget()
		return "", err
	}
	changed := b.mem.held.difference(standing.held)
	lost := slices.IndexFunc(b.base, func(r baseRule) bool { return !slices.Contains(base, r) })
	switch {
	case changed != "":
		w.repair = "chain " + changed + " was changed or deleted"
	case lost >= 0:
		w.repair = "the way to our chains from " + b.base[lost].chain + " was deleted"
	default:
		w.cost, w.last = time.Since(start), time.Now()
		return "", nil
	}
	b.Forget()
	return w.repair, nil
}
