// Command proxybench answers which proxy, in which mode, does how well at what size:
// any kube-proxy, ours in each mode, the bare kernel and no proxy at all, side by
// side in one lab.
//
//	proxybench          a run: what the flags say
//	proxybench targets  the rows that this project promises, beside upstream
//	proxybench guard    the cheap ratios against test/bench/baseline.json
//	proxybench report   one report of several runs
//
//	flags ─► for each size: API server (or manifests), filled once
//	            └► for each round, for each contestant in turn (A B A B):
//	                  street.New ─► contest.Open ─► measure.Visit ─► record.Sample
//	                                                                     │
//	     tables, JSON, CSV, plots, one HTML page ◄── report ◄── record.Run
//
// Contestants take turns round by round, so whatever else the machine does meets
// all of them; figures are medians, and ratios are taken within a round. Needs root,
// as namespaces do. IPVS runs in User Mode Linux where this kernel has none, and then
// all contestants of the run do.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"

	"switchyard/test/bench/contest"
	"switchyard/test/bench/record"
	"switchyard/test/uml"
)

// version is what was built, set by the linker (-X main.version); else what the go
// command knows of the source.
var version string

func main() {
	for _, errand := range []func() (int, bool){contest.Relay, contest.Bare} {
		if status, ok := errand(); ok {
			os.Exit(status)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := dispatch(ctx, os.Args[1:])
	switch {
	case err == nil, errors.Is(err, pflag.ErrHelp):
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "interrupted; everything is cleaned up")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "proxybench:", err)
		os.Exit(1)
	}
}

// dispatch calls a verb: the benchmark itself if none is named.
func dispatch(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "guard":
			return runGuard(ctx, args[1:], os.Stdout)
		case "targets":
			return runTargets(ctx, args[1:], os.Stdout)
		case "report":
			return runReport(args[1:], os.Stdout)
		}
	}
	o, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	run, err := measureAll(ctx, o)
	if run != nil && len(run.Samples) > 0 {
		err = errors.Join(err, publish(run, o))
	}
	return err
}

// measureAll makes a run in this kernel, or in one that has what it needs.
func measureAll(ctx context.Context, o options) (*record.Run, error) {
	if needsKernel(o) {
		return runInside(ctx, o)
	}
	if uml.Inside() {
		if err := settleInside(&o); err != nil {
			return nil, err
		}
	}
	return bench(ctx, o)
}
