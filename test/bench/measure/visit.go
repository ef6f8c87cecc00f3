package measure

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"switchyard/test/bench/contest"
	"switchyard/test/bench/load"
	"switchyard/test/bench/record"
	"switchyard/test/bench/street"
)

// The measures, by the names that --measure takes.
const (
	ColdStart  = "coldstart"
	Idle       = "idle"
	Size       = "size"
	Connect    = "connect"
	Throughput = "throughput"
	Scheduler  = "scheduler"
	Change     = "change"
	Churn      = "churn"
	Restart    = "restart"
	ChangeZero = "change-zero"
	Programs   = "programs"
)

// ToInSync is the metric of ColdStart and Restart: the time until the last service
// answers, in seconds.
const ToInSync = "to in sync"

// Names lists all measures in the order in which they are taken.
func Names() []string {
	return []string{ColdStart, Idle, Size, Connect, Throughput, Scheduler, Change, Churn, ChangeZero, Restart, Programs}
}

// Effort is how much each measure does.
type Effort struct {
	GiveUp     time.Duration // how long a contestant may take to be right
	Budget     time.Duration // of one measure that repeats something; 0: no limit
	Visit      time.Duration // of a visit: after it no measure is begun; 0: no limit
	Changes    int           // of change and change-zero
	Churn      int           // changes of churn
	ChurnRate  float64       // a second
	Connects   int           // for each position
	Lasting    time.Duration // of throughput and of connects in parallel
	IdleFor    time.Duration
	RestartFor time.Duration // at least, of connects around a restart
}

// DefaultEffort is what a run does if nobody says otherwise.
func DefaultEffort() Effort {
	return Effort{GiveUp: 2 * time.Minute, Changes: 20, Churn: 1000, ChurnRate: 50, Connects: 2000,
		Lasting: 2 * time.Second, IdleFor: 5 * time.Second, RestartFor: 4 * time.Second}
}

// ErrNotUp is that not all services answered within Effort.GiveUp of the start.
var ErrNotUp = errors.New("not up")

// Visit is one contestant on one street.
type Visit struct {
	Contestant contest.Contestant
	Runner     contest.Runner
	Street     *street.Street
	Load       *load.Load
	Sink       load.Sink
	Effort     Effort
	Wanted     []string // measures
	// Random chooses services: the same seed for each contestant of a round.
	Random *rand.Rand
	// Emit takes a value. Doing is told what is done now, for a progress bar.
	Emit  func(record.Sample)
	Doing func(what string)
}

// step is one measure at its place in a visit.
type step struct {
	name string
	run  func(context.Context) error
	// on says for what kinds of contestants it has a meaning.
	on []contest.Kind
}

func (v *Visit) steps() []step {
	all := []contest.Kind{contest.Program, contest.Floor, contest.Direct}
	return []step{
		{Idle, v.idle, all[:1]},
		{Size, v.size, all[:2]},
		{Connect, v.connect, all},
		{Throughput, v.throughput, all},
		{Scheduler, v.scheduler, all[:2]},
		{Change, v.change, all[:1]},
		{Churn, v.churn, all[:1]},
		{ChangeZero, v.changeZero, all[:2]},
		{Restart, v.restart, all[:2]},
		{Programs, v.programs, all[:1]},
	}
}

// Run takes all wanted measures. One that fails is recorded and does not keep the
// others from being taken, unless the contestant never came up (ErrNotUp) or does not
// run any more.
func (v *Visit) Run(ctx context.Context) error {
	if err := v.coldStart(ctx); ctx.Err() != nil {
		return context.Cause(ctx)
	} else if err != nil {
		return v.neverUp(err)
	}
	began := time.Now()
	for _, s := range v.steps() {
		if !slices.Contains(v.Wanted, s.name) || !slices.Contains(s.on, v.Contestant.Kind) {
			continue
		}
		if v.Effort.Visit > 0 && time.Since(began) > v.Effort.Visit {
			v.fail(s.name, fmt.Errorf("not begun: the measures before took longer than %v", v.Effort.Visit))
			continue
		}
		v.Doing(s.name)
		if err := s.run(ctx); err != nil && ctx.Err() == nil {
			v.fail(s.name, err)
		}
		if err := errors.Join(ctx.Err(), v.ended()); err != nil {
			return err
		}
	}
	return nil
}

// neverUp records why a contestant did not come up, in the place of the time it took.
func (v *Visit) neverUp(err error) error {
	gaveUp := errors.Is(err, ErrNotUp)
	if gaveUp {
		err = fmt.Errorf("%w after %v", ErrNotUp, v.Effort.GiveUp)
	}
	v.Emit(record.Sample{Contestant: v.Contestant.Name, Measure: ColdStart, Metric: ToInSync, Unit: "s", Error: err.Error()})
	if gaveUp {
		return err
	}
	return nil
}

func (v *Visit) ended() error {
	if v.Contestant.Kind != contest.Program {
		return nil
	}
	return v.Runner.Ended()
}

func (v *Visit) emit(measure, metric, unit string, value float64) {
	v.Emit(record.Sample{Contestant: v.Contestant.Name, Measure: measure, Metric: metric, Unit: unit, Value: value})
}

func (v *Visit) fail(measure string, err error) {
	v.Emit(record.Sample{Contestant: v.Contestant.Name, Measure: measure, Metric: "failed", Error: err.Error()})
}

// emitQuantiles emits the quantiles of unsorted values, of which there is at least one.
func (v *Visit) emitQuantiles(measure, metric, unit string, values []float64) {
	slices.Sort(values)
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}} {
		v.emit(measure, metric+" "+q.name, unit, record.Quantile(values, q.at))
	}
}

// start starts the contestant and waits until it is in sync; it returns how long
// that took from the start of the process.
func (v *Visit) start(ctx context.Context, s contest.Settings) (time.Duration, error) {
	start := time.Now()
	if err := v.Runner.Start(ctx, s); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, v.Effort.GiveUp, ErrNotUp)
	defer cancel()
	err := v.inSync(ctx)
	return time.Since(start), err
}

// stop ends the contestant as a crash would, so that nothing is tidied up.
func (v *Visit) stop() error { return v.Runner.Stop(syscall.SIGKILL) }

// poll is the pause between two questions while something is waited for that takes
// long: short beside it, and no load.
const poll = 3 * time.Millisecond

// inSync waits until the last service answers, and then a sample of all.
func (v *Visit) inSync(ctx context.Context) error {
	sample := v.sample(200)
	return v.Street.Walk(func(w *street.Walker) error {
		for k := 0; k < len(sample); {
			if _, err := w.Ask(v.address(sample[k])); err == nil {
				k++
				continue
			}
			if err := errors.Join(context.Cause(ctx), v.ended()); err != nil {
				return err
			}
			time.Sleep(poll)
		}
		return nil
	})
}

// sample is the last service, the first, and so many more.
func (v *Visit) sample(n int) []int {
	out := []int{v.Load.Services - 1, 0}
	for range n {
		out = append(out, v.Random.IntN(v.Load.Services))
	}
	return out
}

// quiet waits until the contestant uses hardly any CPU: at most 5 % of a core over
// 300 ms, twice in a row.
func (v *Visit) quiet(ctx context.Context) error {
	const window, most = 300 * time.Millisecond, 15 * time.Millisecond
	deadline := time.Now().Add(v.Effort.GiveUp)
	for calm := 0; calm < 2; {
		before := v.Runner.Usage().CPU
		if err := pause(ctx, window); err != nil {
			return err
		}
		calm++
		if v.Runner.Usage().CPU-before > most {
			calm = 0
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("still at work after %v", v.Effort.GiveUp)
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
