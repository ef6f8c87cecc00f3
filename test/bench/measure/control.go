package measure

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"switchyard/test/bench/contest"
	"switchyard/test/bench/load"
	"switchyard/test/bench/street"
)

const mebibyte = 1 << 20

// coldStart starts the contestant on a node that holds nothing. One that answers but
// is still at work when it is given up is asked for the rest all the same.
func (v *Visit) coldStart(ctx context.Context) error {
	v.Doing(ColdStart)
	before := v.Runner.Usage().CPU
	took, err := v.start(ctx, contest.Default())
	if err != nil || v.Contestant.Kind == contest.Direct {
		return err
	}
	wanted := slices.Contains(v.Wanted, ColdStart)
	if wanted {
		v.emit(ColdStart, ToInSync, "s", took.Seconds())
	}
	if err := v.quiet(ctx); err != nil {
		v.fail(ColdStart, err)
		return ctx.Err()
	}
	if wanted {
		used := v.Runner.Usage()
		v.emit(ColdStart, "CPU", "s", (used.CPU - before).Seconds())
		v.emitPeaks(ColdStart, used)
	}
	return nil
}

// emitPeaks emits the two peaks of memory: the sum over the processes, and what the
// kernel charges them with.
func (v *Visit) emitPeaks(measure string, used contest.Usage) {
	v.emit(measure, "peak RSS", "MiB", float64(used.Peak)/mebibyte)
	if used.Charged > 0 {
		v.emit(measure, "peak charged", "MiB", float64(used.Charged)/mebibyte)
	}
}

// idle is what a contestant needs while nothing changes.
func (v *Visit) idle(ctx context.Context) error {
	before := v.Runner.Usage().CPU
	if err := pause(ctx, v.Effort.IdleFor); err != nil {
		return err
	}
	used := v.Runner.Usage()
	v.emit(Idle, "CPU", "ms/s", (used.CPU-before).Seconds()*1000/v.Effort.IdleFor.Seconds())
	v.emit(Idle, "RSS", "MiB", float64(used.RSS)/mebibyte)
	return nil
}

// change replaces one endpoint at a time, each after the contestant was quiet for
// longer than any minimum interval.
func (v *Visit) change(ctx context.Context) error {
	return v.changes(ctx, Change, 1200*time.Millisecond)
}

// changeZero is change without a minimum interval.
func (v *Visit) changeZero(ctx context.Context) error {
	if err := v.stop(); err != nil {
		return err
	}
	if _, err := v.start(ctx, contest.Settings{MinSync: 0}); err != nil {
		return err
	}
	if err := v.quiet(ctx); err != nil {
		return err
	}
	return v.changes(ctx, ChangeZero, 0)
}

func (v *Visit) changes(ctx context.Context, measure string, rest time.Duration) error {
	var latency []float64
	before := v.Runner.Usage().CPU
	began := time.Now()
	for !v.enough(len(latency), began) {
		// A moment at random: no contestant's timer shall be in step with us.
		err := pause(ctx, rest+time.Duration(v.Random.IntN(50))*time.Millisecond)
		if err != nil {
			return err
		}
		i := v.Random.IntN(v.Load.Services)
		took, err := v.changeOne(ctx, i)
		if err != nil {
			return err
		}
		latency = append(latency, took.Seconds()*1000)
		if err := v.quiet(ctx); err != nil {
			return err
		}
	}
	used := v.Runner.Usage().CPU - before
	v.emitQuantiles(measure, "latency", "ms", latency)
	v.emit(measure, "CPU for each", "ms", used.Seconds()*1000/float64(len(latency)))
	return nil
}

// fewest are the changes that are made even if time is short.
const fewest = 3

// enough reports whether so many changes will do: all that are wanted, or a few that
// took the measure's whole time.
func (v *Visit) enough(made int, since time.Time) bool {
	spent := v.Effort.Budget > 0 && time.Since(since) > v.Effort.Budget
	return made >= v.Effort.Changes || made >= fewest && spent
}

// changeOne replaces an endpoint of service i and returns the time from when that
// could be seen until the new endpoint answered.
func (v *Visit) changeOne(ctx context.Context, i int) (time.Duration, error) {
	pod, began, err := v.turn(ctx, i)
	if err != nil {
		return 0, err
	}
	err = v.until(ctx, i, pod)
	return max(0, time.Since(began)), err
}

