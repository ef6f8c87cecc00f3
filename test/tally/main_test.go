package main

import (
	"strings"
	"testing"
)

func TestCounts(t *testing.T) {
	const events = `
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"noise of a passed test\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.1}
{"Action":"output","Package":"p","Test":"TestB","Output":"why B failed\n"}
{"Action":"fail","Package":"p","Test":"TestB","Elapsed":0.1}
{"Action":"output","Package":"p","Test":"TestC","Output":"why C was skipped\n"}
{"Action":"skip","Package":"p","Test":"TestC","Elapsed":0}
{"Action":"fail","Package":"p","Elapsed":0.3}
{"Action":"build-output","ImportPath":"q","Output":"q.go:1: no such thing\n"}
{"Action":"fail","Package":"q","Elapsed":0}
a line of no event`
	var out strings.Builder
	tl := tally{out: &out, output: map[string][]string{}, failedTests: map[string]bool{}}
	tl.read(strings.NewReader(strings.TrimSpace(events)))
	if tl.passed != 1 || tl.failed != 2 || tl.skipped != 1 {
		t.Errorf("%d passed, %d failed, %d skipped; want 1, 2 (a test and a package), 1", tl.passed, tl.failed, tl.skipped)
	}
	for _, want := range []string{"why B failed", "why C was skipped", "q.go:1: no such thing", "a line of no event"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "noise") {
		t.Errorf("the output of a passed test is shown:\n%s", out.String())
	}
}
