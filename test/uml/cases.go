package uml

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

// Case is a test function for Tests.
type Case struct {
	Name string
	Test func(*testing.T)
}

// leave is how much of the test's time is kept for its end: for a dump of goroutines
// inside, then for what is left to clean up outside.
const leave = 10 * time.Second

// Tests runs test functions in User Mode Linux, one after another, as subtests of a
// test t, which must not be a subtest itself and does the same inside up to here. On
// this machine each test that runs inside is a subtest with the same name, verdict
// and time (SKIP and nested subtests included), and what it prints is printed by it.
// A kernel or a test binary that dies is a failure of the test that ran at that time.
//
// The working directory, the environment and the -run, -skip and -short flags are
// the same inside, and so are flags of the test's own. t.Parallel does not go there.
// Options.Stdout and Log are t's. Where User Mode Linux is not installed the
// test is skipped, with the name of the Debian package.
func Tests(t *testing.T, o Options, cases ...Case) {
	t.Helper()
	if Inside() {
		for _, c := range cases {
			t.Run(c.Name, c.Test)
		}
		return
	}
	if err := Missing(); err != nil {
		t.Skip("needs another kernel: ", err)
	}
	binary, err := testBinary(t)
	if err != nil {
		t.Fatal(err)
	}
	limit(t, &o)
	r, w := io.Pipe()
	o.Stdout, o.Log = w, t.Logf
	command := []string{"-c", `exec "$0" "$@" 2>&1`, binary}
	ended := make(chan error, 1)
	go func() {
		ended <- Run(t.Context(), o, "sh", append(command, testFlags(t.Name(), o.Timeout)...)...)
		w.Close()
	}()
	inner := newReplay(r)
	verdict := inner.follow(t, t.Name())
	inner.rest(t.Output())
	// A failed test is an exit status of 1, which the verdict tells already.
	if err := <-ended; err != nil && (verdict != "fail" || !isExit(err)) {
		t.Error(err)
	}
	if verdict == "skip" {
		t.Skip("skipped inside, for the reason above")
	}
}

func isExit(err error) bool {
	var exit *ExitError
	return errors.As(err, &exit)
}

// limit keeps the kernel's time within the test's.
func limit(t *testing.T, o *Options) {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if end, ok := t.Deadline(); ok {
		o.Timeout = min(o.Timeout, time.Until(end)-leave)
	}
}

// testBinary is what runs inside: this program, or if it has the race detector, one
// built from the same package without it.
func testBinary(t *testing.T) (string, error) {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return "", errors.New("a test binary without build information")
	}
	settings := map[string]string{}
	for _, s := range build.Settings {
		settings[s.Key] = s.Value
	}
	if settings["-race"] != "true" {
		return filepath.Abs(os.Args[0])
	}
	binary := filepath.Join(t.TempDir(), "inside.test")
	cmd := exec.Command("go", "test", "-c", "-race=false", "-vet=off", "-tags="+settings["-tags"], "-o", binary, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the test without the race detector: %w: %s", err, out)
	}
	t.Logf("built without the race detector in %.1f s", time.Since(start).Seconds())
	return binary, nil
}

// testFlags are those of the test binary inside.
func testFlags(test string, timeout time.Duration) []string {
	flags := []string{"-test.v=test2json", "-test.timeout=" + (timeout - min(leave, timeout/2)).String()}
	run := "^" + test + "$"
	flag.Visit(func(f *flag.Flag) {
		value := f.Value.String()
		switch {
		case f.Name == "test.run":
			// The first part chose this test; alternatives are sorted out on this machine.
			if _, rest, ok := strings.Cut(value, "/"); ok && !strings.Contains(value, "|") {
				run += "/" + rest
			}
		case f.Name == "test.short", f.Name == "test.skip", !strings.HasPrefix(f.Name, "test."):
			flags = append(flags, "-"+f.Name+"="+value)
		}
	})
	return append(flags, "-test.run="+run)
}
