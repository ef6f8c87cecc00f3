package target

import (
	"cmp"
	"fmt"
	"slices"

	"switchyard/test/bench/record"
)

func contains(list []string, s string) bool { return slices.Contains(list, s) }

// Ledger is what has been measured for rows so far.
type Ledger struct {
	Runs []*record.Run `json:"runs"`
}

// Add takes a run in. What earlier runs say of the same contestant, size and measure
// does not count any more.
func (l *Ledger) Add(run *record.Run) {
	type part struct {
		services, endpoints int
		contestant, measure string
	}
	partOf := func(s record.Sample) part { return part{s.Services, s.Endpoints, s.Contestant, s.Measure} }
	fresh := map[part]bool{}
	for _, s := range run.Samples {
		fresh[partOf(s)] = true
	}
	for _, old := range l.Runs {
		old.Samples = slices.DeleteFunc(old.Samples, func(s record.Sample) bool { return fresh[partOf(s)] })
	}
	l.Runs = append(slices.DeleteFunc(l.Runs, func(r *record.Run) bool { return len(r.Samples) == 0 }), run)
}

// measured are the values of a figure, by round, or why there is none.
type measured struct {
	rounds map[int]float64
	unit   string
	failed string
}

func (l *Ledger) look(f Figure, size Size) measured {
	m := measured{rounds: map[int]float64{}}
	for _, run := range l.Runs {
		for _, s := range run.Samples {
			if s.Contestant != f.Contestant || s.Measure != f.Measure || (Size{s.Services, s.Endpoints}) != size {
				continue
			}
			switch {
			case s.Error != "":
				m.failed = s.Error
			case s.Metric == f.Metric:
				m.rounds[s.Round], m.unit = s.Value, s.Unit
			}
		}
	}
	return m
}

func (m measured) median() float64 {
	var values []float64
	for _, v := range m.rounds {
		values = append(values, v)
	}
	return record.SpreadOf(values).Median
}

func (m measured) text() string {
	switch {
	case len(m.rounds) > 0:
		return fmt.Sprintf("%.3g %s", m.median(), m.unit)
	case m.failed != "":
		return m.failed
	}
	return "not measured"
}

// ratio is the median of the rounds' ratios to another figure; of the medians if no
// round has both, and 0 if there is none.
func (m measured) ratio(to measured) float64 {
	var ratios []float64
	for round, v := range m.rounds {
		if base := to.rounds[round]; base > 0 {
			ratios = append(ratios, v/base)
		}
	}
	switch {
	case len(ratios) > 0:
		return record.SpreadOf(ratios).Median
	case len(m.rounds) > 0 && len(to.rounds) > 0 && to.median() > 0:
		return m.median() / to.median()
	}
	return 0
}

// Verdict is a check with its figures, as text for a table.
type Verdict struct {
	Row                                          int
	What, Theirs, Ours, Ratio, Target, FloorText string
	FloorRatio                                   string
	// State is "met", "missed" or "open": something has not been measured.
	State string
}

// Judge holds a row against what is known.
func (l *Ledger) Judge(r Row) (out []Verdict) {
	for _, c := range r.Checks {
		ours := l.look(c.Ours, r.Size)
		v := Verdict{Row: r.Number, Ours: ours.text(), State: "open"}
		v.What = fmt.Sprintf("%s, %d × %d: %s, %s", r.Title, r.Size.Services, r.Size.Endpoints, c.Ours.Contestant, c.Ours.Metric)
		var judged []bool
		theirs, floor := l.look(c.Theirs, r.Size), l.look(c.Floor, r.Size)
		if c.None {
			v.Target = "0"
			if len(ours.rounds) > 0 {
				judged = append(judged, ours.worst() == 0)
			}
		}
		if c.Theirs.Contestant != "" {
			v.Theirs = c.Theirs.Contestant + ": " + theirs.text()
			judged = append(judged, v.compare(ours.ratio(theirs), c.Most)...)
		}
		if c.Floor.Contestant != "" {
			v.FloorText = c.Floor.Contestant + ": " + floor.text()
			judged = append(judged, v.compareFloor(ours.ratio(floor), c.MostFloor)...)
		}
		wanted := 0
		for _, bound := range []bool{c.None, c.Most > 0, c.MostFloor > 0} {
			if bound {
				wanted++
			}
		}
		v.conclude(judged, wanted)
		if len(ours.rounds) == 0 && ours.failed != "" {
			v.State = "missed"
		}
		out = append(out, v)
	}
	return out
}

func (m measured) worst() (most float64) {
	for _, v := range m.rounds {
		most = max(most, v)
	}
	return most
}

// compare notes a ratio to upstream; it returns whether it is within its bound, if
// there are both.
func (v *Verdict) compare(ratio, most float64) (judged []bool) {
	if most > 0 {
		v.Target = fmt.Sprintf("≤ %.3g ×", most)
	}
	if ratio == 0 {
		return nil
	}
	v.Ratio = fmt.Sprintf("%.3g", ratio)
	if most > 0 {
		judged = append(judged, ratio <= most)
	}
	return judged
}

func (v *Verdict) compareFloor(ratio, most float64) (judged []bool) {
	if most > 0 {
		v.Target = join(v.Target, fmt.Sprintf("≤ %.3g × floor", most))
	}
	if ratio == 0 {
		return nil
	}
	v.FloorRatio = fmt.Sprintf("%.3g", ratio)
	if most > 0 {
		judged = append(judged, ratio <= most)
	}
	return judged
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + ", " + b
}

func (v *Verdict) conclude(judged []bool, wanted int) {
	switch {
	case slices.Contains(judged, false):
		v.State = "missed"
	case len(judged) == wanted && wanted > 0:
		v.State = "met"
	}
}

// Select are the rows with these numbers, in order; all if there are none. It names
// one that does not exist.
func Select(rows []Row, numbers []int) ([]Row, error) {
	if len(numbers) == 0 {
		return rows, nil
	}
	var out []Row
	for _, n := range numbers {
		i := slices.IndexFunc(rows, func(r Row) bool { return r.Number == n })
		if i < 0 {
			return nil, fmt.Errorf("row %d: there are 1 to %d", n, len(rows))
		}
		out = append(out, rows[i])
	}
	slices.SortFunc(out, func(a, b Row) int { return cmp.Compare(a.Number, b.Number) })
	return out, nil
}
