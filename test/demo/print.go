package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/sys/unix"

	"switchyard/proxier"
	"switchyard/test/netlab"
)

// printer writes for people: in colour where they look at a terminal, or where
// CLICOLOR_FORCE says that somebody does in the end.
type printer struct {
	w      io.Writer
	colour bool
}

func newPrinter(f *os.File) *printer {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	seen := err == nil || os.Getenv("CLICOLOR_FORCE") != ""
	return &printer{w: f, colour: seen && os.Getenv("NO_COLOR") == ""}
}

func (p *printer) paint(c text.Color, s string) string {
	if !p.colour || s == "" {
		return s
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", c, s)
}

// step says that something is done and how long it took.
func (p *printer) step(start time.Time, what string) {
	took := time.Since(start).Round(time.Millisecond)
	fmt.Fprintf(p.w, "%s %s %s\n", p.paint(text.FgGreen, "✔"), what, p.paint(text.FgHiBlack, "("+took.String()+")"))
}

// table prints the rows and returns how many are not as promised; those are
// explained below the table.
func (p *printer) table(rows []row) int {
	t := table.NewWriter()
	t.SetStyle(table.StyleRounded)
	t.AppendHeader(table.Row{"service", "address", "from", "sent", "share of each endpoint", "client seen as", "p50", "verdict"})
	t.SetColumnConfigs([]table.ColumnConfig{
		{Name: "sent", Align: text.AlignRight},
		{Name: "p50", Align: text.AlignRight},
	})
	var service, address string
	var broken []row
	for _, r := range rows {
		name, at := r.service.Name.Service, r.kind+" "+r.packet.Dst.String()
		if name != service && service != "" {
			t.AppendSeparator()
		}
		shownName, shownAt := name, at
		if name == service {
			shownName = ""
			if at == address {
				shownAt = ""
			}
		}
		service, address = name, at
		t.AppendRow(table.Row{p.paint(text.Bold, shownName), shownAt, r.from, r.connections(),
			p.shareCell(&r), p.clientCell(&r), r.p50(), p.verdictCell(&r)})
		if len(r.wrong) > 0 {
			broken = append(broken, r)
		}
	}
	fmt.Fprintf(p.w, "\n%s\n", t.Render())
	for _, r := range broken {
		fmt.Fprintf(p.w, "%s %s %s from %s:\n", p.paint(text.FgRed, "✘"), r.service.Name.Service, r.packet.Dst, r.from)
		for _, w := range r.wrong {
			fmt.Fprintf(p.w, "    %s\n", w)
		}
	}
	return len(broken)
}

func (p *printer) summary(rows []row, took time.Duration) {
	connections, kept := 0, 0
	for _, r := range rows {
		connections += r.sent()
		if len(r.wrong) == 0 {
			kept++
		}
	}
	colour := text.FgGreen
	if kept < len(rows) {
		colour = text.FgRed
	}
	fmt.Fprintf(p.w, "%s, %d connections in %v\n",
		p.paint(colour, fmt.Sprintf("%d of %d rows as promised", kept, len(rows))),
		connections, took.Round(10*time.Millisecond))
}

// sent is the number of connections that were tried; a row may be given up.
func (r *row) sent() int {
	if r.health {
		return 1
	}
	return len(r.results)
}

func (r *row) connections() string {
	return fmt.Sprintf("%d %s", r.sent(), r.service.Protocol)
}

// shareCell has a bar for each endpoint that was promised or met.
func (p *printer) shareCell(r *row) string {
	if r.health {
		return r.note
	}
	got := r.shares()
	all := map[netip.AddrPort]bool{}
	for _, ep := range r.fate.Endpoints {
		all[ep.Addr] = true
	}
	for addr := range got {
		all[addr] = true
	}
	if len(all) == 0 {
		return "–"
	}
	names := endpointNames()
	var parts []string
	for _, addr := range slices.SortedFunc(maps.Keys(all), netip.AddrPort.Compare) {
		colour, name := text.FgCyan, names[addr.Addr()]
		if strings.HasPrefix(name, "a") {
			colour = text.FgGreen
		}
		share := float64(got[addr]) / float64(len(r.results))
		parts = append(parts, fmt.Sprintf("%s %s %2.0f%%", cmp.Or(name, addr.String()), p.paint(colour, bar(share)), share*100))
	}
	return strings.Join(parts, "  ")
}

// bar draws a share, 0 to 1, as up to six cells in eighths.
func bar(share float64) string {
	eighths := int(share*6*8 + 0.5)
	full := strings.Repeat("█", eighths/8)
	return full + []string{"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"}[eighths%8]
}

// clientCell has the addresses that servers took for the client.
func (p *printer) clientCell(r *row) string {
	seen := map[netip.Addr]bool{}
	for _, res := range r.results {
		if res.Verdict == netlab.Answered {
			seen[res.ClientSeen.Addr()] = true
		}
	}
	if len(seen) == 0 {
		return "–"
	}
	var cells []string
	for _, a := range slices.SortedFunc(maps.Keys(seen), netip.Addr.Compare) {
		cell := a.String()
		if a == r.packet.Src {
			cell = p.paint(text.FgGreen, cell)
		}
		cells = append(cells, cell)
	}
	return strings.Join(cells, " ")
}

// p50 is the median time until a connection stood (UDP: until the answer).
func (r *row) p50() string {
	var took []time.Duration
	for _, res := range r.results {
		if res.Verdict == netlab.Answered {
			took = append(took, res.Took)
		}
	}
	if len(took) == 0 {
		return "–"
	}
	slices.Sort(took)
	return fmt.Sprintf("%d µs", took[len(took)/2].Microseconds())
}

func (p *printer) verdictCell(r *row) string {
	if len(r.wrong) > 0 {
		return p.paint(text.FgRed, "✘ ") + r.promised()
	}
	return p.paint(text.FgGreen, "✔ ") + r.promised()
}

// promised says in few words what State.Decide said.
func (r *row) promised() string {
	switch {
	case r.health:
		return "pods here"
	case r.fate.Verdict == proxier.Reject:
		return "refused"
	case r.fate.Verdict == proxier.Drop:
		return "dropped"
	case r.fate.Verdict != proxier.Forward:
		return "not served"
	}
	what := fmt.Sprintf("any of %d", len(r.fate.Endpoints))
	if r.fate.Route.To == proxier.ToLocal {
		what += " here"
	}
	if r.affinity {
		what = fmt.Sprintf("one of %d, stays", len(r.fate.Endpoints))
	}
	if r.fate.Masq {
		what += ", masq."
	}
	return what
}

// endpointNames are the pods' short names by address: "a1" for pod-a1.
func endpointNames() map[netip.Addr]string {
	names := map[netip.Addr]string{}
	for _, pod := range netlab.StandardPods() {
		for _, a := range pod.Addrs {
			names[a] = strings.TrimPrefix(pod.Name, "pod-")
		}
	}
	return names
}
