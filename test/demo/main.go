// Command demo shows a node's proxy at work on this machine: it lays out two nodes, six
// pods and a client outside as network namespaces, starts the real kube-proxy on
// node-a with the shop of examples/shop, sends real connections, and compares what
// came of each with what State.Decide promised.
//
//	examples/ ─copy─► manifest dir ─┬─► bin/kube-proxy (node-a) ─► the kernel's rules
//	                                │                                   ▲
//	                                └─► manifest, cluster,              │ connections
//	                                    node, compile ─► State ─┐       │
//	                                                            ▼       │
//	                                       trials: who asks what ───────┘
//	                                                │
//	                                                └─► judge ─► the table, exit code
//
// It is a program for people: it exists so that somebody new sees the whole path
// work before reading any of it. Needs root, as namespaces do.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"switchyard/cmd/backends"
	"switchyard/test/uml"
)

// errBroken: at least one row is not as promised; the table has said which.
var errBroken = errors.New("not all is as promised")

// exitBroken is the exit status that tells it.
const exitBroken = 1

type options struct {
	mode        string
	keep        bool
	binary      string
	examples    string
	connections int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:])
	switch out := newPrinter(os.Stdout); {
	case err != nil:
	case needsKernel(o.mode):
		err = runInside(ctx, o, out, os.Args[1:])
	default:
		err = run(ctx, o, out)
	}
	switch {
	case err == nil:
		return
	case errors.Is(err, flag.ErrHelp):
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "interrupted; everything is cleaned up")
	case !errors.Is(err, errBroken):
		fmt.Fprintln(os.Stderr, "demo:", err)
	}
	os.Exit(exitCode(ctx, err))
}

func exitCode(ctx context.Context, err error) int {
	switch {
	case errors.Is(err, errBroken):
		return exitBroken
	case ctx.Err() != nil:
		return 130
	}
	return 2
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("demo", flag.ContinueOnError)
	modes := backends.Names()
	f.StringVar(&o.mode, "mode", "iptables", "proxy `mode`: "+strings.Join(modes, ", "))
	f.BoolVar(&o.keep, "keep", false, "leave the lab up until Enter or Ctrl-C")
	f.StringVar(&o.binary, "binary", "bin/kube-proxy", "the proxy to run")
	f.StringVar(&o.examples, "examples", "examples/shop", "directory of the shop's objects")
	f.IntVar(&o.connections, "connections", 400, "connections of each row, 1 to 10000")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if !slices.Contains(modes, o.mode) {
		return o, fmt.Errorf("mode %q: there is only %s", o.mode, strings.Join(modes, ", "))
	}
	if o.connections < 1 || o.connections > 10000 {
		return o, fmt.Errorf("connections %d: must be 1 to 10000", o.connections)
	}
	if _, err := os.Stat(o.binary); err != nil {
		return o, fmt.Errorf("the proxy is not built: %w: run make build", err)
	}
	return o, nil
}

// run shows everything and cleans up whatever came of it.
func run(ctx context.Context, o options, out *printer) (err error) {
	s, err := newStage(ctx, o, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close(err != nil && ctx.Err() == nil)) }()

	start := time.Now()
	rows, err := s.perform(ctx)
	if err != nil {
		return err
	}
	broken := out.table(rows)
	out.summary(rows, time.Since(start))
	if o.mode == "ipvs" {
		if err := s.servers(ctx); err != nil {
			return err
		}
	}
	if o.keep && !uml.Inside() {
		s.linger(ctx)
	}
	if broken > 0 {
		return errBroken
	}
	return nil
}
