package target

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"switchyard/test/bench/measure"
	"switchyard/test/bench/record"
)

// sampleOf is a value of a metric at 1,000 × 10.
func sampleOf(contestant, measure, metric string, round int, value float64) record.Sample {
	return record.Sample{Services: 1000, Endpoints: 10, Round: round, Contestant: contestant, Measure: measure, Metric: metric, Unit: "s", Value: value}
}

func rowOf(c Check) Row { return Row{Number: 1, Title: "cold start", Size: small, Checks: []Check{c}} }

// A promise is kept by the ratio within each round, not by the values.
func TestJudge(t *testing.T) {
	cold := func(contestant string, values ...float64) (out []record.Sample) {
		for round, v := range values {
			out = append(out, sampleOf(contestant, measure.ColdStart, measure.ToInSync, round, v))
		}
		return out
	}
	both := metric{measure.ColdStart, measure.ToInSync}.against(nft, theirNFT, floor, 0.3)
	bounded := both
	bounded.Most, bounded.MostFloor = 0, 1.5
	failed := sampleOf(theirNFT, measure.ColdStart, measure.ToInSync, 0, 0)
	failed.Error = "not up after 1m0s"
	gone := failed
	gone.Contestant = nft
	for _, c := range []struct {
		name    string
		check   Check
		samples [][]record.Sample
		state   string
		ratio   string
		shows   string // somewhere in the verdict
	}{
		{"met", both, [][]record.Sample{cold(nft, 1, 10), cold(theirNFT, 5, 50)}, "met", "0.2", "5"},
		{"missed", both, [][]record.Sample{cold(nft, 2), cold(theirNFT, 5)}, "missed", "0.4", "≤ 0.3 ×"},
		{"one side alone", both, [][]record.Sample{cold(nft, 2)}, "open", "", "not measured"},
		{"upstream gave up", both, [][]record.Sample{cold(nft, 2), {failed}}, "open", "", "not up after 1m0s"},
		{"we gave up", both, [][]record.Sample{{gone}, cold(theirNFT, 5)}, "missed", "", "not up after 1m0s"},
		{"within the floor", bounded, [][]record.Sample{cold(nft, 1.4), cold(floor, 1), {failed}}, "met", "", "≤ 1.5 × floor"},
		{"above the floor", bounded, [][]record.Sample{cold(nft, 1.6), cold(floor, 1)}, "missed", "", "1.6"},
		{"nothing at all", metric{measure.Restart, failures}.none(nft), [][]record.Sample{{sampleOf(nft, measure.Restart, failures, 0, 0)}}, "met", "", "0"},
		{"once is too often", metric{measure.Restart, failures}.none(nft), [][]record.Sample{
			{sampleOf(nft, measure.Restart, failures, 0, 0), sampleOf(nft, measure.Restart, failures, 1, 1), sampleOf(nft, measure.Restart, failures, 2, 0)}}, "missed", "", "0"},
	} {
		var l Ledger
		for _, samples := range c.samples {
			l.Add(&record.Run{Samples: samples})
		}
		v := l.Judge(rowOf(c.check))[0]
		all := strings.Join([]string{v.What, v.Theirs, v.Ours, v.Ratio, v.Target, v.FloorText, v.FloorRatio}, "; ")
		if v.State != c.state || v.Ratio != c.ratio || !strings.Contains(all, c.shows) {
			t.Errorf("%s: %s (%s), want %s, ratio %q, with %q", c.name, v.State, all, c.state, c.ratio, c.shows)
		}
	}
}

// What is measured again takes the place of what was, and the rest is kept.
func TestLedgerKeepsTheRest(t *testing.T) {
	var l Ledger
	l.Add(&record.Run{Samples: []record.Sample{
		sampleOf(nft, measure.ColdStart, cpu, 0, 1), sampleOf(nft, measure.ColdStart, cpu, 1, 1), sampleOf(nft, measure.Churn, cpu, 0, 7)}})
	l.Add(&record.Run{Samples: []record.Sample{sampleOf(nft, measure.ColdStart, cpu, 0, 2)}})
	if m := l.look(Figure{nft, measure.ColdStart, cpu}, small); len(m.rounds) != 1 || m.rounds[0] != 2 {
		t.Errorf("the new value: %v", m.rounds)
	}
	if m := l.look(Figure{nft, measure.Churn, cpu}, small); m.rounds[0] != 7 {
		t.Errorf("the other measure: %v", m.rounds)
	}
	l.Add(&record.Run{Samples: []record.Sample{sampleOf(nft, measure.Churn, cpu, 0, 8)}})
	if len(l.Runs) != 2 {
		t.Errorf("%d runs: one of which nothing counts is kept", len(l.Runs))
	}
}

func TestSelect(t *testing.T) {
	rows, err := Select(Rows(), []int{12, 3})
	if err != nil || len(rows) != 2 || rows[0].Number != 3 || rows[1].Number != 12 {
		t.Error(rows, err)
	}
	if _, err := Select(Rows(), []int{99}); err == nil {
		t.Error("row 99 was found")
	}
	for i, r := range Rows() {
		if r.Number != i+1 {
			t.Errorf("row %d stands at place %d", r.Number, i+1)
		}
	}
}

// Symbols do not count.
func TestJudgeBinary(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	build := func(name, flags string) string {
		cmd := exec.Command("go", "build", "-ldflags="+flags, "-o", filepath.Join(dir, name), source)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return filepath.Join(dir, name)
	}
	whole, small := build("whole", ""), build("small", "-s -w")
	if v := JudgeBinary(whole, small); v.State != "met" || v.Ratio < "0.9" || v.Ratio > "1.1" {
		t.Errorf("%+v: want the same size with symbols as without", v)
	}
	if v := JudgeBinary(filepath.Join(dir, "none"), small); v.State != "open" {
		t.Errorf("%+v", v)
	}
}
