package uml

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		line string
		want []event
	}{
		{"\x16=== RUN   TestX/a b", []event{{action: "run", test: "TestX/a b"}}},
		{"\x16--- PASS: TestX/a (0.31s)", []event{{action: "pass", test: "TestX/a"}}},
		{"\x16--- FAIL: TestX (2.00s)", []event{{action: "fail", test: "TestX"}}},
		{"\x16--- SKIP: TestX/a#01 (0.00s)", []event{{action: "skip", test: "TestX/a#01"}}},
		{"no end\x16=== RUN   TestX", []event{{text: "no end\n"}, {action: "run", test: "TestX"}}},
		{"    x_test.go:3: words", []event{{text: "x_test.go:3: words\n"}}},
		{"        more", []event{{text: "    more\n"}}},
		{"", []event{{text: "\n"}}},
		{"--- PASS: a program says so", []event{{text: "--- PASS: a program says so\n"}}},
		{"\x16=== NAME  TestX", nil},
		{"\x16PASS", nil},
	}
	for _, tt := range tests {
		if got := parse(tt.line); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: %v, want %v", tt.line, got, tt.want)
		}
	}
}

// TestVerdicts: what comes of tests inside is what comes of subtests here.
func TestVerdicts(t *testing.T) {
	need(t)
	t.Parallel()
	out, err := perform(t, "verdicts")
	if err == nil {
		t.Error("a failed test inside, and exit status 0")
	}
	for _, want := range []string{
		"Linux 6.", "is up after",
		"--- PASS: TestPlay/passes", "--- SKIP: TestPlay/skips", "--- FAIL: TestPlay/fails", "--- FAIL: TestPlay/nests (",
		"--- PASS: TestPlay/nests/one (", "--- FAIL: TestPlay/nests/two_words", "--- PASS: TestPlay/nests/one#01", "--- FAIL: TestPlay (",
		"replay_test.go:", "said at once", "a reason to fail", "a reason to skip", "without an end",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, marker) {
		t.Errorf("a marker in %q", out)
	}
}

func playVerdicts(t *testing.T) {
	Tests(t, Options{},
		Case{"passes", func(t *testing.T) { t.Log("said at once") }},
		Case{"skips", func(t *testing.T) { t.Skip("a reason to skip") }},
		Case{"fails", func(t *testing.T) { t.Error("a reason to fail") }},
		Case{"nests", func(t *testing.T) {
			fmt.Fprint(os.Stdout, "without an end")
			t.Run("one", func(*testing.T) {})
			t.Run("two words", func(t *testing.T) { t.Fail() })
			t.Run("one", func(*testing.T) {})
		}},
	)
}

// TestVerdictOfTheDead: a test binary that dies inside is a failure, of the test that
// ran, with what it said.
func TestVerdictOfTheDead(t *testing.T) {
	need(t)
	t.Parallel()
	out, err := perform(t, "panic")
	if err == nil {
		t.Error("a panic inside, and exit status 0")
	}
	for _, want := range []string{"--- PASS: TestPlay/lives", "--- FAIL: TestPlay/dies", "ended without a verdict",
		"panic: the reason", "exit status 2"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func playPanic(t *testing.T) {
	Tests(t, Options{},
		Case{"lives", func(*testing.T) {}},
		Case{"dies", func(*testing.T) { go panic("the reason"); select {} }},
		Case{"never comes", func(*testing.T) {}},
	)
}
