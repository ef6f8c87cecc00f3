package iptables

import (
	"context"
	"time"

	"switchyard/iptables/ruleset"
)

// watch notices that somebody else wrote to the kernel's tables.
type watch struct {
	stamp  ruleset.Stamp // after our last write
	known  bool          // stamp is
	cost   time.Duration // of the last comparison with the kernel
	last   time.Time     // when that was
	repair string        // what the next Apply puts right
}

// verifyShare bounds what comparing costs where somebody else writes all the
// time: at most one part in this many of one core's time.
const verifyShare = 10

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

// due reports whether the tables have to be compared: somebody wrote, and the
// last comparison is long enough ago. It takes the new stamp as known, since what
// is written after it shows in the next one.
func (w *watch) due(k kernel) bool {
	stamp, err := k.Stamp()
	if err == nil && w.known && stamp == w.stamp {
		return false
	}
	if time.Since(w.last) < verifyShare*w.cost {
		return false
	}
	w.stamp, w.known = stamp, err == nil
	return true
}

func (w *watch) verified(cost time.Duration) {
	w.cost, w.last = cost, time.Now()
}

// Drifted implements proxier.Watcher: a fingerprint of the kernel's tables is
// compared each time, the tables themselves only if it changed.
func (b *Backend) Drifted(ctx context.Context) (string, error) {
	if b.mem == nil || b.mem.state == nil || !b.watch.due(b.kernel) {
		return "", nil
	}
	start := time.Now()
	known, state := b.mem, b.accepted
	if err := b.read(ctx, &state.Node); err != nil {
		b.Forget()
		return "", err
	}
	what, same := known.held.same(b.mem.held)
	switch {
	case !same:
		what = "chain " + what + " was changed or deleted"
	case len(b.missing) > 0:
		what = "the way to our chains from " + b.missing[0].chain + " was deleted"
	default:
		b.mem = known
		b.watch.verified(time.Since(start))
		return "", nil
	}
	b.watch.repair = what
	return what, nil
}
