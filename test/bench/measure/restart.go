package measure

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"switchyard/test/bench/contest"
	"switchyard/test/bench/street"
)

// restart kills the contestant and starts it again on what it left behind: once
// with nothing changed, and once with a change that it missed, by which one can
// tell from outside when it is in sync.
func (v *Visit) restart(ctx context.Context) error {
	if err := v.restartUnchanged(ctx); err != nil || v.Contestant.Kind == contest.Floor {
		return err // the floor watches nothing, so it misses nothing
	}
	if err := v.stop(); err != nil {
		return err
	}
	i := v.Load.Services - 1
	pod, _, err := v.turn(ctx, i)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := v.Runner.Start(ctx, contest.Default()); err != nil {
		return err
	}
	if err := v.until(ctx, i, pod); err != nil {
		return err
	}
	v.emit(Restart, ToInSync, "s", time.Since(start).Seconds())
	return v.quiet(ctx)
}

func (v *Visit) restartUnchanged(ctx context.Context) error {
	generation, err := v.generation()
	if err != nil {
		return err
	}
	around := v.keepConnecting()
	before := v.Runner.Usage().CPU
	err = v.stop()
	if err == nil {
		err = v.Runner.Start(ctx, contest.Default())
	}
	if err == nil {
		err = pause(ctx, v.Effort.RestartFor)
	}
	if err == nil {
		err = v.settle(ctx)
	}
	tried, failed := around.end()
	if err == nil {
		err = v.quiet(ctx)
	}
	if err != nil {
		return err
	}
	used := v.Runner.Usage()
	v.emit(Restart, "CPU", "s", (used.CPU - before).Seconds())
	v.emitPeaks(Restart, used)
	v.emit(Restart, "connects", "", float64(tried))
	v.emit(Restart, "failed connects", "", float64(failed))
	return v.transactions(Restart, generation)
}

// settle waits until a contestant is quiet, but not for one that the connects alone
// keep busy: a relay.
func (v *Visit) settle(ctx context.Context) error {
	const most = 30 * time.Second
	if v.Contestant.Mode == "userspace" {
		return nil
	}
	short, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	if err := v.quiet(short); err != nil && short.Err() == nil {
		return err
	}
	return context.Cause(ctx)
}

// connecting is a client that connects all the time.
type connecting struct {
	stop          chan struct{}
	wait          sync.WaitGroup
	tried, failed int
}

// keepConnecting connects to services at random, some hundred times a second, so
// that what is measured keeps its core.
func (v *Visit) keepConnecting() *connecting {
	c := &connecting{stop: make(chan struct{})}
	random := rand.New(rand.NewPCG(v.Random.Uint64(), 1))
	c.wait.Go(func() {
		_ = v.Street.Walk(func(w *street.Walker) error {
			for {
				select {
				case <-c.stop:
					return nil
				case <-time.After(3 * time.Millisecond):
				}
				c.tried++
				if _, err := w.Ask(v.address(random.IntN(v.Load.Services))); err != nil {
					c.failed++
				}
			}
		})
	})
	return c
}

func (c *connecting) end() (tried, failed int) {
	close(c.stop)
	c.wait.Wait()
	return c.tried, c.failed
}
