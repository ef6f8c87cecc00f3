package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"switchyard/test/bench/measure"
)

// stranger writes a program that takes a kube-proxy's flags and does nothing with them.
func stranger(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stranger")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexec sleep 600\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// Any program can take part. One that does not come up is given up, said so in the place
// of its time, and not waited for again: neither in the next round nor at a larger size.
// The others are measured as if it were not there.
func TestGiveUp(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	o, err := parse([]string{"-n", "20,5", "-m", "2", "-c", "never=" + stranger(t) + ",mode=iptables,arg=--anything", "-c", "direct",
		"--source=manifest", "--rounds=2", "--give-up=2s", "--measure=coldstart,connect", "--connects=5", "--seconds=50ms"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	run, err := bench(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	direct := map[string]bool{}
	for _, s := range run.Samples {
		at := fmt.Sprintf("%d/%d", s.Services, s.Round)
		switch {
		case s.Contestant == "direct":
			direct[at] = true
		case s.Measure != measure.ColdStart || s.Metric != measure.ToInSync:
			t.Errorf("%+v", s)
		default:
			said = append(said, at+" "+s.Error)
		}
	}
	want := []string{"5/0 not up after 2s", "5/1 not up after 2s with 5 services", "20/0 not up after 2s with 5 services", "20/1 not up after 2s with 5 services"}
	if strings.Join(said, "\n") != strings.Join(want, "\n") || len(direct) != 4 {
		t.Errorf("%q, want %q; the direct way at %v", said, want, direct)
	}
}

// A run that has no time left makes one round at each size, and no second one.
func TestAtMost(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	o, err := parse([]string{"-n", "5,10", "-m", "2", "-c", "direct", "--source=manifest", "--rounds=50", "--at-most=1ms",
		"--measure=connect", "--connects=5", "--seconds=50ms"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	run, err := bench(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	rounds := map[int]int{}
	for _, s := range run.Samples {
		rounds[s.Services] = max(rounds[s.Services], s.Round+1)
	}
	if rounds[5] != 1 || rounds[10] != 1 {
		t.Errorf("rounds %v in %v, want one at each size", rounds, time.Since(began))
	}
}
