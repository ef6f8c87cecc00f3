package record

import (
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"
)

// Sample is one value: a metric of a measure of one contestant in one round.
type Sample struct {
	Services   int     `json:"services"`
	Endpoints  int     `json:"endpoints"` // of each service
	Round      int     `json:"round"`
	Contestant string  `json:"contestant"`
	Measure    string  `json:"measure"`        // "coldstart"
	Metric     string  `json:"metric"`         // "cpu"
	Unit       string  `json:"unit,omitempty"` // "s", "us", "MiB", "1/s", …
	Value      float64 `json:"value"`
	// Error says why there is no value.
	Error string `json:"error,omitempty"`
}

// Run is one call of the benchmark.
type Run struct {
	Began     time.Time `json:"began"`
	Machine   Machine   `json:"machine"`
	Arguments []string  `json:"arguments"`
	// Contestants in the order in which they are shown; ratios are to Reference.
	Contestants []string `json:"contestants"`
	Reference   string   `json:"reference"`
	Samples     []Sample `json:"samples"`
}

// WriteJSON writes all of a run.
func (r *Run) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(r)
}

// ReadJSON reads what WriteJSON wrote.
func ReadJSON(r io.Reader) (*Run, error) {
	var run Run
	if err := json.NewDecoder(r).Decode(&run); err != nil {
		return nil, fmt.Errorf("read a run: %w", err)
	}
	return &run, nil
}

// WriteCSV writes the samples, one a line.
func (r *Run) WriteCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	rows := [][]string{{"services", "endpoints", "round", "contestant", "measure", "metric", "unit", "value", "error"}}
	for _, s := range r.Samples {
		value := strconv.FormatFloat(s.Value, 'g', -1, 64)
		if s.Error != "" {
			value = ""
		}
		rows = append(rows, []string{strconv.Itoa(s.Services), strconv.Itoa(s.Endpoints), strconv.Itoa(s.Round),
			s.Contestant, s.Measure, s.Metric, s.Unit, value, s.Error})
	}
	return c.WriteAll(rows)
}

// Spread is a median and the smallest and largest value.
type Spread struct{ Median, Min, Max float64 }

// SpreadOf summarizes at least one value.
func SpreadOf(values []float64) Spread {
	s := slices.Sorted(slices.Values(values))
	return Spread{Quantile(s, 0.5), s[0], s[len(s)-1]}
}

// Quantile is the q-quantile, 0 to 1, of at least one sorted value: between two of
// them in proportion.
func Quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

// Row is one metric at one size, over all contestants.
type Row struct {
	Services, Endpoints   int
	Measure, Metric, Unit string
	Cells                 map[string]Cell // by contestant
}

// Cell is one contestant's part of a Row.
type Cell struct {
	Value  Spread
	Ratio  *Spread // to the reference, over the rounds in which both have a value
	Rounds int
	Error  string // of a round without a value
}

type key struct {
	services, endpoints   int
	measure, metric, unit string
}

// Summarize makes rows in the order in which the metrics first came, by size.
func (r *Run) Summarize() []Row {
	values := map[key]map[string]map[int]float64{}
	errs := map[key]map[string]string{}
	var order []key
	for _, s := range r.Samples {
		k := key{s.Services, s.Endpoints, s.Measure, s.Metric, s.Unit}
		if values[k] == nil {
			values[k], errs[k] = map[string]map[int]float64{}, map[string]string{}
			order = append(order, k)
		}
		if s.Error != "" {
			errs[k][s.Contestant] = s.Error
			continue
		}
		if values[k][s.Contestant] == nil {
			values[k][s.Contestant] = map[int]float64{}
		}
		values[k][s.Contestant][s.Round] = s.Value
	}
	slices.SortStableFunc(order, func(a, b key) int {
		return cmp.Or(cmp.Compare(a.services, b.services), cmp.Compare(a.endpoints, b.endpoints))
	})
	var rows []Row
	for _, k := range order {
		row := Row{k.services, k.endpoints, k.measure, k.metric, k.unit, map[string]Cell{}}
		for _, c := range r.Contestants {
			if cell, ok := cellOf(values[k][c], values[k][r.Reference]); ok {
				cell.Error = errs[k][c]
				row.Cells[c] = cell
			} else if errs[k][c] != "" {
				row.Cells[c] = Cell{Error: errs[k][c]}
			}
		}
		rows = append(rows, row)
	}
	return rows
}

func cellOf(mine, reference map[int]float64) (Cell, bool) {
	if len(mine) == 0 {
		return Cell{}, false
	}
	var values, ratios []float64
	for round, v := range mine {
		values = append(values, v)
		if base, ok := reference[round]; ok && base > 0 {
			ratios = append(ratios, v/base)
		}
	}
	cell := Cell{Value: SpreadOf(values), Rounds: len(values)}
	if len(ratios) > 0 {
		ratio := SpreadOf(ratios)
		cell.Ratio = &ratio
	}
	return cell, true
}
