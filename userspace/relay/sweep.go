package relay

import "time"

// How long a connection may be without a byte in either direction: one on which there
// was none ever, as those of a slow-loris that only opens them, and any other, which
// conntrack gives the same time. A peer that takes no bytes lets none pass either.
const (
	silentTime = time.Hour
	idleTime   = 24 * time.Hour
	sweepEvery = time.Minute
)

// rest is since when a link has carried no byte. Only the sweep uses it: connections
// need no timers of their own.
type rest struct {
	bytes int64 // carried when last looked
	since time.Time
}

// over reports whether a link has been without a byte for too long.
func (r *rest) over(bytes int64, now time.Time) bool {
	if r.since.IsZero() || bytes != r.bytes {
		r.bytes, r.since = bytes, now
		return false
	}
	limit := idleTime
	if bytes == 0 {
		limit = silentTime
	}
	return now.Sub(r.since) >= limit
}

// sweep ends the connections that have been idle for too long, by a reset, and has the
// kernel watch the endpoints of those that it sees for the first time.
func (r *Relay) sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.links {
		if l.rest.since.IsZero() {
			l.endpoint.watchPeer()
		}
		if l.rest.over(l.up.bytes.Load()+l.down.bytes.Load(), now) {
			l.cut()
		}
	}
}

// sweepUntil sweeps until the relay is closed.
func (r *Relay) sweepUntil(stop <-chan struct{}) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			r.sweep(now)
		case <-stop:
			return
		}
	}
}