// turn replaces an endpoint of service i by one that nobody had.
func (v *Visit) turn(ctx context.Context, i int) (netip.Addr, time.Time, error) {
	pod := v.Load.Turn(i)
	at, err := v.Sink.Write(ctx, v.Load, i)
	if err != nil {
		return pod, at, err
	}
	if later, err := v.Runner.Changed(ctx, i); err != nil || !later.IsZero() {
		return pod, later, err
	}
	return pod, at, nil
}

// until connects to service i until a pod answers, without a pause: of M endpoints
// it is met after M connects on average.
func (v *Visit) until(ctx context.Context, i int, pod netip.Addr) error {
	ctx, cancel := context.WithTimeoutCause(ctx, v.Effort.GiveUp, fmt.Errorf("%s: the new endpoint %s does not answer", load.Name(i), pod))
	defer cancel()
	return v.Street.Walk(func(w *street.Walker) error {
		for {
			if met, err := w.Ask(load.VIP(i)); err == nil && met.Pod == pod {
				return nil
			}
			if err := errors.Join(context.Cause(ctx), v.ended()); err != nil {
				return err
			}
		}
	})
}

// churn makes many changes at a steady rate, of services at random.
func (v *Visit) churn(ctx context.Context) error {
	generation, err := v.generation()
	if err != nil {
		return err
	}
	before := v.Runner.Usage().CPU
	last, err := v.writeMany(ctx, v.Effort.Churn)
	if err != nil {
		return err
	}
	done := time.Now()
	limited, cancel := context.WithTimeoutCause(ctx, v.Effort.GiveUp, fmt.Errorf("not right after %v", v.Effort.GiveUp))
	defer cancel()
	for i, pod := range last {
		if err := v.until(limited, i, pod); err != nil {
			return err
		}
	}
	right := time.Since(done)
	if err := v.quiet(ctx); err != nil {
		return err
	}
	used := (v.Runner.Usage().CPU - before).Seconds()
	v.emit(Churn, "CPU", "s", used)
	v.emit(Churn, "CPU for each", "ms", used*1000/float64(v.Effort.Churn))
	v.emit(Churn, "until right", "ms", right.Seconds()*1000)
	return v.transactions(Churn, generation)
}

// judged is how many of the services that changed last are asked whether they are
// right.
const judged = 20

// writeMany makes n changes at the rate of churn and returns, of the services that changed
// last, who must answer. Writes overlap, so that a slow one does not lower the rate.
func (v *Visit) writeMany(ctx context.Context, n int) (map[int]netip.Addr, error) {
	newest := map[int]netip.Addr{}
	var order []int
	var writes sync.WaitGroup
	var failed errorList
	tick := time.NewTicker(time.Duration(float64(time.Second) / v.Effort.ChurnRate))
	defer tick.Stop()
	for range n {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
		i := v.Random.IntN(v.Load.Services)
		newest[i] = v.Load.Turn(i)
		order = append(order, i)
		writes.Go(func() {
			_, err := v.Sink.Write(ctx, v.Load, i)
			failed.add(err)
		})
	}
	writes.Wait()
	last := map[int]netip.Addr{}
	for _, i := range order[max(0, len(order)-judged):] {
		last[i] = newest[i]
	}
	return last, failed.join()
}

// errorList takes errors of several goroutines.
type errorList struct {
	mu   sync.Mutex
	errs []error
}

func (l *errorList) add(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errs = append(l.errs, err)
}

func (l *errorList) join() error { return errors.Join(l.errs...) }

// generation is that of the node's nft tables; 0 if the contestant does not use them.
func (v *Visit) generation() (uint32, error) {
	if v.Contestant.Tables != contest.NFT {
		return 0, nil
	}
	return street.Generation(v.Street.Node)
}

// transactions emits how many nft transactions there were since a generation.
func (v *Visit) transactions(measure string, since uint32) error {
	now, err := v.generation()
	if err == nil && v.Contestant.Tables == contest.NFT {
		v.emit(measure, "nft transactions", "", float64(now-since))
	}
	return err
}
