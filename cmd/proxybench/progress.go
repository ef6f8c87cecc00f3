package main

import (
	"fmt"
	"os"
	"time"

	bars "github.com/jedib0t/go-pretty/v6/progress"
	"golang.org/x/term"
)

// progress is a bar for each part of a run. Where nobody looks on it is a line for
// each thing that is begun.
type progress struct {
	out    *os.File
	writer bars.Writer // nil: lines
	now    *bars.Tracker
	title  string
}

func newProgress(out *os.File) *progress {
	p := &progress{out: out}
	if !term.IsTerminal(int(out.Fd())) {
		return p
	}
	p.writer = bars.NewWriter()
	p.writer.SetOutputWriter(out)
	p.writer.SetStyle(bars.StyleBlocks)
	p.writer.SetMessageLength(48)
	p.writer.SetUpdateFrequency(200 * time.Millisecond)
	go p.writer.Render()
	return p
}

// filling begins a bar of n Services that are written.
func (p *progress) filling(n int) { p.begin(fmt.Sprintf("writing %d services", n), n) }

// visits begins a bar of n visits of contestants.
func (p *progress) visits(size string, n int) { p.begin(size, n) }

func (p *progress) begin(title string, n int) {
	p.title = title
	if p.writer == nil {
		fmt.Fprintln(p.out, title)
		return
	}
	if p.now != nil {
		p.now.MarkAsDone()
	}
	p.now = &bars.Tracker{Message: title, Total: int64(n), Units: bars.UnitsDefault}
	p.writer.AppendTracker(p.now)
}

// step is one more done. It may be called from several goroutines.
func (p *progress) step() {
	if p.now != nil {
		p.now.Increment(1)
	}
}

// doing says what is under way.
func (p *progress) doing(what string) {
	if p.now == nil {
		fmt.Fprintf(p.out, "%s %s: %s\n", time.Now().Format(time.TimeOnly), p.title, what)
		return
	}
	p.now.UpdateMessage(p.title + ": " + what)
}

func (p *progress) close() {
	if p.writer == nil {
		return
	}
	if p.now != nil {
		p.now.MarkAsDone()
	}
	for p.writer.Stop(); p.writer.IsRenderInProgress(); {
		time.Sleep(20 * time.Millisecond)
	}
}
