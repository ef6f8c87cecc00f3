package subject

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestLines(t *testing.T) {
	const written = "level=INFO msg=applied family=IPv4\n" +
		"level=WARN msg=late family=IPv4\n\n" +
		"level=INFO msg=applied family=IPv6"
	for _, c := range []struct {
		name  string
		words []string
		found []string
	}{
		{"a word of one line", []string{"late"}, []string{"level=WARN msg=late family=IPv4"}},
		{"a word of two lines, in their order", []string{"applied"},
			[]string{"level=INFO msg=applied family=IPv4", "level=INFO msg=applied family=IPv6"}},
		{"all words, in whichever order", []string{"family=IPv4", "INFO"}, []string{"level=INFO msg=applied family=IPv4"}},
		{"words of two lines", []string{"WARN", "IPv6"}, nil},
		{"a line that has no end yet", []string{"IPv6"}, []string{"level=INFO msg=applied family=IPv6"}},
		{"no word: every line", nil, []string{"level=INFO msg=applied family=IPv4", "level=WARN msg=late family=IPv4",
			"", "level=INFO msg=applied family=IPv6"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var l Log
			fmt.Fprint(&l, written)
			if got := l.Lines(c.words...); !slices.Equal(got, c.found) {
				t.Errorf("got %q, want %q", got, c.found)
			}
			if l.String() != written {
				t.Errorf("the log is %q", l.String())
			}
		})
	}
}

// TestLogWhileItIsWritten is for the race detector; that no line is torn or lost, it
// asks beside.
func TestLogWhileItIsWritten(t *testing.T) {
	const writers, lines = 4, 100
	var l Log
	var wait sync.WaitGroup
	for range writers {
		wait.Go(func() {
			for range lines {
				fmt.Fprintln(&l, "one line")
				l.Lines("one")
			}
		})
	}
	wait.Wait()
	if got := len(slices.DeleteFunc(l.Lines(), func(s string) bool { return s != "one line" })); got != writers*lines {
		t.Errorf("%d whole lines, want %d", got, writers*lines)
	}
}

func TestBuild(t *testing.T) {
	out, err := exec.Command(Build(t), "version").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) == "" {
		t.Errorf("the program that was built says %q, %v", out, err)
	}
}
