package engine

import (
	"math/rand/v2"
	"time"
)

// backoff is a wait that doubles from first to limit.
type backoff struct {
	first, limit time.Duration
	last         time.Duration
}

func (b *backoff) next() time.Duration {
	b.last = min(max(b.first, 2*b.last), b.limit)
	return b.last
}

func (b *backoff) reset() { b.last = 0 }

// jitter is d, give or take a tenth, so that the nodes of a cluster that were
// started together do not work together for ever.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*float64(d)/5)
}

// agenda holds when the next thing of each sort is due; zero: not planned.
type agenda struct {
	change time.Time // apply: the cluster changed
	retry  time.Time // apply: the last attempt left something undone
	resync time.Time // forget, then apply
	drift  time.Time // ask the Watcher, then perhaps apply
}

// next is the earliest point of the agenda; ok is false if it is empty.
func (a *agenda) next() (at time.Time, ok bool) {
	for _, t := range []time.Time{a.change, a.retry, a.resync, a.drift} {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	return at, !at.IsZero()
}

// due reports whether a planned time has come.
func due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }
