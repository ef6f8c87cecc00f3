package promcheck

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// metricsTable lists what proxier/metrics has: a test there holds that it has
// exactly these, with these labels.
const metricsTable = "../../proxier/metrics/testdata/metrics.txt"

// others are metrics of Prometheus itself and of its client library.
var others = []string{"up", "process_start_time_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes"}

// scraped are the labels that a scrape adds.
var scraped = []string{"job", "instance"}

// metric is a line of the table.
type metric struct {
	kind   string
	labels []string
}

func metrics(t *testing.T) map[string]metric {
	t.Helper()
	text, err := os.ReadFile(metricsTable)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]metric{}
	for _, name := range others {
		all[name] = metric{}
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(line, "|")
		if strings.HasPrefix(line, "#") || len(fields) < 3 {
			continue
		}
		var names []string
		for name := range strings.SplitSeq(fields[2], ",") {
			names = append(names, strings.TrimSpace(name))
		}
		all[strings.TrimSpace(fields[0])] = metric{strings.TrimSpace(fields[1]), names}
	}
	return all
}

// panel is what we need of a Grafana panel.
type panel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H int }
	Targets                  []struct{ Expr string }
}

func panels(t *testing.T) []panel {
	t.Helper()
	text, err := os.ReadFile("../../examples/grafana-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Title, UID string
		Panels     []panel
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	if dashboard.Title == "" || dashboard.UID == "" || len(dashboard.Panels) == 0 {
		t.Fatal("the dashboard has no title, uid or panels")
	}
	return dashboard.Panels
}

// expressions are all of both files, by where they stand.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, r := range rules(t) {
		all["rule "+r.Alert+r.Record] = r.Expr
	}
	// What Grafana puts in for its variables.
	grafana := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*")
	for _, p := range panels(t) {
		for i, target := range p.Targets {
			all["panel "+p.Title+" "+string(rune('A'+i))] = grafana.Replace(target.Expr)
		}
	}
	return all
}

// Every expression parses, and asks for metrics that exist, as the type that they
// have, by labels that they have.
func TestEveryMetricExists(t *testing.T) {
	known := metrics(t)
	for _, r := range rules(t) {
		if r.Record != "" {
			known[r.Record] = metric{}
		}
	}
	used := map[string]bool{}
	for where, expr := range expressions(t) {
		tree, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
		if err != nil {
			t.Errorf("%s: %v", where, err)
			continue
		}
		parser.Inspect(tree, func(node parser.Node, _ []parser.Node) error {
			if s, ok := node.(*parser.VectorSelector); ok {
				used[judge(t, where, s, known)] = true
			}
			return nil
		})
	}
	for name := range known {
		if strings.HasPrefix(name, "switchyard_") && !used[name] {
			t.Logf("%s is in no rule and no panel", name)
		}
	}
}

var part = regexp.MustCompile(`_(bucket|sum|count)$`)

// judge checks one selector and returns the metric that it means.
func judge(t *testing.T, where string, s *parser.VectorSelector, known map[string]metric) string {
	t.Helper()
	name := s.Name
	m, ok := known[name]
	if base := part.ReplaceAllString(name, ""); !ok && base != name && known[base].kind == "histogram" {
		name, m, ok = base, known[base], true
	} else if ok && m.kind == "histogram" {
		t.Errorf("%s: %s is a histogram: its series end in _bucket, _sum, _count", where, name)
	}
	if !ok {
		t.Errorf("%s: there is no metric %s", where, s.Name)
	}
	for _, l := range s.LabelMatchers {
		if l.Name != labels.MetricName && !slices.Contains(m.labels, l.Name) && !slices.Contains(scraped, l.Name) {
			t.Errorf("%s: %s has no label %s", where, s.Name, l.Name)
		}
	}
	return name
}

// A panel can be read without its author: it has a title, says what it shows, and
// lies on no other.
func TestPanels(t *testing.T) {
	seen := map[int]bool{}
	taken := map[[2]int]string{}
	for _, p := range panels(t) {
		if seen[p.ID] {
			t.Errorf("%s: id %d is taken", p.Title, p.ID)
		}
		seen[p.ID] = true
		if p.Title == "" || p.Type != "row" && (p.Description == "" || len(p.Targets) == 0) {
			t.Errorf("panel %d %q lacks a title, a description or a query", p.ID, p.Title)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%q lies on %q", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%q sticks out: Grafana has 24 columns", p.Title)
		}
	}
}

// The alerts that the dashboard names exist.
func TestDashboardNamesAlerts(t *testing.T) {
	var known []string
	for _, r := range rules(t) {
		known = append(known, r.Alert)
	}
	named := 0
	for _, p := range panels(t) {
		for _, name := range regexp.MustCompile(`KubeProxy[A-Z]\w+`).FindAllString(p.Description, -1) {
			named++
			if !slices.Contains(known, name) {
				t.Errorf("panel %q names the alert %s, which does not exist", p.Title, name)
			}
		}
	}
	if named == 0 {
		t.Error("no panel names an alert")
	}
}
