// Command torture tries to make the proxy break its word. A node in network namespaces
// runs the built binary while connections are made all the time, streams are kept open
// and UDP senders keep their ports; a script, drawn from a seed, changes everything,
// kills the proxy, has kernel calls fail and breaks what is in the kernel. In each
// quiet moment the kernel must hold what a fresh one would, every packet must fare as
// State.Decide has it, and what is others' must be what it was.
//
//	seed ─generate─► Script ─► player ─┬─► world ─► source ─► kube-proxy ─► kernel ◄── damage, strangers
//	                   ▲               │     │                    ▲            ▲
//	                   │               │     └─► history          └─ wrap      │ connects, streams, datagrams
//	                   │               │            │  which State was possible│
//	                 shrink            └─► quiet ───┴── compares ──────────────┴─► figures, failures
//	                   ▲                                                                  │
//	                   └──────────────────────────────────────────────────────────────────┘
//
// Nothing of the proxy is made for it: faults come from programs that stand in its PATH
// for those of iptables, and from signals. A failing run is played again with parts
// left out, until a short script is left, which -script plays.
//
// It needs root, as namespaces do. The machine's own network is not touched.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// errBroken: the proxy broke its word; what was printed says how.
var errBroken = errors.New("not all is as promised")

// exitBroken is the exit status for it.
const exitBroken = 1

type options struct {
	mode, flavour string
	seed          uint64
	duration      time.Duration
	binary        string
	script        string        // to play in place of a drawn one
	keep          string        // where a failing script is written
	shrink        time.Duration // for shortening one; 0: it is not
	bounds        string        // rolls,kills,terms; "": none
	writes        bool          // every first start fails at another write
	gap           bool          // see player.gap
	api           bool          // see Script.API
	apiserver     string        // program
	light         bool          // see pace.light
	soak          time.Duration // see soak
	idle          bool          // only what an idle proxy uses
	profile       string        // file for the idle proxy's CPU profile
}

func main() {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the backends' that program fresh nodes
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parseOptions(os.Args[1:])
	switch {
	case err != nil:
	case needsKernel(o.mode):
		err = runElsewhere(ctx, o, os.Args[1:])
	case o.soak > 0 || o.idle:
		err = soak(ctx, o, os.Stdout)
	default:
		err = torture(ctx, o)
	}
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	fmt.Fprintln(os.Stderr, "torture:", err)
	if errors.Is(err, errBroken) {
		os.Exit(exitBroken)
	}
	os.Exit(2)
}

func parseOptions(args []string) (o options, err error) {
	f := flag.NewFlagSet("torture", flag.ContinueOnError)
	f.StringVar(&o.mode, "mode", "iptables", "proxy `mode`: iptables, ipvs, userspace")
	f.StringVar(&o.flavour, "flavour", "nft", "of iptables: nft, legacy")
	f.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()%100_000), "what the script is drawn from")
	seconds := f.Int("seconds", 180, "how long to go on, about; 0: the bounds alone")
	f.StringVar(&o.binary, "binary", "bin/kube-proxy", "the proxy to run")
	f.StringVar(&o.script, "script", "", "play this `file` in place of a script drawn from the seed")
	f.StringVar(&o.keep, "keep", "torture.script", "`file` to write a failing script to")
	f.DurationVar(&o.shrink, "shrink", 10*time.Minute, "how long to try shorter scripts when one fails; 0: not")
	f.StringVar(&o.bounds, "bounds", "100,50,20", "`rolls,kills,terms` through which nothing may fail; \"\": leave that out")
	f.BoolVar(&o.writes, "writes", false, "first starts of which each fails at another write, instead of a drawn script")
	minutes := f.Float64("soak", 0, "watch the proxy for so many `minutes` at 2,000 services instead")
	f.BoolVar(&o.api, "api", false, "objects come from an API server, which fails too")
	f.StringVar(&o.apiserver, "apiserver", "bin/kube-apiserver", "the API server to run")
	f.BoolVar(&o.gap, "gap", false, "userspace: connects may fail while the process is replaced")
	f.BoolVar(&o.light, "light", false, "a quarter of the load, beside other runs")
	f.BoolVar(&o.idle, "idle", false, "only what an idle proxy uses at 10,000 services")
	f.StringVar(&o.profile, "profile", "", "`file` for the idle proxy's CPU profile")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.duration = time.Duration(*seconds) * time.Second
	o.soak = time.Duration(*minutes * float64(time.Minute))
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return o, err
	}
	if o.apiserver, err = filepath.Abs(o.apiserver); err != nil {
		return o, err
	}
	if _, err := os.Stat(o.binary); err != nil {
		return o, fmt.Errorf("the proxy is not built: %w: run make build", err)
	}
	return o, nil
}

