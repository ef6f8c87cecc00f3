package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"switchyard/test/bench/record"
)

// Print writes the machine and a table for each size.
func Print(w io.Writer, run *record.Run) {
	for _, line := range Preface(run) {
		fmt.Fprintln(w, line)
	}
	for _, rows := range bySize(run.Summarize()) {
		printSize(w, run, rows)
	}
}

// Preface says what a run was made on and with, and how to read its figures.
func Preface(run *record.Run) []string {
	m := run.Machine
	lines := []string{
		fmt.Sprintf("%s, %d cores, %.1f GiB, Linux %s; load at the start %s", m.CPU, m.Cores, float64(m.Memory)/(1<<30), m.Kernel, m.Load),
		fmt.Sprintf("commit %s; %s", m.Commit, run.Began.UTC().Format("2006-01-02 15:04 MST")),
	}
	var tools []string
	for name, version := range m.Tools {
		tools = append(tools, name+": "+version)
	}
	slices.Sort(tools)
	return append(lines, strings.Join(tools, "; "), "proxybench "+strings.Join(run.Arguments, " "),
		fmt.Sprintf("medians over the rounds, ±: half of the range; ×: ratio to %s, the median of the rounds' ratios", run.Reference))
}

func printSize(w io.Writer, run *record.Run, rows []record.Row) {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.SetTitle(fmt.Sprintf("%d services of %d endpoints", rows[0].Services, rows[0].Endpoints))
	head := table.Row{"measure", "metric", "unit"}
	for _, c := range run.Contestants {
		head = append(head, c)
		if c != run.Reference {
			head = append(head, "×")
		}
	}
	t.AppendHeader(head)
	last := ""
	for _, row := range rows {
		if last != "" && last != row.Measure {
			t.AppendSeparator()
		}
		line := table.Row{row.Measure, row.Metric, row.Unit}
		if last == row.Measure {
			line[0] = ""
		}
		last = row.Measure
		for _, c := range run.Contestants {
			cell := row.Cells[c]
			line = append(line, valueText(cell))
			if c != run.Reference {
				line = append(line, ratioText(cell))
			}
		}
		t.AppendRow(line)
	}
	t.Render()
}

func valueText(c record.Cell) string {
	switch {
	case c.Rounds == 0 && c.Error != "":
		return shorten(c.Error)
	case c.Rounds == 0:
		return ""
	case c.Rounds == 1:
		return number(c.Value.Median)
	}
	return fmt.Sprintf("%s ±%s", number(c.Value.Median), number((c.Value.Max-c.Value.Min)/2))
}

func ratioText(c record.Cell) string {
	switch {
	case c.Ratio == nil:
		return ""
	case c.Rounds == 1:
		return number(c.Ratio.Median)
	}
	return fmt.Sprintf("%s (%s to %s)", number(c.Ratio.Median), number(c.Ratio.Min), number(c.Ratio.Max))
}

// number is a value with three significant digits.
func number(v float64) string {
	if v == 0 || math.Abs(v) >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	digits := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	return fmt.Sprintf("%.*f", digits, v)
}

func shorten(text string) string {
	const most = 60
	if r := []rune(text); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return text
}
