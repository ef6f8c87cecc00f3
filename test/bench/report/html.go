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
func HTML(w io.Writer, run *record.Run, figures []Figure) error {
	t, err := template.New("page").Parse(page)
	if err != nil {
		return fmt.Errorf("the page's template: %w", err)
	}
	drawn := []template.HTML{}
	for _, f := range figures {
		svg, err := f.Draw("svg")
		if err != nil {
			return err
		}
		drawn = append(drawn, inline(svg))
	}
	return t.Execute(w, map[string]any{
		"Preface": Preface(run), "Contestants": run.Contestants, "Reference": run.Reference,
		"Sections": sections(run), "Figures": drawn,
	})
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
