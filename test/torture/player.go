package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/test/netlab"
)

// verbs are those that a script may have.
var verbs = []string{"slot", "node", "proxy", "lock", "fail", "curse", "damage", "stranger", "roll", "measure", "api", "quiet"}

// player makes a script happen.
type player struct {
	*stage
	figures *figures
	load    *load
	streams []*stream
	flows   []*sender

	until time.Time // the script ends with the first quiet after it; zero: with its last step
	gap   bool      // connects may fail while a process that carries them is replaced

	changing sync.Mutex // the world
	ending   []func()   // of what hinders the proxy, until the next quiet
	others   []string   // what is there of others
	down     []func()   // of the time in which nobody answers
	waiting  sync.WaitGroup

	mu       sync.Mutex
	failures []string
}

// fail notes what is not as promised; the run goes on to the next quiet.
func (p *player) fail(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.failures) < 20 {
		p.failures = append(p.failures, time.Now().Format("15:04:05.000 ")+what)
	}
}

// failed are the failures so far.
func (p *player) failed() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.failures)
}

// play plays all steps, or as many as it takes to fail.
func (p *player) play(ctx context.Context, steps []Step) (played int, err error) {
	defer p.waiting.Wait()
	for i, s := range steps {
		sleep(ctx, s.After)
		if ctx.Err() != nil {
			return i, ctx.Err()
		}
		p.figures.with(func() { p.figures.events[s.Verb]++ })
		if err := p.take(ctx, s); err != nil {
			return i, fmt.Errorf("step %d (%s): %w", i+1, s, err)
		}
		if s.Verb == "quiet" && (len(p.failed()) > 0 || !p.until.IsZero() && time.Now().After(p.until)) {
			return i + 1, nil
		}
	}
	return len(steps), nil
}

func (p *player) take(ctx context.Context, s Step) error {
	switch s.Verb {
	case "slot":
		return p.change(s)
	case "node":
		return p.changeNode(ctx, s)
	case "proxy":
		return p.signal(ctx, s.arg(0))
	case "lock":
		return p.lock(ctx, s.duration(0))
	case "fail":
		p.figures.with(func() { p.figures.faults["calls to fail"] += countFails(s.Args) })
		p.hinder()
		return p.wrap.fail(s.Args...)
	case "curse":
		return p.curse(ctx, s.index(0, slots), s.index(1, slots))
	case "damage":
		return p.damage(ctx, s)
	case "stranger":
		return p.stranger(ctx, s.arg(0) == "add", s.index(1, 100))
	case "api":
		return p.err(s)
	case "roll":
		return p.rollAll(ctx, s)
	case "measure":
		return p.measure(ctx, s.index(0, slots), s.number(1))
	}
	return p.quiet(ctx)
}

func countFails(tickets []string) (n int) {
	for _, t := range tickets {
		if t != "ok" {
			n++
		}
	}
	return n
}

// change changes a slot and tells the source.
func (p *player) change(steps ...Step) error {
	p.changing.Lock()
	defer p.changing.Unlock()
	changed := map[int]bool{}
	for _, s := range steps {
		if p.world.change(s) {
			changed[s.index(0, slots)] = true
		}
	}
	for i := range changed {
		if err := p.publish(i); err != nil {
			return err
		}
	}
	return nil
}

// err has the API server fail. Where there is none, nothing happens.
func (p *player) err(s Step) error {
	a, ok := p.source.(*api)
	if !ok {
		return nil
	}
	p.figures.with(func() { p.figures.faults["API server: "+s.arg(0)]++ })
	if s.arg(0) != "twice" && s.arg(0) != "heal" {
		p.hinder()
	}
	return a.relay.err(s.arg(0), s.duration(1))
}

func (p *player) changeNode(ctx context.Context, s Step) error {
	p.changing.Lock()
	defer p.changing.Unlock()
	if !p.world.change(s) {
		return nil
	}
	if s.arg(0) == "far" {
		operation := map[bool]string{true: "add", false: "del"}[p.world.far]
		if _, err := p.proxy.host.Output(ctx, "ip", "addr", operation, farAddr.String(), "dev", netlab.Uplink); err != nil {
			return err
		}
	}
	return p.publish(-1)
}

// hinder notes that the proxy cannot be expected to program before the next quiet.
func (p *player) hinder() { p.ending = append(p.ending, p.history.hinder()) }

// signal ends or starts the proxy. After "kill" and "term" it is down; "restart-kill"
// and "restart-term" have it up again at once, and in sync. "cold" has it start on a node
// that holds nothing of it.
func (p *player) signal(ctx context.Context, what string) error {
	end := p.history.hinder()
	if err := p.end(what); err != nil {
		return err
	}
	if what == "cold" {
		p.figures.with(func() { p.figures.restarts["cold"]++ })
		if err := p.cleanUp(ctx); err != nil {
			return err
		}
		p.ending = append(p.ending, end)
		return p.proxy.start() // the next quiet waits for it
	}
	if what == "kill" || what == "term" {
		p.ending = append(p.ending, end)
		return nil
	}
	defer end()
	if err := p.proxy.start(); err != nil {
		return err
	}
	err := p.await(ctx, "in sync", func() bool { _, ok := p.proxy.synced(); return ok })
	for _, up := range p.down {
		up()
	}
	p.down = nil
	return err
}

