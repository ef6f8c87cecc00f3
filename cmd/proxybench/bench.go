package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"switchyard/test/bench/contest"
	"switchyard/test/bench/load"
	"switchyard/test/bench/measure"
	"switchyard/test/bench/record"
	"switchyard/test/bench/street"
	"switchyard/test/kubeapi"
	"switchyard/test/uml"
)

// bench makes the whole run. What was measured before an error is in the run.
func bench(ctx context.Context, o options) (*record.Run, error) {
	run := &record.Run{Began: time.Now(), Machine: record.LookAround(ctx, programs(o)...), Arguments: o.arguments,
		Contestants: nameAll(o.contestants), Reference: o.reference}
	run.Machine.Commit = cmp.Or(version, run.Machine.Commit)
	dir, err := os.MkdirTemp("", "proxybench.")
	if err != nil {
		return run, err
	}
	b := &benchmark{options: o, run: run, dir: dir, show: newProgress(os.Stderr), gaveUp: map[string]error{}}
	err = b.sizes(ctx)
	b.show.close()
	if o.keepLogs {
		fmt.Fprintln(os.Stderr, "logs are in", dir)
		return run, err
	}
	return run, errors.Join(err, os.RemoveAll(dir))
}

// programs are those whose versions belong to a result.
func programs(o options) (paths []string) {
	for _, c := range o.contestants {
		if c.Kind == contest.Program {
			paths = append(paths, c.Path)
		}
	}
	return paths
}

// benchmark is a run under way.
type benchmark struct {
	options options
	run     *record.Run
	dir     string
	show    *progress
	// gaveUp has those that did not come up at some size: they are not asked again at
	// that one or a larger one.
	gaveUp map[string]error
}

// sizes are measured from small to large, each with its part of the time that is left.
func (b *benchmark) sizes(ctx context.Context) error {
	left, end := len(b.options.services)*len(b.options.endpoints), time.Now().Add(b.options.atMost)
	for _, n := range slices.Sorted(slices.Values(b.options.services)) {
		for _, m := range b.options.endpoints {
			share := time.Duration(math.MaxInt64)
			if b.options.atMost > 0 {
				share = time.Until(end) / time.Duration(left)
			}
			if err := b.size(ctx, n, m, share); err != nil {
				return fmt.Errorf("%d services of %d endpoints: %w", n, m, err)
			}
			left--
		}
	}
	return nil
}

// size fills a control plane of its own and lets the contestants take turns: once, and
// again as often as is wanted and fits into the time.
func (b *benchmark) size(ctx context.Context, n, m int, share time.Duration) (err error) {
	began := time.Now()
	l, err := load.New(n, m)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.dir, fmt.Sprintf("%dx%d", n, m))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	s := &site{load: l, dir: dir}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := b.build(ctx, s); err != nil {
		return err
	}
	b.show.visits(fmt.Sprintf("%d × %d", n, m), b.options.rounds*len(b.options.contestants))
	for round := range b.options.rounds {
		start := time.Now()
		for _, c := range b.options.contestants {
			if err := b.visit(ctx, s, turn{c, round}); err != nil {
				return err
			}
		}
		if time.Since(began)+time.Since(start) > share {
			break
		}
	}
	return nil
}

// site is a load and where contestants find it.
type site struct {
	load   *load.Load
	dir    string
	plane  *street.ControlPlane
	server *kubeapi.Server
	sink   load.Sink
	stage  contest.Stage // without street and folder
}

// build starts an API server, if there is to be one, and fills it.
func (b *benchmark) build(ctx context.Context, s *site) error {
	s.stage.Load = s.load
	if b.options.source == fromManifest {
		s.stage.Manifest = filepath.Join(s.dir, "manifest")
		s.sink = load.Files{Dir: s.stage.Manifest}
		if err := os.Mkdir(s.stage.Manifest, 0o755); err != nil {
			return err
		}
	} else if err := b.serve(ctx, s); err != nil {
		return err
	}
	b.show.filling(s.load.Services)
	return s.sink.Fill(ctx, s.load, street.NodeAddr, b.show.step)
}

