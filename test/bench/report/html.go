package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"

	"switchyard/test/bench/record"
)

//go:embed page.html
var page string

// Chapter is a run with its figures. Runs on several machines or kernels are chapters
// of one report: nothing compares them.
type Chapter struct {
	Name    string
	Run     *record.Run
	Figures []Figure
}

// NewChapter draws the figures of a run.
func NewChapter(run *record.Run) (Chapter, error) {
	figures, err := Plots(run)
	m := run.Machine
	return Chapter{fmt.Sprintf("%s, %d cores, Linux %s", m.CPU, m.Cores, m.Kernel), run, figures}, err
}

// section is a table of one size.
type section struct {
	Title string
	Rows  []row
}

type row struct {
	Measure, Metric, Unit string
	Cells                 []cell
}

type cell struct {
	Value, Ratio string
	Failed       string // why there is none
	Better       bool   // than the reference, by more than the spread
	Worse        bool
}

// higherIsBetter tells the units of which more is better.
func higherIsBetter(unit string) bool { return unit == "1/s" || unit == "Gbit/s" }

// HTML writes one page with all tables and figures. It needs no other file and no
// network.
func HTML(w io.Writer, chapters ...Chapter) error {
	t, err := template.New("page").Parse(page)
	if err != nil {
		return fmt.Errorf("the page's template: %w", err)
	}
	var filled []map[string]any
	for _, c := range chapters {
		drawn := []template.HTML{}
		for _, f := range c.Figures {
			svg, err := f.Draw("svg")
			if err != nil {
				return err
			}
			drawn = append(drawn, inline(svg))
		}
		filled = append(filled, map[string]any{
			"Name": c.Name, "Preface": Preface(c.Run), "Contestants": c.Run.Contestants, "Reference": c.Run.Reference,
			"Sections": sections(c.Run), "Figures": drawn,
		})
	}
	return t.Execute(w, filled)
}

// inline takes the head of a file off an SVG, which has no place inside a page. The
// drawing is our own: nothing in it is from outside.
func inline(svg []byte) template.HTML {
	for i := range svg {
		if string(svg[i:min(i+4, len(svg))]) == "<svg" {
			return template.HTML(svg[i:])
		}
	}
	return ""
}

func sections(run *record.Run) (out []section) {
	for _, rows := range bySize(run.Summarize()) {
		s := section{Title: fmt.Sprintf("%d services of %d endpoints", rows[0].Services, rows[0].Endpoints)}
		for _, r := range rows {
			line := row{Measure: r.Measure, Metric: r.Metric, Unit: r.Unit}
			for _, c := range run.Contestants {
				line.Cells = append(line.Cells, cellOf(r.Cells[c], r.Unit, c == run.Reference))
			}
			s.Rows = append(s.Rows, line)
		}
		out = append(out, s)
	}
	return out
}

func cellOf(c record.Cell, unit string, reference bool) cell {
	if c.Rounds == 0 {
		return cell{Failed: c.Error}
	}
	out := cell{Value: valueText(c)}
	if reference || c.Ratio == nil {
		return out
	}
	out.Ratio = ratioText(c)
	less, more := c.Ratio.Max < 1, c.Ratio.Min > 1
	if higherIsBetter(unit) {
		less, more = more, less
	}
	if unit != "" {
		out.Better, out.Worse = less, more
	}
	return out
}