// end ends the proxy, if that is what is to be done. Connections through the process
// end with it; one that stays down answers nobody.
func (p *player) end(what string) error {
	signals := map[string]syscall.Signal{
		"kill": syscall.SIGKILL, "restart-kill": syscall.SIGKILL, "term": syscall.SIGTERM, "restart-term": syscall.SIGTERM,
	}
	sig, ends := signals[what]
	if !ends {
		return nil
	}
	names := map[syscall.Signal]string{syscall.SIGKILL: "SIGKILL", syscall.SIGTERM: "SIGTERM"}
	p.figures.with(func() { p.figures.restarts[names[sig]]++ })
	if !p.kernel.traits().relayed {
		return p.proxy.stop(sig)
	}
	switch what {
	case "kill", "term":
		p.down = append(p.down, p.history.damage())
	case "restart-kill":
		defer p.history.cut()()
	}
	if p.gap {
		p.down = append(p.down, p.history.damage())
	}
	for _, st := range p.streams {
		defer st.excuseUntil()()
	}
	return p.proxy.stop(sig)
}

// cleanUp kills the proxy and has it clean up, without tickets for that.
func (p *player) cleanUp(ctx context.Context) error {
	p.history.damage() // until it is in sync again
	for _, st := range p.streams {
		defer st.excuseUntil()()
	}
	if err := p.proxy.stop(syscall.SIGKILL); err != nil {
		return err
	}
	if err := p.checkOthers(); err != nil {
		return err
	}
	out, err := p.proxy.host.Output(ctx, p.proxy.binary, "cleanup")
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	ours, _, err := p.kernel.dump(p.proxy.host)
	if err == nil && len(ours) > 0 {
		p.fail("cleanup leaves behind: " + difference(ours, nil))
	}
	return errors.Join(err, p.checkOthers())
}

// await waits for something of the proxy.
func (p *player) await(ctx context.Context, what string, so func() bool) error {
	for start := time.Now(); !so(); sleep(ctx, 5*time.Millisecond) {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !p.proxy.running():
			return fmt.Errorf("the proxy ended by itself; it said:%s", p.proxy.tail())
		case time.Since(start) > p.pace.sync:
			return fmt.Errorf("the proxy is not %s after %s; it said:%s", what, p.pace.sync, p.proxy.tail())
		}
	}
	return nil
}

// lock has somebody hold the xtables lock, beside the script.
func (p *player) lock(ctx context.Context, d time.Duration) error {
	p.figures.with(func() { p.figures.faults["lock held"]++ })
	file, err := os.OpenFile(p.wrap.lock(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	end := p.history.hinder()
	p.ending = append(p.ending, end)
	p.waiting.Go(func() {
		defer file.Close()
		if unix.Flock(int(file.Fd()), unix.LOCK_EX) == nil {
			sleep(ctx, d)
		}
	})
	return nil
}

// damage breaks what the proxy programmed. With "wait" as its last word it waits for
// the repair, whose time counts if nothing hinders the proxy.
func (p *player) damage(ctx context.Context, s Step) error {
	d, known := p.kernel.damages()[s.arg(0)]
	if !known {
		return nil
	}
	p.figures.with(func() { p.figures.faults[s.arg(0)]++ })
	// Without any rule of ours the kernel may stop to track connections.
	if d.flows || p.history.isDamaged(time.Now(), time.Now()) {
		p.excuse()
	}
	end := p.history.damage()
	err := d.do(p.proxy.host, s.index(1, 1000))
	if err != nil {
		return err
	}
	if d.harmless { // the packets that were under way
		sleep(ctx, 100*time.Millisecond)
		end()
		return nil
	}
	_, others, err := p.kernel.dump(p.proxy.host)
	p.others = others
	if err != nil || s.arg(2) != "wait" || len(p.ending) > 0 || !p.proxy.running() {
		return err
	}
	start := time.Now()
	took, err := p.converge(ctx, 4*p.pace.repair)
	p.figures.with(func() { p.figures.repairs = append(p.figures.repairs, took) })
	// A machine that stands still repairs nothing.
	if took-p.load.stalled(start, start.Add(took)) > p.pace.repair && err == nil {
		p.fail(fmt.Sprintf("%s: the repair took %s", s, took))
	}
	end()
	return err
}

// excuse allows for the end of the streams.
func (p *player) excuse() {
	for _, st := range p.streams {
		st.excuse()
	}
}

// stranger adds something of somebody else's, or takes it out. What is there of
// others must be what it was before.
func (p *player) stranger(ctx context.Context, add bool, n int) error {
	if err := p.checkOthers(); err != nil {
		return err
	}
	commands, remove := p.kernel.strangers(n)
	if !add {
		commands = remove
	}
	for _, c := range commands {
		// What is there already, or is gone with a flushed table, is no matter.
		_, _ = p.proxy.host.Output(ctx, c[0], c[1:]...)
	}
	_, others, err := p.kernel.dump(p.proxy.host)
	p.others = others
	return err
}

func (p *player) checkOthers() error {
	_, others, err := p.kernel.dump(p.proxy.host)
	if err == nil && !slices.Equal(others, p.others) {
		p.fail("what is others' is not what it was: " + difference(others, p.others))
	}
	return err
}

// difference is what two dumps do not have in common.
func difference(got, want []string) string {
	more := map[string]int{}
	for _, l := range got {
		more[l]++
	}
	for _, l := range want {
		more[l]--
	}
	text := ""
	for _, l := range slices.Sorted(maps.Keys(more)) {
		if n := more[l]; n != 0 {
			text += fmt.Sprintf("\n    %+d %s", n, l)
		}
	}
	for i := 0; text == "" && i < len(got); i++ {
		if got[i] != want[i] {
			text = fmt.Sprintf("\n    line %d: %s\n    in place of: %s", i+1, got[i], want[i])
		}
	}
	return text[:min(len(text), 3000)]
}
