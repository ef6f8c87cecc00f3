package record

import (
	"bytes"
	"strings"
	"testing"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		sorted  []float64
		q, want float64
	}{
		{[]float64{7}, 0.99, 7},
		{[]float64{1, 3}, 0.5, 2},
		{[]float64{1, 2, 3, 4, 5}, 0.5, 3},
		{[]float64{0, 10, 20}, 0.9, 18},
		{[]float64{0, 10, 20}, 1, 20},
	} {
		if got := Quantile(c.sorted, c.q); got != c.want {
			t.Errorf("the %v-quantile of %v is %v, want %v", c.q, c.sorted, got, c.want)
		}
	}
}

// sample is one second-valued sample of coldstart.
func sample(contestant string, round int, value float64) Sample {
	return Sample{Services: 10, Endpoints: 2, Round: round, Contestant: contestant, Measure: "coldstart", Metric: "CPU", Unit: "s", Value: value}
}

// Ratios are taken within rounds: a round in which the whole machine was ten times
// slower changes nothing.
func TestRatiosAreTakenWithinARound(t *testing.T) {
	run := &Run{Contestants: []string{"theirs", "ours"}, Reference: "theirs", Samples: []Sample{
		sample("theirs", 0, 4), sample("ours", 0, 1),
		sample("theirs", 1, 40), sample("ours", 1, 10),
		sample("theirs", 2, 4), sample("ours", 2, 2),
	}}
	rows := run.Summarize()
	if len(rows) != 1 {
		t.Fatalf("%d rows, want 1", len(rows))
	}
	ours := rows[0].Cells["ours"]
	if want := (Spread{0.25, 0.25, 0.5}); ours.Ratio == nil || *ours.Ratio != want {
		t.Errorf("the ratio is %v, want %v", ours.Ratio, want)
	}
	if want := (Spread{2, 1, 10}); ours.Value != want || ours.Rounds != 3 {
		t.Errorf("the value is %v of %d rounds, want %v of 3", ours.Value, ours.Rounds, want)
	}
}

// A contestant that failed in one round still has its others, and says why; one that
// failed in all has no value; one whose reference failed has no ratio.
func TestFailures(t *testing.T) {
	failed := sample("ours", 1, 0)
	failed.Error = "not in sync after 10m0s"
	never := sample("never", 0, 0)
	never.Error = "has ended"
	run := &Run{Contestants: []string{"theirs", "ours", "never"}, Reference: "theirs", Samples: []Sample{
		sample("ours", 0, 1), failed, never, sample("theirs", 1, 4),
	}}
	cells := run.Summarize()[0].Cells
	if c := cells["ours"]; c.Rounds != 1 || c.Value.Median != 1 || c.Error != failed.Error || c.Ratio != nil {
		t.Errorf("ours: %+v", c)
	}
	if c := cells["never"]; c.Rounds != 0 || c.Error != never.Error {
		t.Errorf("never: %+v", c)
	}
}

// Sizes are shown from small to large, in whatever order they were measured.
func TestRowsAreBySize(t *testing.T) {
	big, small := sample("a", 0, 1), sample("a", 0, 1)
	big.Services = 1000
	rows := (&Run{Contestants: []string{"a"}, Reference: "a", Samples: []Sample{big, small}}).Summarize()
	if len(rows) != 2 || rows[0].Services != 10 || rows[1].Services != 1000 {
		t.Errorf("rows %+v", rows)
	}
}

func TestFiles(t *testing.T) {
	failed := sample("b", 0, 0)
	failed.Error = "why, \"so\""
	run := &Run{Contestants: []string{"a", "b"}, Reference: "a", Samples: []Sample{sample("a", 0, 0.5), failed}}
	var b bytes.Buffer
	if err := run.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	back, err := ReadJSON(&b)
	if err != nil || len(back.Samples) != 2 || back.Samples[1] != failed {
		t.Errorf("read back: %+v, %v", back, err)
	}
	b.Reset()
	if err := run.WriteCSV(&b); err != nil {
		t.Fatal(err)
	}
	want := "services,endpoints,round,contestant,measure,metric,unit,value,error\n" +
		"10,2,0,a,coldstart,CPU,s,0.5,\n10,2,0,b,coldstart,CPU,s,,\"why, \"\"so\"\"\"\n"
	if b.String() != want {
		t.Errorf("CSV:\n%s\nwant\n%s", b.String(), want)
	}
	if _, err := ReadJSON(strings.NewReader("{")); err == nil {
		t.Error("half a file was read")
	}
}
