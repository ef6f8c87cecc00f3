package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"switchyard/test/netlab"
)

// figures is what a run counts and measures. All methods may be called at once.
type figures struct {
	mu sync.Mutex

	events  map[string]int // steps by verb
	faults  map[string]int // by kind
	quiet   int            // comparisons of the kernel with a fresh one
	probes  int
	started time.Time

	tried, skipped, excused int
	cut                     int            // connections that stood, and ended with the process that carried them
	wrong                   map[string]int // connects that failed, by how
	ownErrors               map[string]int // the generator's
	resent                  int            // connects whose first SYN was lost though they could not but succeed
	took, lags              []time.Duration
	lastGood                time.Time
	gap                     time.Duration

	streamBytes, streams, reopened int
	datagrams, answered            int
	udpResumed                     []time.Duration

	converged, repairs []time.Duration // from a change to equal; from damage to equal
	moved, settled     []time.Duration // see measure
	stalled            []time.Duration // the generator, meanwhile
	idle               []time.Duration // of settled, those on an idle machine
	beside             []time.Duration // see curse
	calls              int             // writing ones of the proxy
	restarts           map[string]int
	idleRestarts       int
	idleWrites         int
}

func newFigures() *figures {
	return &figures{started: time.Now(), events: map[string]int{}, faults: map[string]int{},
		wrong: map[string]int{}, ownErrors: map[string]int{}, restarts: map[string]int{}}
}

// with runs f while nobody else has the figures.
func (f *figures) with(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *figures) skip()           { f.with(func() { f.skipped++ }) }
func (f *figures) own(what string) { f.with(func() { f.ownErrors[what]++ }) }

// connect counts a connection. The longest gap is between two that succeeded, outside of
// damage.
func (f *figures) connect(r netlab.Result, damaged, right bool, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tried++
	switch {
	case damaged:
		f.excused++
		f.lastGood = time.Time{}
		return
	case !right:
		f.wrong[r.Verdict.String()]++
	}
	if r.Verdict != netlab.Answered {
		return
	}
	f.took = append(f.took, r.Took)
	if !f.lastGood.IsZero() {
		f.gap = max(f.gap, at.Sub(f.lastGood))
	}
	f.lastGood = later(f.lastGood, at)
}

// failed is how many connects failed that should not have.
func (f *figures) failed() (n int) {
	for _, count := range f.wrong {
		n += count
	}
	return n
}

// print says it for people.
func (f *figures) print(w io.Writer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-22s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("time", "%s", time.Since(f.started).Round(time.Second))
	row("events", "%s", counts(f.events))
	row("faults", "%s", counts(f.faults))
	row("restarts", "%s", counts(f.restarts))
	row("connects", "%d tried, %d failed %s, %d more while damaged", f.tried, f.failed(), counts(f.wrong), f.excused)
	row("  of them", "%d with a lost SYN; longest gap %s; took %s", f.resent, round(f.gap), percentiles(f.took))
	row("  cut", "%d that stood when the process that carried them was killed", f.cut)
	row("  generator", "late by %s; %d ticks skipped; own errors %s", percentiles(f.lags), f.skipped, counts(f.ownErrors))
	row("streams", "%d, %d bytes there and back, %d opened again after conntrack was emptied", f.streams, f.streamBytes, f.reopened)
	row("datagrams", "%d sent, %d answered; flows right again after %s", f.datagrams, f.answered, percentiles(f.udpResumed))
	row("kernel compared", "%d times with a fresh render, %d probes with Decide", f.quiet, f.probes)
	row("change to kernel", "%s (and the source settling)", percentiles(f.converged))
	row("repairs", "%d, %s", len(f.repairs), percentiles(f.repairs))
	row("endpoint gone", "last new connection %s after the event", percentiles(f.moved))
	row("  of it", "%s after its receipt by the proxy; the generator stood still for %s", percentiles(f.settled), percentiles(f.stalled))
	row("  while idle", "%s, in %d of %d", percentiles(f.idle), len(f.idle), len(f.settled))
	row("beside a refused one", "others' changes in after %s", percentiles(f.beside))
	row("writing calls", "%d", f.calls)
	row("no-change restarts", "%d, with %d writes", f.idleRestarts, f.idleWrites)
}

func counts(m map[string]int) string {
	text := ""
	for _, k := range slices.Sorted(maps.Keys(m)) {
		text += fmt.Sprintf("%s %d, ", k, m[k])
	}
	if text == "" {
		return "none"
	}
	return text[:len(text)-2]
}

func percentiles(d []time.Duration) string {
	if len(d) == 0 {
		return "-"
	}
	return fmt.Sprintf("p50 %s p99 %s max %s", round(percentile(d, 50)), round(percentile(d, 99)), round(slices.Max(d)))
}

// percentile is the least value that p of 100 do not exceed.
func percentile(d []time.Duration, p int) time.Duration {
	if len(d) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(d))
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

func round(d time.Duration) time.Duration {
	if d > 10*time.Millisecond {
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}
