// Command tally reads the events of `go test -json`, shows what failed and what
// was skipped, and ends with one line of counts:
//
//	1204 passed, 0 failed, 0 skipped
//
// A package that does not build or dies counts as failed. With -no-skips a
// skipped test is a failure too: in CI nothing may be left out.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is one line of `go test -json` (see `go doc cmd/test2json`).
type event struct {
	Action     string
	Package    string
	ImportPath string // of a build event
	Test       string
	Output     string
	Elapsed    float64
}

// tally counts tests and keeps the output of those that have not passed.
type tally struct {
	out                     io.Writer
	passed, failed, skipped int
	output                  map[string][]string // by package and test
	failedTests             map[string]bool     // packages with a failed test of their own
}

func main() {
	noSkips := flag.Bool("no-skips", false, "a skipped test is a failure")
	flag.Parse()
	t := tally{out: os.Stdout, output: map[string][]string{}, failedTests: map[string]bool{}}
	t.read(os.Stdin)
	fmt.Printf("\n%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
	if t.failed > 0 || t.passed == 0 || *noSkips && t.skipped > 0 {
		os.Exit(1)
	}
}

// read takes events until the end. A line that is none is shown: it is what a
// tool said on its way.
func (t *tally) read(in io.Reader) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(t.out, lines.Text())
			continue
		}
		t.take(e)
	}
}

func (t *tally) take(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		t.output[key] = append(t.output[key], e.Output)
		return
	case "build-output":
		fmt.Fprint(t.out, e.Output)
		return
	case "pass", "fail", "skip":
	default:
		return
	}
	if e.Test == "" {
		t.endPackage(e, key)
		return
	}
	switch e.Action {
	case "pass":
		t.passed++
	case "fail":
		t.failed++
		t.failedTests[e.Package] = true
		fmt.Fprintf(t.out, "%s", strings.Join(t.output[key], ""))
	case "skip":
		t.skipped++
		fmt.Fprintf(t.out, "%s", strings.Join(t.output[key], ""))
	}
	delete(t.output, key)
}

// endPackage tells how a package fared; one that failed without a failed test
// did not build, or died.
func (t *tally) endPackage(e event, key string) {
	switch {
	case e.Action == "fail":
		if !t.failedTests[e.Package] {
			t.failed++
			fmt.Fprintf(t.out, "%s", strings.Join(t.output[key], ""))
		}
		fmt.Fprintf(t.out, "FAIL  %-40s %6.1f s\n", e.Package, e.Elapsed)
	case e.Action == "pass":
		fmt.Fprintf(t.out, "ok    %-40s %6.1f s\n", e.Package, e.Elapsed)
	}
	delete(t.output, key)
}