// readyWithin is how long an API server may take to be ready: 2 s is usual, and a
// minute in User Mode Linux.
const readyWithin = 2 * time.Minute

func (b *benchmark) serve(ctx context.Context, s *site) (err error) {
	if s.plane, err = street.NewControlPlane(); err != nil {
		return err
	}
	binary, err := filepath.Abs(b.options.apiserver)
	if err != nil {
		return err
	}
	if s.server, err = start(ctx, s, binary); err != nil {
		return err
	}
	s.stage.Kubeconfig = s.server.Kubeconfig()
	config, err := s.server.Config(s.server.Kubeconfig())
	if err != nil {
		return err
	}
	s.sink, err = load.NewAPI(config)
	return err
}

// starts are how often an API server is started: on a machine that is busy, and in User
// Mode Linux, it may give itself up before it is ready.
const starts = 3

func start(ctx context.Context, s *site, binary string) (server *kubeapi.Server, err error) {
	for k := range starts {
		dir := filepath.Join(s.dir, fmt.Sprintf("api.%d", k))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
		within, cancel := context.WithTimeout(ctx, readyWithin*min(uml.Patience(), 5))
		server, err = kubeapi.Start(within, kubeapi.Options{Host: s.plane.Host, Addr: street.ControlPlaneAddr,
			Dir: dir, Binary: binary, ServiceCIDRs: load.ServiceCIDR().String()})
		cancel()
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	return server, err
}

func (s *site) close() error {
	var errs []error
	if s.server != nil {
		errs = append(errs, s.server.Close())
	}
	if s.plane != nil {
		errs = append(errs, s.plane.Close())
	}
	return errors.Join(errs...)
}

// turn is one contestant's in one round.
type turn struct {
	contestant contest.Contestant
	round      int
}

// visit lets one contestant show what it can. That it failed is a result.
func (b *benchmark) visit(ctx context.Context, s *site, t turn) (err error) {
	defer b.show.step()
	emit := func(sample record.Sample) {
		sample.Services, sample.Endpoints, sample.Round = s.load.Services, s.load.Endpoints, t.round
		b.run.Samples = append(b.run.Samples, sample)
	}
	if err := b.gaveUp[t.contestant.Name]; err != nil {
		emit(record.Sample{Contestant: t.contestant.Name, Measure: measure.ColdStart, Metric: measure.ToInSync, Unit: "s", Error: err.Error()})
		return nil
	}
	stage := s.stage
	stage.Dir = filepath.Join(s.dir, fmt.Sprintf("%s.%d", t.contestant.Name, t.round))
	if err := os.Mkdir(stage.Dir, 0o755); err != nil {
		return err
	}
	if stage.Street, err = street.New(s.plane); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stage.Street.Close()) }()
	runner, err := t.contestant.Open(stage)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, runner.Close()) }()
	v := measure.Visit{
		Contestant: t.contestant, Runner: runner, Street: stage.Street, Load: s.load, Sink: s.sink,
		Effort: b.options.effort, Wanted: b.options.wanted(t.contestant),
		Random: rand.New(rand.NewPCG(b.options.seed, uint64(t.round))),
		Emit:   emit,
		Doing:  func(what string) { b.show.doing(fmt.Sprintf("%s, round %d: %s", t.contestant.Name, t.round+1, what)) },
	}
	switch err := v.Run(ctx); {
	case ctx.Err() != nil:
		return err
	case errors.Is(err, measure.ErrNotUp):
		b.gaveUp[t.contestant.Name] = fmt.Errorf("%w with %d services", err, s.load.Services)
	case err != nil:
		emit(record.Sample{Contestant: t.contestant.Name, Measure: "visit", Metric: "failed", Error: err.Error()})
	}
	return nil
}
