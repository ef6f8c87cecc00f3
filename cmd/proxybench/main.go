// Command proxybench answers which proxy, in which mode, does how well at what size:
// any kube-proxy, ours in each mode, the bare kernel and no proxy at all, side by
// side in one lab.
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
	"switchyard/test/uml"
)

// version is what was built, set by the linker (-X main.version); else what the go
// command knows of the source.
var version string

func main() {
	if status, ok := contest.Relay(); ok {
		os.Exit(status)
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

// dispatch calls a verb: guard, or the benchmark itself if none is named.
func dispatch(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "guard" {
		return runGuard(ctx, args[1:], os.Stdout)
	}
	o, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	switch {
	case needsKernel(o):
		return runInside(ctx, o)
	case uml.Inside():
		if err := settleInside(&o); err != nil {
			return err
		}
	}
	return bench(ctx, o)
}
