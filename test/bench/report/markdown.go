package report

import (
	"fmt"
	"io"
	"strings"

	"switchyard/test/bench/measure"
	"switchyard/test/bench/record"
)

// shown are the metrics of a summary, in the words of somebody who has to choose.
func shown() []struct{ measure, metric, words string } {
	return []struct{ measure, metric, words string }{
		{measure.ColdStart, measure.ToInSync, "cold start: until all answer"},
		{measure.ColdStart, "CPU", "cold start: CPU"},
		{measure.ColdStart, "peak RSS", "cold start: peak memory"},
		{measure.Change, "latency p50", "one change, default settings: p50"},
		{measure.ChangeZero, "latency p50", "one change, no minimum interval: p50"},
		{measure.ChangeZero, "latency p99", "one change, no minimum interval: p99"},
		{measure.ChangeZero, "CPU for each", "one change, no minimum interval: CPU"},
		{measure.Churn, "CPU for each", "50 changes a second: CPU for each"},
		{measure.Churn, "until right", "50 changes a second: until right"},
		{measure.Connect, "random p50", "first connect, random service: p50"},
		{measure.Connect, "random p99", "first connect, random service: p99"},
		{measure.Connect, "rate", "connects, 4 clients"},
		{measure.Throughput, "1 connections", "throughput, 1 connection"},
		{measure.Throughput, "50 connections", "throughput, 50 connections"},
		{measure.Restart, "CPU", "restart, nothing changed: CPU"},
		{measure.Restart, "failed connects", "restart, nothing changed: failed connects"},
		{measure.Restart, measure.ToInSync, "restart: until in sync"},
		{measure.Idle, "CPU", "idle: CPU"},
		{measure.Idle, "RSS", "idle: memory"},
		{measure.Size, "rules", "rules"},
		{measure.Size, "virtual servers", "virtual servers"},
		{measure.Size, "kernel memory", "kernel memory"},
	}
}

// Markdown writes a summary of runs: a table for each size, a contestant a column.
func Markdown(w io.Writer, chapters ...Chapter) error {
	var b strings.Builder
	for _, c := range chapters {
		fmt.Fprintf(&b, "## %s\n\n", c.Name)
		for _, line := range Preface(c.Run) {
			fmt.Fprintf(&b, "    %s\n", line)
		}
		for _, rows := range bySize(c.Run.Summarize()) {
			fmt.Fprintf(&b, "\n### %d services of %d endpoints\n\n", rows[0].Services, rows[0].Endpoints)
			summary(&b, c.Run.Contestants, rows)
		}
		b.WriteString("\n")
	}
	_, err := io.WriteString(w, strings.TrimRight(b.String(), "\n")+"\n")
	return err
}

func summary(b *strings.Builder, contestants []string, rows []record.Row) {
	fmt.Fprintf(b, "| | %s |\n|---%s|\n", strings.Join(contestants, " | "), strings.Repeat("|---:", len(contestants)))
	for _, s := range shown() {
		for _, r := range rows {
			if r.Measure != s.measure || r.Metric != s.metric {
				continue
			}
			words := s.words
			if r.Unit != "" {
				words += ", " + r.Unit
			}
			fmt.Fprintf(b, "| %s |", words)
			for _, c := range contestants {
				fmt.Fprintf(b, " %s |", plain(r.Cells[c]))
			}
			b.WriteString("\n")
		}
	}
}

// plain is a median, or why there is none.
func plain(c record.Cell) string {
	if c.Rounds == 0 {
		return strings.NewReplacer("|", "/", "\n", " ").Replace(shorten(c.Error))
	}
	return number(c.Value.Median)
}
