package report

import (
	"bytes"
	"strings"
	"testing"

	"switchyard/test/bench/record"
)

// sweep is a run over three sizes in which theirs is slower, and did not finish the
// largest.
func sweep() *record.Run {
	run := &record.Run{Contestants: []string{"theirs", "ours"}, Reference: "theirs", Arguments: []string{"-n", "10,100"}}
	for i, n := range []int{10, 100, 1000} {
		for round := range 2 {
			s := record.Sample{Services: n, Endpoints: 5, Round: round, Measure: "coldstart", Metric: "CPU", Unit: "s"}
			s.Contestant, s.Value = "ours", float64(n)/1000
			run.Samples = append(run.Samples, s)
			s.Contestant, s.Value = "theirs", float64(n)/100+float64(round)
			if i == 2 {
				s.Error, s.Value = "not in sync after <10m>", 0
			}
			run.Samples = append(run.Samples, s)
		}
	}
	return run
}

func TestPrint(t *testing.T) {
	var b bytes.Buffer
	Print(&b, sweep())
	for _, want := range []string{"proxybench -n 10,100", "10 services of 5 endpoints", "1000 services of 5 endpoints",
		"0.600 ±0.500", "0.0545 (0.00909 to 0.100)", "not in sync"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// The page needs nothing from outside, and text of programs is text in it.
func TestHTML(t *testing.T) {
	run := sweep()
	figures, err := Plots(run)
	if err != nil || len(figures) != 1 || figures[0].Name != "coldstart-cpu-m5" {
		t.Fatal(figures, err)
	}
	var b bytes.Buffer
	if err := HTML(&b, Chapter{"here", run, figures}); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, want := range []string{"<svg", "not in sync after &lt;10m&gt;", `class="better"`, "0.600 ±0.500"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in the page", want)
		}
	}
	for _, no := range []string{"<?xml", "<script", "<link", "src="} {
		if strings.Contains(page, no) {
			t.Errorf("%q in the page", no)
		}
	}
}

func TestFigureFormats(t *testing.T) {
	figures, err := Plots(sweep())
	if err != nil {
		t.Fatal(err)
	}
	for format, start := range map[string]string{"png": "\x89PNG", "svg": "<?xml"} {
		data, err := figures[0].Draw(format)
		if err != nil || !bytes.HasPrefix(data, []byte(start)) {
			t.Errorf("%s: %.20q, %v", format, data, err)
		}
	}
	if _, err := figures[0].Draw("tiff!"); err == nil {
		t.Error("a format that is none was drawn")
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.01234: "0.0123", 1.5: "1.50", 45.67: "45.7", 99.97: "100.0", 1234.5: "1234"} {
		if got := number(v); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
}

// The summary has a table for each size, a contestant a column, and says why there is no
// value.
func TestMarkdown(t *testing.T) {
	var b bytes.Buffer
	if err := Markdown(&b, Chapter{Name: "here", Run: sweep()}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"## here", "### 10 services of 5 endpoints", "| | theirs | ours |",
		"| cold start: CPU, s | 0.600 | 0.0100 |", "| cold start: CPU, s | not in sync after <10m> | 1.00 |"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}
