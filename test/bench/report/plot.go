package report

import (
	"bytes"
	"cmp"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"switchyard/test/bench/record"
)

// Figure is one metric against the number of services, a line for each contestant.
type Figure struct {
	Name  string // "coldstart-cpu-m10": fit for a file
	Title string
	plot  *plot.Plot
}

// The size of a figure.
const (
	width  = 16 * vg.Centimeter
	height = 10 * vg.Centimeter
)

// Plots draws each metric that has a value at two sizes at least: services and
// values on logarithmic axes, the spread over the rounds as bars.
func Plots(run *record.Run) ([]Figure, error) {
	type key struct {
		endpoints             int
		measure, metric, unit string
	}
	rows := map[key][]record.Row{}
	var order []key
	for _, r := range run.Summarize() {
		k := key{r.Endpoints, r.Measure, r.Metric, r.Unit}
		if rows[k] == nil {
			order = append(order, k)
		}
		rows[k] = append(rows[k], r)
	}
	var figures []Figure
	for _, k := range order {
		if len(rows[k]) < 2 || k.metric == "failed" {
			continue
		}
		title := fmt.Sprintf("%s: %s, %d endpoints a service", k.measure, k.metric, k.endpoints)
		p, err := figure(run.Contestants, rows[k], title)
		if err != nil {
			return nil, fmt.Errorf("plot %s: %w", title, err)
		}
		if p == nil {
			continue
		}
		name := strings.NewReplacer(" ", "-", ",", "").Replace(strings.ToLower(fmt.Sprintf("%s-%s-m%d", k.measure, k.metric, k.endpoints)))
		figures = append(figures, Figure{name, title, p})
	}
	return figures, nil
}

// figure makes one figure, nil if there is nothing that a logarithmic axis can show.
func figure(contestants []string, rows []record.Row, title string) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = title
	p.X.Label.Text, p.Y.Label.Text = "services", cmp.Or(rows[0].Unit, "count")
	p.BackgroundColor = color.White
	p.Add(plotter.NewGrid())
	shown := 0
	for i, c := range contestants {
		l := lineOf(rows, c)
		if len(l.XYs) == 0 {
			continue
		}
		shown++
		if err := l.add(p, c, i); err != nil {
			return nil, err
		}
	}
	if shown == 0 {
		return nil, nil
	}
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = decades{}, decades{}
	p.X.Min, p.X.Max = p.X.Min/1.3, p.X.Max*1.3
	p.Y.Min, p.Y.Max = p.Y.Min/1.5, p.Y.Max*1.5
	p.Legend.Top, p.Legend.Left = true, true
	return p, nil
}

// line is one contestant's, with errors.
type line struct {
	plotter.XYs
	plotter.YErrors
}

func lineOf(rows []record.Row, contestant string) line {
	var l line
	for _, r := range rows {
		v := r.Cells[contestant].Value
		if v.Min <= 0 {
			continue // a logarithm has no place for it
		}
		l.XYs = append(l.XYs, plotter.XY{X: float64(r.Services), Y: v.Median})
		l.YErrors = append(l.YErrors, struct{ Low, High float64 }{v.Median - v.Min, v.Max - v.Median})
	}
	return l
}

func (l line) add(p *plot.Plot, name string, i int) error {
	path, points, err := plotter.NewLinePoints(l.XYs)
	if err != nil {
		return err
	}
	bars, err := plotter.NewYErrorBars(l)
	if err != nil {
		return err
	}
	path.Color, points.Color, bars.Color = plotutil.Color(i), plotutil.Color(i), plotutil.Color(i)
	path.Width, path.Dashes = vg.Points(1.5), plotutil.Dashes(i/len(plotutil.DefaultColors))
	points.Shape = plotutil.Shape(i)
	p.Add(path, points, bars)
	p.Legend.Add(name, path, points)
	return nil
}

// decades marks a logarithmic axis at 1, 2 and 5 of each power of ten.
type decades struct{}

// Ticks are the marks between two positive values.
func (decades) Ticks(low, high float64) (ticks []plot.Tick) {
	for power := math.Pow10(int(math.Floor(math.Log10(low)))); power <= high; power *= 10 {
		for _, k := range []float64{1, 2, 5} {
			if v := k * power; v >= low && v <= high {
				ticks = append(ticks, plot.Tick{Value: v, Label: fmt.Sprintf("%.12g", v)})
			}
		}
	}
	return ticks
}

// Draw returns the figure as a file of a format: "png" or "svg".
func (f Figure) Draw(format string) ([]byte, error) {
	canvas, err := draw.NewFormattedCanvas(width, height, format)
	if err != nil {
		return nil, fmt.Errorf("draw %s: %w", f.Name, err)
	}
	f.plot.Draw(draw.New(canvas))
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return nil, fmt.Errorf("draw %s: %w", f.Name, err)
	}
	return b.Bytes(), nil
}

// bySize divides rows into those of one size each.
func bySize(rows []record.Row) (sizes [][]record.Row) {
	for len(rows) > 0 {
		n := slices.IndexFunc(rows, func(r record.Row) bool {
			return r.Services != rows[0].Services || r.Endpoints != rows[0].Endpoints
		})
		if n < 0 {
			n = len(rows)
		}
		sizes, rows = append(sizes, rows[:n]), rows[n:]
	}
	return sizes
}
