package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"switchyard/test/bench/guard"
)

// errWorse: the lines before have said what.
var errWorse = errors.New("guard: the benchmark's cheap ratios got worse; if that is meant, run it with --update")

// runGuard compares the cheap ratios with those that are recorded.
func runGuard(ctx context.Context, args []string, out io.Writer) error {
	fs := pflag.NewFlagSet("guard", pflag.ContinueOnError)
	fs.SetOutput(out)
	path := fs.String("baseline", "test/bench/baseline.json", "the recorded figures")
	update := fs.Bool("update", false, "record what is measured now")
	if err := fs.Parse(args); err != nil {
		return err
	}
	now, err := guard.Measure(ctx, func(what string) { fmt.Fprintln(os.Stderr, what) })
	if err != nil {
		return err
	}
	if *update {
		return now.Write(*path)
	}
	baseline, err := guard.Read(*path)
	if err != nil {
		return err
	}
	return hold(out, baseline, now)
}

// hold prints all figures and is an error if one is beyond its slack.
func hold(out io.Writer, baseline, now guard.Figures) error {
	for _, name := range slices.Sorted(maps.Keys(now)) {
		fmt.Fprintf(out, "%-55s %8.3g, baseline %8.3g\n", name, now[name], baseline[name])
	}
	if worse := guard.Compare(baseline, now); len(worse) > 0 {
		return fmt.Errorf("%w:\n  %s", errWorse, strings.Join(worse, "\n  "))
	}
	return nil
}
