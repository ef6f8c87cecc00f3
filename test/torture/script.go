package main

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Script is what is done to a node, in order. It is a text file that people read and
// shorten by hand:
//
//	# mode iptables nft
//	# seed 7
//	200ms slot 3 pod 1 terminating
//	0s proxy kill
//	1.5s flush nat
//	0s quiet
//
// Every step means something whatever came before it: a script with steps taken out
// is a script still.
type Script struct {
	Mode    string // of the proxy
	Flavour string // of iptables: "nft", "legacy"
	Seed    uint64 // of what is random beside the steps: who connects where
	Steps   []Step
	API     bool // objects come from an API server, else from files
	// Lasts is when the script ends, by the clock, though it has more steps; 0: when it
	// has no more.
	Lasts time.Duration
}

// Step is one thing done, after a wait.
type Step struct {
	After time.Duration
	Verb  string
	Args  []string
}

func (s Step) String() string {
	return strings.Join(append([]string{s.After.String(), s.Verb}, s.Args...), " ")
}

// arg is the i-th argument as it stands, "" if there is none.
func (s Step) arg(i int) string {
	if i < len(s.Args) {
		return s.Args[i]
	}
	return ""
}

// number is the i-th argument, 0 if it is none.
func (s Step) number(i int) int {
	n, err := strconv.Atoi(s.arg(i))
	if err != nil {
		return 0
	}
	return n
}

// index is the i-th argument as one of n things, whatever number it is.
func (s Step) index(i, n int) int { return (s.number(i)%n + n) % n }

// duration is the i-th argument, 0 if it is none.
func (s Step) duration(i int) time.Duration {
	d, err := time.ParseDuration(s.arg(i))
	if err != nil {
		return 0
	}
	return d
}

// step makes a Step of what a script's line says after the wait.
func step(after time.Duration, format string, args ...any) Step {
	words := strings.Fields(fmt.Sprintf(format, args...))
	return Step{After: after, Verb: words[0], Args: words[1:]}
}

// WriteTo implements io.WriterTo.
func (s Script) WriteTo(w io.Writer) (int64, error) {
	text := fmt.Sprintf("# mode %s %s\n# seed %d\n", s.Mode, s.Flavour, s.Seed)
	if s.API {
		text += "# api server\n"
	}
	for _, st := range s.Steps {
		text += st.String() + "\n"
	}
	n, err := io.WriteString(w, text)
	return int64(n), err
}

// with is the script with other steps.
func (s Script) with(steps []Step) Script {
	s.Steps = slices.Clone(steps)
	return s
}

// parseScript reads what WriteTo wrote. Other comments and empty lines are passed
// over; a verb that nobody knows is an error.
func parseScript(r io.Reader) (Script, error) {
	s := Script{Mode: "iptables", Flavour: "nft"}
	scan := bufio.NewScanner(r)
	for n := 1; scan.Scan(); n++ {
		words := strings.Fields(scan.Text())
		switch {
		case len(words) == 0:
		case words[0] == "#":
			s.heading(words[1:])
		default:
			st, err := parseStep(words)
			if err != nil {
				return s, fmt.Errorf("line %d: %w", n, err)
			}
			s.Steps = append(s.Steps, st)
		}
	}
	return s, scan.Err()
}

func (s *Script) heading(words []string) {
	switch {
	case len(words) == 3 && words[0] == "mode":
		s.Mode, s.Flavour = words[1], words[2]
	case len(words) == 2 && words[0] == "api":
		s.API = true
	case len(words) == 2 && words[0] == "seed":
		s.Seed, _ = strconv.ParseUint(words[1], 10, 64)
	}
}

func parseStep(words []string) (Step, error) {
	if len(words) < 2 {
		return Step{}, fmt.Errorf("%q: a step is a wait, a verb, and what the verb takes", strings.Join(words, " "))
	}
	after, err := time.ParseDuration(words[0])
	if err != nil {
		return Step{}, fmt.Errorf("wait %q: %w", words[0], err)
	}
	if !slices.Contains(verbs, words[1]) {
		return Step{}, fmt.Errorf("verb %q: there are %s", words[1], strings.Join(verbs, ", "))
	}
	return Step{After: after, Verb: words[1], Args: words[2:]}, nil
}
