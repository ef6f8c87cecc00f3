package uml

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"
)

// marker begins what a test binary says about its tests with -test.v=test2json.
const marker = "\x16"

// event is one thing that a test binary says.
type event struct {
	action string // "run", "pass", "fail", "skip", "pause"; "": output
	test   string // its full name; of output nothing
	text   string // of output
}

// actions are the beginnings of what follows a marker.
var actions = []struct{ says, action string }{
	{"=== RUN   ", "run"},
	{"=== PAUSE ", "pause"},
	{"--- PASS: ", "pass"},
	{"--- FAIL: ", "fail"},
	{"--- SKIP: ", "skip"},
}

// parse reads one line, without its end, as at most two events: output that has no
// end of its own may come before a marker.
func parse(line string) (events []event) {
	text, said, marked := strings.Cut(line, marker)
	if text != "" || !marked {
		events = append(events, event{text: strings.TrimPrefix(text, "    ") + "\n"})
	}
	for _, a := range actions {
		if name, ok := strings.CutPrefix(said, a.says); ok {
			name, _, _ = strings.Cut(name, " (") // the time
			return append(events, event{action: a.action, test: name})
		}
	}
	return events
}

// replay tells what one test binary says as tests of another, while it says it. The
// tests run one after another: the one begun last is the one that speaks.
type replay struct {
	lines  *bufio.Scanner
	events []event // read, not yet taken
}

func newReplay(r io.Reader) *replay {
	const longest = 16 << 20
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, longest)
	return &replay{lines: lines}
}

func (r *replay) next() (event, bool) {
	for len(r.events) == 0 {
		if !r.lines.Scan() {
			return event{}, false
		}
		r.events = parse(r.lines.Text())
	}
	e := r.events[0]
	r.events = r.events[1:]
	return e, true
}

// follow makes t what the test of a name is inside, until that has its verdict, and
// returns it: "pass", "fail" or "skip"; "" if there was none.
func (r *replay) follow(t *testing.T, name string) string {
	for {
		e, ok := r.next()
		switch {
		case !ok:
			t.Errorf("%s ended without a verdict", name)
			return ""
		case e.action == "":
			fmt.Fprint(t.Output(), e.text)
		case e.action == "pause":
			t.Errorf("%s calls t.Parallel: tests in User Mode Linux run one after another", e.test)
		case e.action == "run" && e.test != name:
			if r.sub(t, name, e.test) == "" {
				return ""
			}
		case e.action != "run" && e.test == name:
			if e.action == "fail" {
				t.Fail()
			}
			return e.action
		}
	}
}

// sub makes a subtest of t what one is inside. One that flags leave out here is heard
// to its end all the same.
func (r *replay) sub(t *testing.T, parent, name string) (verdict string) {
	ran := false
	t.Run(strings.TrimPrefix(name, parent+"/"), func(t *testing.T) {
		ran = true
		if verdict = r.follow(t, name); verdict == "skip" {
			t.Skip("skipped inside, for the reason above")
		}
	})
	if !ran {
		verdict = r.ignore(name)
	}
	return verdict
}

// ignore hears a test to its end.
func (r *replay) ignore(name string) string {
	for {
		e, ok := r.next()
		if !ok || e.test == name && e.action != "pause" {
			return e.action
		}
	}
}

// rest passes on what comes after the last verdict.
func (r *replay) rest(to io.Writer) {
	for e, ok := r.next(); ok; e, ok = r.next() {
		fmt.Fprint(to, e.text)
	}
}
