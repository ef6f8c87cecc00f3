package engine

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
)

// fake is a backend that does what a test tells it, and notes when.
type fake struct {
	mu     sync.Mutex
	start  time.Time
	took   time.Duration                          // of each Apply
	answer func(call int) (proxier.Report, error) // nil: success without a write
	hook   func(ctx context.Context, call int)    // runs inside Apply
	drift  func(asked int) (string, error)        // nil: never
	begun  []time.Duration                        // when each Apply began
	ended  []time.Duration                        // when each ended
	states []*proxier.State                       // of each Apply
	asked  []time.Duration                        // when each Drifted came
	forgot []time.Duration                        // when each Forget came
}

func (b *fake) Apply(ctx context.Context, want *proxier.State) (proxier.Report, error) {
	b.mu.Lock()
	call := len(b.begun)
	b.begun = append(b.begun, time.Since(b.start))
	b.states = append(b.states, want)
	b.mu.Unlock()
	if b.hook != nil {
		b.hook(ctx, call)
	}
	time.Sleep(b.took)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = append(b.ended, time.Since(b.start))
	if b.answer == nil {
		return proxier.Report{}, nil
	}
	return b.answer(call)
}

func (b *fake) Close() error { panic("the engine must not close a backend") }

// watched is a fake that is a Watcher too, resynced one that is a Resyncer.
type watched struct{ *fake }

func (b watched) Drifted(context.Context) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, time.Since(b.start))
	if b.drift == nil {
		return "", nil
	}
	return b.drift(len(b.asked) - 1)
}

type resynced struct{ *fake }

func (b resynced) Forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forgot = append(b.forgot, time.Since(b.start))
}

// bench is an engine under test in a synctest bubble.
type bench struct {
	*Engine
	t         *testing.T
	fakes     []*fake
	stop      context.CancelFunc
	done      chan error
	log       *buffer
	snapshots *counter
	compiles  *counter
	seen      *record
}

// buffer is a bytes.Buffer for two goroutines.
type buffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) add() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
}

// record is an Observer that keeps all it is told.
type record struct {
	mu      sync.Mutex
	queued  []time.Time
	applied []applied
	failed  []error
}

type applied struct {
	family     proxier.Family
	last, next *proxier.State
	report     proxier.Report
}

func (r *record) Queued(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queued = append(r.queued, at)
}

func (r *record) Applied(f proxier.Family, last, next *proxier.State, report proxier.Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.applied = append(r.applied, applied{f, last, next, report})
}

func (r *record) Failed(_ proxier.Family, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, err)
}

// changing compiles to a new State each time, constant to the same one.
func changing(cluster.Snapshot) *proxier.State { return &proxier.State{} }

func constant() func(cluster.Snapshot) *proxier.State {
	state := &proxier.State{}
	return func(cluster.Snapshot) *proxier.State { return state }
}

// trial is what run starts: an IPv4 backend, and what differs from the plain case.
type trial struct {
	options  Options
	backend  func(*fake) proxier.Backend // nil: neither Watcher nor Resyncer
	compile  func(cluster.Snapshot) *proxier.State
	ipv6     *fake // a second target
	observer Observer
	first    func(context.Context, *proxier.State)
}

// run starts an engine on a fake inside a bubble, and ends it after the script.
func (tr trial) run(t *testing.T, b *fake, script func(*bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := tr.start(t, b)
		script(e)
		e.stop()
		if err := <-e.done; err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
	})
}

func (tr trial) start(t *testing.T, b *fake) *bench {
	e := &bench{
		t: t, log: new(buffer), done: make(chan error, 1), fakes: []*fake{b},
		snapshots: new(counter), compiles: new(counter), seen: new(record),
	}
	if tr.compile == nil {
		tr.compile = changing
	}
	var backend proxier.Backend = b
	if tr.backend != nil {
		backend = tr.backend(b)
	}
	compile := func(s cluster.Snapshot) *proxier.State { e.compiles.add(); return tr.compile(s) }
	targets := []Target{{Family: proxier.IPv4, Compile: compile, Backend: backend, First: tr.first}}
	b.start = time.Now()
	if tr.ipv6 != nil {
		tr.ipv6.start = time.Now()
		targets = append(targets, Target{Family: proxier.IPv6, Compile: changing, Backend: tr.ipv6})
	}
	observers := []Observer{e.seen}
	if tr.observer != nil {
		observers = []Observer{tr.observer, e.seen}
	}
	log := slog.New(slog.NewTextHandler(e.log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	snapshot := func() cluster.Snapshot { e.snapshots.add(); return cluster.Snapshot{} }
	e.Engine = New(snapshot, targets, observers, tr.options, log)
	ctx, cancel := context.WithCancel(t.Context())
	e.stop = cancel
	go func() { e.done <- e.Run(ctx) }()
	synctest.Wait()
	return e
}

// after lets time pass, then everything come to rest.
// What the test did before happens before what the engine does now: a timer alone
// does not order the two for the race detector.
func (e *bench) after(d time.Duration) {
	for _, mu := range []*sync.Mutex{&e.fakes[0].mu, &e.log.mu, &e.snapshots.mu, &e.compiles.mu, &e.seen.mu} {
		touch(mu)
	}
	time.Sleep(d)
	synctest.Wait()
}

func touch(mu *sync.Mutex) {
	mu.Lock()
	defer mu.Unlock()
}

// begun checks when the applies of the first target began.
func (e *bench) begun(want ...time.Duration) {
	e.t.Helper()
	same(e.t, "applies began at", e.fakes[0].begun, want)
}

func same(t *testing.T, what string, got, want []time.Duration) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s %v, want %v", what, got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s %v, want %v", what, got, want)
		}
	}
}

// logged checks how many lines of the log hold all the parts.
func (e *bench) logged(want int, parts ...string) {
	e.t.Helper()
	n := 0
lines:
	for line := range strings.Lines(e.log.String()) {
		for _, p := range parts {
			if !strings.Contains(line, p) {
				continue lines
			}
		}
		n++
	}
	if n != want {
		e.t.Errorf("%d lines with %q, want %d; the log:\n%s", n, parts, want, e.log.String())
	}
}

// poisoned is a set-aside service.
func poisoned(name string) proxier.SetAside {
	return proxier.SetAside{
		Service:  proxier.ServicePort{Namespace: "default", Service: name},
		Protocol: proxier.TCP, Reason: errors.New("refused by the kernel"),
	}
}
