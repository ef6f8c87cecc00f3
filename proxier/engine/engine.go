package engine

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
)

// Target is one IP family: what to make of the cluster, and who does it.
type Target struct {
	Family proxier.Family

	// Compile turns the cluster into what this node must do. It is memoised by
	// its owner: the same pointer means that nothing changed. Called from one
	// goroutine at a time; the Compile of another Target may run meanwhile. No
	// State is a failure.
	Compile func(cluster.Snapshot) *proxier.State

	// Backend may also be a proxier.Watcher and a proxier.Resyncer. The engine
	// does not close it.
	Backend proxier.Backend

	// First is called once, before the first Apply and with what that is to bring
	// about; nil: nobody wants to look.
	First func(ctx context.Context, want *proxier.State)
}

// Options are the engine's intervals.
type Options struct {
	// MinSync is how long after the end of an apply the next change waits; 0: not
	// at all. A change after a longer quiet is applied at once.
	MinSync time.Duration
	// Resync is how long after the last apply that read the kernel back a
	// proxier.Resyncer is told to forget what it remembers, give or take a tenth;
	// 0: never.
	Resync time.Duration
	// Retry bounds the wait after a failed apply. The first wait is 1 s (or Retry
	// if shorter), then it doubles; never shorter than MinSync. 0: 30 s.
	Retry time.Duration
	// DriftEvery is how often a proxier.Watcher is asked whether somebody changed
	// the kernel; 0: every second.
	DriftEvery time.Duration
}

// The defaults of Options, and the first wait after a failure.
const (
	defaultRetry      = 30 * time.Second
	defaultDriftEvery = time.Second
	firstRetry        = time.Second
)

// Engine keeps the kernel of one node as the cluster wants it.
type Engine struct {
	families  []*family
	observers observers

	mu    sync.Mutex
	since time.Time     // the oldest change that Run has not passed on
	wake  chan struct{} // one slot: there is such a change
}

// New returns an Engine that does nothing until Run is called and the first
// Changed has come. The snapshot function is called from several goroutines.
// No log: nothing is logged.
func New(snapshot func() cluster.Snapshot, targets []Target, observers []Observer, o Options, log *slog.Logger) *Engine {
	o.Retry = cmp.Or(max(o.Retry, 0), defaultRetry)
	o.DriftEvery = cmp.Or(max(o.DriftEvery, 0), defaultDriftEvery)
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{wake: make(chan struct{}, 1)}
	e.observers = newObservers(observers, log)
	for _, t := range targets {
		f := newFamily(t, o)
		f.snapshot = snapshot
		f.observers = e.observers
		f.diary.log = log.With("family", t.Family.String())
		e.families = append(e.families, f)
	}
	return e
}

// Changed tells that the cluster, or anything else that Compile looks at, is no
// longer what it was. It never blocks and may be called from any goroutine, before
// Run too. The first call starts everything: sources make it when their initial
// lists are complete.
func (e *Engine) Changed() {
	e.mu.Lock()
	if e.since.IsZero() {
		e.since = time.Now()
	}
	e.mu.Unlock()
	signal(e.wake)
}

// Run applies until the context ends, waits for the applies that are running
// (they get the context) and returns nil. It is called once.
func (e *Engine) Run(ctx context.Context) error {
	var families sync.WaitGroup
	for _, f := range e.families {
		families.Go(func() { f.run(ctx) })
	}
	defer families.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
			e.passOn()
		}
	}
}

// passOn tells the observers and every family of the changes since the last call.
func (e *Engine) passOn() {
	e.mu.Lock()
	since := e.since
	e.since = time.Time{}
	e.mu.Unlock()
	if since.IsZero() { // taken together with an earlier signal
		return
	}
	e.observers.tell(func(o Observer) { o.Queued(since) })
	for _, f := range e.families {
		if f.progress.changed(since) { // else it knows, and waits for its time
			signal(f.wake)
		}
	}
}

// Status tells how each family fares, in the order of the targets. It answers at
// once, also during an apply.
func (e *Engine) Status() []Status {
	all := make([]Status, len(e.families))
	for i, f := range e.families {
		all[i] = f.progress.read()
	}
	return all
}

// signal fills a channel of one slot.
func signal(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}
