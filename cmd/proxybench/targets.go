package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/pflag"

	"switchyard/test/bench/contest"
	"switchyard/test/bench/measure"
	"switchyard/test/bench/target"
)

// targeting is what the flags of targets say.
type targeting struct {
	rows     []int
	file     string
	show     bool
	ours     string
	upstream string
	server   string
	rounds   int
	effort   measure.Effort
	atMost   time.Duration
}

// runTargets measures the rows that are promised, or some of them, and prints what is
// known of all.
func runTargets(ctx context.Context, args []string, out io.Writer) error {
	t := targeting{effort: measure.DefaultEffort()}
	fs := pflag.NewFlagSet("targets", pflag.ContinueOnError)
	fs.SetOutput(out)
	fs.IntSliceVar(&t.rows, "row", nil, "only these rows; what is known of the others is kept (default: all)")
	fs.StringVarP(&t.file, "file", "f", "bin/targets.json", "where figures are kept from one call to the next")
	fs.BoolVar(&t.show, "show", false, "measure nothing, only print what is known")
	fs.StringVar(&t.ours, "kube-proxy", "bin/kube-proxy", "our binary")
	fs.StringVar(&t.upstream, "upstream", "bin/upstream-kube-proxy", "upstream's binary")
	fs.StringVar(&t.server, "kube-apiserver", "bin/kube-apiserver", "the API server")
	fs.IntVarP(&t.rounds, "rounds", "r", 3, "how often each contestant has its turn; in User Mode Linux once")
	fs.DurationVar(&t.atMost, "at-most", 8*time.Minute, "begin no round at a size that would end after so long")
	t.effort.Budget = 25 * time.Second
	effortFlags(fs, &t.effort)
	if err := fs.Parse(args); err != nil {
		return err
	}
	ledger, err := readLedger(t.file)
	if err != nil {
		return err
	}
	if !t.show {
		err = t.measure(ctx, ledger)
	}
	printVerdicts(out, ledger, t)
	return err
}

// measure runs what the rows need, size by size, and keeps the figures after each.
func (t targeting) measure(ctx context.Context, ledger *target.Ledger) error {
	numbers := slices.DeleteFunc(slices.Clone(t.rows), func(n int) bool { return n == target.Binary })
	if len(t.rows) > 0 && len(numbers) == 0 {
		return nil
	}
	rows, err := target.Select(target.Rows(), numbers)
	if err != nil {
		return fmt.Errorf("--row: %w", err)
	}
	for len(rows) > 0 {
		together := func(r target.Row) bool {
			return r.Size == rows[0].Size && r.OtherKernel == rows[0].OtherKernel
		}
		var group []target.Row
		for _, r := range rows {
			if together(r) {
				group = append(group, r)
			}
		}
		if err := t.group(ctx, group, ledger); err != nil {
			return err
		}
		rows = slices.DeleteFunc(slices.Clone(rows), together)
	}
	return nil
}

// group measures rows of one size in one run.
func (t targeting) group(ctx context.Context, rows []target.Row, ledger *target.Ledger) error {
	o, err := t.options(rows)
	if err != nil {
		return err
	}
	run, failed := measureAll(ctx, o)
	if run == nil {
		return failed
	}
	ledger.Add(run)
	return errors.Join(failed, writeLedger(t.file, ledger))
}

// options are those of a run that answers rows. They are made from flags: the run may
// be one in another kernel, which is called by them.
func (t targeting) options(rows []target.Row) (options, error) {
	needs := target.Needs(rows)
	rounds := t.rounds
	args := []string{"--services=" + strconv.Itoa(rows[0].Size.Services), "--endpoints=" + strconv.Itoa(rows[0].Size.Endpoints),
		"--kube-proxy=" + t.ours, "--upstream=" + t.upstream, "--kube-apiserver=" + t.server}
	var all []string
	for _, c := range contest.Known("", "") {
		if measures, ok := needs[c.Name]; ok {
			args = append(args, "--contestant="+c.Name)
			all = append(all, measures...)
		}
	}
	slices.Sort(all)
	args = append(args, "--measure="+strings.Join(slices.Compact(all), ","))
	e := t.effort
	if rows[0].OtherKernel {
		// What upstream needs there is minutes, and is the answer.
		rounds, e.GiveUp = 1, max(e.GiveUp, 12*time.Minute)
	}
	args = append(args, "--rounds="+strconv.Itoa(rounds), "--give-up="+e.GiveUp.String(), "--budget="+e.Budget.String(),
		"--changes="+strconv.Itoa(e.Changes), "--churn="+strconv.Itoa(e.Churn), "--at-most="+t.atMost.String())
	o, err := parse(args, io.Discard)
	o.only = maps.Clone(needs)
	return o, err
}

func readLedger(path string) (*target.Ledger, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &target.Ledger{}, nil
	}
	if err != nil {
		return nil, err
	}
	var l target.Ledger
	if err := json.Unmarshal(text, &l); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return &l, nil
}

func writeLedger(path string, l *target.Ledger) error {
	text, err := json.MarshalIndent(l, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

// printVerdicts prints a row for each check.
func printVerdicts(out io.Writer, ledger *target.Ledger, t targeting) {
	for _, run := range ledger.Runs {
		m := run.Machine
		fmt.Fprintf(out, "%s: %s, %d cores, Linux %s, load at the start %s, commit %s\n",
			run.Began.UTC().Format("2006-01-02 15:04"), m.CPU, m.Cores, m.Kernel, m.Load, m.Commit)
	}
	w := table.NewWriter()
	w.SetOutputMirror(out)
	w.SetStyle(table.StyleLight)
	w.AppendHeader(table.Row{"#", "measure", "upstream's", "ours", "ratio", "target", "floor's", "× floor", ""})
	counts := map[string]int{}
	var verdicts []target.Verdict
	for _, r := range target.Rows() {
		verdicts = append(verdicts, ledger.Judge(r)...)
	}
	verdicts = append(verdicts, target.JudgeBinary(t.ours, t.upstream))
	for _, v := range verdicts {
		counts[v.State]++
		w.AppendRow(table.Row{v.Row, v.What, v.Theirs, v.Ours, v.Ratio, v.Target, v.FloorText, v.FloorRatio, v.State})
	}
	w.Render()
	fmt.Fprintf(out, "%d met, %d missed, %d not measured\n", counts["met"], counts["missed"], counts["open"])
}