// scripts are those to play, one after the other, each on a node of its own.
func scripts(o options) ([]Script, error) {
	base := Script{Mode: o.mode, Flavour: o.flavour, Seed: o.seed, API: o.api}
	if o.script != "" {
		file, err := os.Open(o.script)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		s, err := parseScript(file)
		return []Script{s}, err
	}
	k, err := newKernel(o.mode, o.flavour)
	if err != nil {
		return nil, err
	}
	var all []Script
	if o.bounds != "" {
		var rolls, kills, terms int
		if _, err := fmt.Sscanf(o.bounds, "%d,%d,%d", &rolls, &kills, &terms); err != nil {
			return nil, fmt.Errorf("-bounds %q: want rolls,kills,terms: %w", o.bounds, err)
		}
		all = append(all, bounds(base, rolls, kills, terms))
	}
	if o.writes {
		return append(all, everyWrite(base)), nil
	}
	if o.duration > 0 {
		all = append(all, random(base, o.duration, k))
	}
	return all, nil
}

func torture(ctx context.Context, o options) error {
	all, err := scripts(o)
	if err != nil {
		return err
	}
	for _, s := range all {
		fmt.Printf("mode %s, %s, seed %d: %d steps\n", s.Mode, s.Flavour, s.Seed, len(s.Steps))
		v, err := run(ctx, s, o)
		if v.figures != nil {
			v.figures.print(os.Stdout)
			printBounds(os.Stdout, s.Mode+" "+s.Flavour, v.figures.bounds(thisPace()))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			for _, f := range v.failures {
				fmt.Println("  ✘", f)
			}
			return err
		}
		if len(v.failures) > 0 {
			return o.report(ctx, s.with(s.Steps[:v.played]), v)
		}
		fmt.Println("  all as promised")
	}
	return nil
}

// report tells of a failing script, and shortens it.
func (o options) report(ctx context.Context, s Script, v verdict) error {
	for _, f := range v.failures {
		fmt.Println("  ✘", f)
	}
	if v.log != "" {
		fmt.Println("  the proxy said last:" + v.log)
	}
	if err := errors.Join(o.write(s), os.WriteFile(o.keep+".log", v.whole, 0o644)); err != nil {
		return err
	}
	if o.shrink == 0 {
		return errBroken
	}
	fmt.Printf("shortening the script of %d steps, for %s at most\n", len(s.Steps), o.shrink)
	sh := &shrinker{out: os.Stdout, until: time.Now().Add(o.shrink), fails: func(steps []Step) bool {
		v, err := run(ctx, s.with(steps), o)
		return err == nil && len(v.failures) > 0
	}}
	s = s.with(sh.shrink(s.Steps))
	if err := o.write(s); err != nil {
		return err
	}
	if len(s.Steps) <= 40 {
		_, _ = s.WriteTo(os.Stdout)
	}
	return errBroken
}

func (o options) write(s Script) error {
	file, err := os.Create(o.keep)
	if err != nil {
		return err
	}
	_, err = s.WriteTo(file)
	fmt.Printf("  %d steps are in %s: -script %[2]s plays them\n", len(s.Steps), o.keep)
	return errors.Join(err, file.Close())
}
