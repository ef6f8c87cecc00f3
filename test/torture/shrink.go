package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// shrinker shortens a script that fails, by delta debugging: it leaves out halves, then
// quarters, then eighths, and keeps what fails still.
type shrinker struct {
	fails func([]Step) bool
	out   io.Writer
	until time.Time // no new try begins after it
}

// shrink returns the shortest script found. Its last step is that of the script given,
// since that is where a failure is noticed.
func (s *shrinker) shrink(steps []Step) []Step {
	if len(steps) == 0 {
		return steps
	}
	last := steps[len(steps)-1]
	rest := steps[:len(steps)-1]
	for parts := 2; len(rest) > 0 && time.Now().Before(s.until); {
		shorter, ok := s.without(rest, parts, last)
		switch {
		case ok:
			rest, parts = shorter, max(2, parts-1)
		case parts >= len(rest):
			return append(rest, last)
		default:
			parts = min(len(rest), 2*parts)
		}
	}
	return append(rest, last)
}

// without is the script without one of its parts, if it fails without it.
func (s *shrinker) without(rest []Step, parts int, last Step) ([]Step, bool) {
	size := (len(rest) + parts - 1) / parts
	for from := 0; from < len(rest) && time.Now().Before(s.until); from += size {
		try := slices.Concat(rest[:from], rest[min(len(rest), from+size):])
		if s.fails(append(slices.Clone(try), last)) {
			fmt.Fprintf(s.out, "  fails still with %d of %d steps\n", len(try)+1, len(rest)+1)
			return try, true
		}
	}
	return nil, false
}
