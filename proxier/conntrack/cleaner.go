package conntrack

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"switchyard/proxier"
)

const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 10 * time.Second

	// maxFormer bounds what is remembered of vanished frontends while passes
	// fail. Beyond it the oldest are forgotten.
	maxFormer = 100_000
)

// Pass is one pass over the flows of one family.
type Pass struct {
	Family   proxier.Family
	Deleted  int
	Duration time.Duration
	Err      error // the pass will be repeated
}

// Cleaner deletes stale flows after a State was applied, in the background.
type Cleaner struct {
	clean   func(context.Context, proxier.Family, *Policy) (int, error)
	log     *slog.Logger
	observe func(Pass)
	relay   uint16
	wake    chan struct{}

	mu      sync.Mutex
	applied map[proxier.Family]*proxier.State
	pending map[proxier.Family]work
	// inherited are told to every pass until one succeeds.
	inherited map[proxier.Family]map[proxier.Way]bool
}

// work is what the next pass must do.
type work struct {
	next   *proxier.State
	former []former
}

// New returns a Cleaner that calls clean, which is Clean but in tests. It does
// nothing until Run.
func New(clean func(context.Context, proxier.Family, *Policy) (int, error), log *slog.Logger) *Cleaner {
	return &Cleaner{
		clean: clean, log: log, observe: func(Pass) {}, wake: make(chan struct{}, 1),
		applied: map[proxier.Family]*proxier.State{}, pending: map[proxier.Family]work{},
		inherited: map[proxier.Family]map[proxier.Way]bool{},
	}
}

// Observe sets a function that is told of each pass, for metrics. Call it before
// Run.
func (c *Cleaner) Observe(f func(Pass)) { c.observe = f }

// Relay tells that flows do not go to endpoints themselves, but to this port of the
// node, where a relay takes them. Call it before Run.
func (c *Cleaner) Relay(port uint16) { c.relay = port }

// Applied tells that the kernel was brought from last to next; last is nil if it
// is not known what the kernel held. It only notes what is to be done, whether or
// not Run is active. The Cleaner remembers the State it was last told of: what
// vanished while applying failed is cleaned up once it succeeds.
func (c *Cleaner) Applied(last, next *proxier.State) {
	if next == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := c.applied[next.Family]
	c.applied[next.Family] = next
	step := diff(last, next)
	if seen != nil && seen != last {
		missed := diff(seen, next)
		step.relevant = step.relevant || missed.relevant
		step.former = append(step.former, missed.former...)
	}
	step.relevant = step.relevant || len(c.inherited[next.Family]) > 0
	older, waiting := c.pending[next.Family]
	if step.relevant || waiting {
		c.pending[next.Family] = c.merge(older, work{next, step.former})
	}
	if step.relevant {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// merge returns the work of both; newer has the newer State.
func (c *Cleaner) merge(older, newer work) work {
	all := append(older.former[:len(older.former):len(older.former)], newer.former...)
	if extra := len(all) - maxFormer; extra > 0 {
		c.log.Warn("too many vanished services wait for conntrack cleanup, the oldest are left", "services", extra)
		all = all[extra:]
	}
	return work{newer.next, all}
}

// Run makes the passes until ctx ends. A pass that fails is logged and repeated
// with all that it had to do, first after 0.5 s, then after twice as long each
// time up to 10 s; newer work waits for that and joins it.
func (c *Cleaner) Run(ctx context.Context) {
	var delay time.Duration
	for c.wait(ctx, delay) {
		if c.passes(ctx) {
			delay = 0
		} else {
			delay = min(max(2*delay, firstRetry), lastRetry)
		}
	}
}

// wait returns when there is work or after a delay, if there is one; it reports
// false if ctx ended.
func (c *Cleaner) wait(ctx context.Context, delay time.Duration) bool {
	if delay == 0 {
		select {
		case <-c.wake:
		case <-ctx.Done():
		}
		return ctx.Err() == nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// passes does all pending work and reports whether none is left over.
func (c *Cleaner) passes(ctx context.Context) bool {
	done := true
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		c.mu.Lock()
		w, waiting := c.pending[family]
		delete(c.pending, family)
		c.mu.Unlock()
		if waiting && !c.pass(ctx, family, w) {
			done = false
		}
	}
	return done
}

func (c *Cleaner) pass(ctx context.Context, family proxier.Family, w work) bool {
	start := time.Now()
	policy := build(w.next, w.former)
	policy.relay = c.relay
	c.mu.Lock()
	policy.inherited = c.inherited[family]
	c.mu.Unlock()
	deleted, err := c.clean(ctx, family, policy)
	p := Pass{Family: family, Deleted: deleted, Duration: time.Since(start), Err: err}
	c.observe(p)
	switch {
	case err == nil && deleted > 0:
		c.log.Info("deleted stale flows", "family", family.String(), "flows", deleted, "duration", p.Duration)
	case err != nil:
		if ctx.Err() == nil {
			c.log.Warn("conntrack cleanup failed, it will be repeated", "family", family.String(), "flows", deleted, "err", err)
		}
		c.putBack(family, w)
	}
	if err == nil {
		c.mu.Lock()
		delete(c.inherited, family)
		c.mu.Unlock()
	}
	return err == nil
}

func (c *Cleaner) putBack(family proxier.Family, w work) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if newer, ok := c.pending[family]; ok {
		c.pending[family] = c.merge(w, newer)
		return
	}
	c.pending[family] = w
}
