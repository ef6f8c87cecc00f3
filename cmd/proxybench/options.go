package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"switchyard/test/bench/contest"
	"switchyard/test/bench/load"
	"switchyard/test/bench/measure"
)

// The sources that a load can come from.
const (
	fromAPI      = "api"
	fromManifest = "manifest"
)

// options are what a run does.
type options struct {
	services, endpoints []int
	contestants         []contest.Contestant
	reference           string
	measures            []string
	// only are the measures of contestants that do not take all.
	only      map[string][]string
	atMost    time.Duration
	rounds    int
	seed      uint64
	source    string
	out       string
	apiserver string
	keepLogs  bool
	noTables  bool
	umlMemory string
	effort    measure.Effort
	arguments []string
}

func parse(args []string, out io.Writer) (options, error) {
	o := options{effort: measure.DefaultEffort(), arguments: args}
	fs := pflag.NewFlagSet("proxybench", pflag.ContinueOnError)
	fs.SetOutput(out)
	fs.SortFlags = false
	var said []string
	var ours, upstream string
	fs.IntSliceVarP(&o.services, "services", "n", []int{1000}, "how many Services; several make a sweep")
	fs.IntSliceVarP(&o.endpoints, "endpoints", "m", []int{10}, "how many endpoints each of them has; several make a sweep")
	fs.StringArrayVarP(&said, "contestant", "c", []string{"iptables", "upstream-iptables"},
		"who takes part, once for each: name=/path/to/kube-proxy,mode=iptables,tables=nft|legacy,arg=…, or one of\n"+
			strings.Join(nameAll(contest.Known("", "")), ", "))
	fs.StringVar(&o.reference, "reference", "", "the contestant that ratios are to (default: the first)")
	fs.StringSliceVar(&o.measures, "measure", measure.Names(), "what is measured")
	fs.IntVarP(&o.rounds, "rounds", "r", 3, "how often each contestant has its turn")
	fs.DurationVar(&o.atMost, "at-most", 0, "begin no round that would end after so long in all; each size has one at least (0: no limit)")
	fs.Uint64Var(&o.seed, "seed", 1, "of what is chosen at random")
	fs.StringVar(&o.source, "source", fromAPI, "where contestants watch: api, or manifest (ours only)")
	fs.StringVarP(&o.out, "out", "o", "", "a folder for results: results.json, results.csv, plots and report.html")
	fs.StringVar(&ours, "kube-proxy", "bin/kube-proxy", "our binary")
	fs.StringVar(&upstream, "upstream", "bin/upstream-kube-proxy", "upstream's binary, which test/upstream builds")
	fs.StringVar(&o.apiserver, "kube-apiserver", "bin/kube-apiserver", "the API server, which test/apiserver builds")
	fs.BoolVar(&o.keepLogs, "keep-logs", false, "keep configuration and logs of all programs, and say where")
	fs.BoolVar(&o.noTables, "no-tables", false, "write results only, print no tables")
	fs.StringVar(&o.umlMemory, "uml-memory", "", "the memory of User Mode Linux, as 4096M")
	effortFlags(fs, &o.effort)
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	known := contest.Known(ours, upstream)
	for _, text := range said {
		c, err := contest.Parse(text, known)
		if err != nil {
			return o, fmt.Errorf("--contestant: %w", err)
		}
		o.contestants = append(o.contestants, c)
	}
	return o, o.check()
}

func effortFlags(fs *pflag.FlagSet, e *measure.Effort) {
	fs.DurationVar(&e.GiveUp, "give-up", e.GiveUp, "how long a contestant may take to be in sync; one that takes longer is not asked again")
	fs.DurationVar(&e.Budget, "budget", e.Budget, "how long a measure that repeats something may go on (0: no limit)")
	fs.DurationVar(&e.Visit, "visit", e.Visit, "how long a contestant's turn may have taken for another measure to begin (0: no limit)")
	fs.DurationVar(&e.IdleFor, "idle", e.IdleFor, "how long idle lasts")
	fs.IntVar(&e.Changes, "changes", e.Changes, "changes of one endpoint, in change and change-zero")
	fs.IntVar(&e.Churn, "churn", e.Churn, "changes in churn")
	fs.Float64Var(&e.ChurnRate, "churn-rate", e.ChurnRate, "changes a second in churn")
	fs.IntVar(&e.Connects, "connects", e.Connects, "connects for each position")
	fs.DurationVar(&e.Lasting, "seconds", e.Lasting, "how long throughput and parallel connects last")
}

// wanted are the measures of a contestant.
func (o *options) wanted(c contest.Contestant) []string {
	if only, ok := o.only[c.Name]; ok {
		return only
	}
	return o.measures
}

func (o *options) check() error {
	if o.reference == "" {
		o.reference = o.contestants[0].Name
	}
	names := nameAll(o.contestants)
	switch {
	case o.rounds < 1:
		return errors.New("--rounds: must be at least 1")
	case !slices.Contains(names, o.reference):
		return fmt.Errorf("--reference: %q is not one of the contestants", o.reference)
	case len(slices.Compact(slices.Sorted(slices.Values(names)))) != len(names):
		return errors.New("--contestant: two have the same name")
	case o.source != fromAPI && o.source != fromManifest:
		return fmt.Errorf("--source: %q: must be api or manifest", o.source)
	case o.effort.ChurnRate <= 0 || o.effort.Changes < 1 || o.effort.Connects < 1:
		return errors.New("--churn-rate, --changes, --connects: must be more than 0")
	}
	for _, m := range o.measures {
		if !slices.Contains(measure.Names(), m) {
			return fmt.Errorf("--measure: %q is not one of %s", m, strings.Join(measure.Names(), ", "))
		}
	}
	for _, n := range o.services {
		for _, m := range o.endpoints {
			if _, err := load.New(n, m); err != nil {
				return err
			}
		}
	}
	return nil
}

func nameAll(contestants []contest.Contestant) (names []string) {
	for _, c := range contestants {
		names = append(names, c.Name)
	}
	return names
}
