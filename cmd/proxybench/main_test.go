package main

import (
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"switchyard/test/bench/guard"
	"switchyard/test/bench/measure"
	"switchyard/test/bench/record"
	"switchyard/test/bench/target"
)

func TestParse(t *testing.T) {
	o, err := parse([]string{"-n", "10,100", "-m", "2", "-c", "direct", "-c", "floor", "--measure", "connect"}, io.Discard)
	if err != nil || !slices.Equal(o.services, []int{10, 100}) || o.reference != "direct" || len(o.contestants) != 2 {
		t.Errorf("%+v, %v", o, err)
	}
	for _, c := range []struct{ args, problem string }{
		{"--measure=speed", `"speed" is not one of`},
		{"--contestant=nobody", "one of iptables"},
		{"--contestant=floor --contestant=floor", "same name"},
		{"--reference=nobody", "not one of the contestants"},
		{"--rounds=0", "--rounds"},
		{"--source=paper", "must be api or manifest"},
		{"--services=0", "load of 0"},
		{"--churn-rate=0", "--churn-rate"},
	} {
		if _, err := parse(strings.Fields(c.args), io.Discard); err == nil || !strings.Contains(err.Error(), c.problem) {
			t.Errorf("%s: %v, want an error with %q", c.args, err, c.problem)
		}
	}
}

// A figure that is a third worse than the recorded one fails the guard by its name, and
// one that is a fifth worse does not.
func TestGuardFails(t *testing.T) {
	baseline, err := guard.Read("../../test/bench/baseline.json")
	if err != nil || len(baseline) < 4 {
		t.Fatal(baseline, err)
	}
	for name := range baseline {
		now := maps.Clone(baseline)
		now[name] *= 1.2
		if err := hold(io.Discard, baseline, now); err != nil {
			t.Errorf("%s, a fifth worse: %v", name, err)
		}
		now[name] = baseline[name] * 1.34
		if err := hold(io.Discard, baseline, now); !errors.Is(err, errWorse) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s, a third worse: %v", name, err)
		}
	}
}

// What targets asks for can be run: all contestants and measures have these names, and
// rows of one size go together.
func TestTargetsRun(t *testing.T) {
	tg := targeting{ours: "ours", upstream: "theirs", rounds: 3, effort: measure.DefaultEffort()}
	for _, row := range target.Rows() {
		o, err := tg.options([]target.Row{row})
		if err != nil {
			t.Errorf("row %d: %v", row.Number, err)
		}
		names := nameAll(o.contestants)
		for name := range target.Needs([]target.Row{row}) {
			if !slices.Contains(names, name) {
				t.Errorf("row %d: no contestant %s", row.Number, name)
			}
		}
		if row.OtherKernel && o.rounds != 1 {
			t.Errorf("row %d: %d rounds in User Mode Linux", row.Number, o.rounds)
		}
	}
}

// The whole way with what needs no other program than iptables: the bare kernel and
// no proxy at all, from manifests, and every file that a run leaves.
func TestRun(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	out := t.TempDir()
	args := []string{"-n", "5,20", "-m", "3", "-c", "floor", "-c", "direct", "--source=manifest", "--rounds=2", "--changes=2",
		"--connects=20", "--seconds=100ms", "--out=" + out, "--no-tables"}
	if err := dispatch(t.Context(), args); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"results.csv", "report.html", "plots/coldstart-to-in-sync-m3.svg", "plots/connect-random-p50-m3.png"} {
		if s, err := os.Stat(filepath.Join(out, file)); err != nil || s.Size() == 0 {
			t.Errorf("%s: %v", file, err)
		}
	}
	f, err := os.Open(filepath.Join(out, "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	run, err := record.ReadJSON(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range run.Samples {
		if s.Error != "" {
			t.Errorf("%s, %s: %s", s.Contestant, s.Measure, s.Error)
		}
	}
	for contestant, want := range map[string][]string{
		"floor":  {measure.ColdStart, measure.Size, measure.Connect, measure.Throughput, measure.Scheduler, measure.ChangeZero},
		"direct": {measure.Connect, measure.Throughput},
	} {
		for _, m := range want {
			n := map[int]bool{}
			for _, s := range run.Samples {
				if s.Contestant == contestant && s.Measure == m {
					n[s.Round*1000+s.Services] = true
				}
			}
			if len(n) != 4 { // two sizes, two rounds
				t.Errorf("%s, %s: %d of 4 visits have samples", contestant, m, len(n))
			}
		}
	}
}
