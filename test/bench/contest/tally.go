package contest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A tally counts the programs that a contestant starts to reach the kernel, and what
// it feeds to them: their names stand first in PATH and lead to the benchmark's own
// binary, which notes the call, runs the real program and passes everything on. That
// costs time, so a start with a tally is not measured otherwise.
const (
	tallyFile = "PROXYBENCH_TALLY"
	tallyPath = "PROXYBENCH_PATH" // PATH without the tally
)

// tallied are the programs that are counted.
func tallied() (names []string) {
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, flavour := range []string{"", "-nft", "-legacy"} {
			for _, end := range []string{"", "-save", "-restore"} {
				names = append(names, family+flavour+end)
			}
		}
	}
	return append(names, "nft", "ipset", "ipvsadm", "conntrack")
}

// Tally is what was counted.
type Tally struct {
	Programs int   // started
	Input    int64 // bytes that they read
}

// Since is what was counted after an earlier one.
func (t Tally) Since(earlier Tally) Tally {
	return Tally{Programs: t.Programs - earlier.Programs, Input: t.Input - earlier.Input}
}

// Relay stands in for a program if this process was started under its name by a
// contestant with a tally. It returns the exit status, and whether it was.
func Relay() (status int, ok bool) {
	file, name := os.Getenv(tallyFile), filepath.Base(os.Args[0])
	if file == "" || !slices.Contains(tallied(), name) {
		return 0, false
	}
	path, err := lookIn(os.Getenv(tallyPath), name)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 127, true
	}
	input := &counter{from: os.Stdin}
	cmd := exec.Command(path, os.Args[1:]...)
	cmd.Args[0] = name // what these programs are, they take from their name
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if readsInput(name) {
		cmd.Stdin = input
		cmd.WaitDelay = 100 * time.Millisecond // it may end without reading all
	}
	err = cmd.Run()
	if note := note(file, name, input.bytes); note != nil {
		fmt.Fprintln(os.Stderr, note)
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode(), true
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		fmt.Fprintln(os.Stderr, err)
		return 126, true
	}
	return 0, true
}

// readsInput tells the calls whose input is what they write.
func readsInput(name string) bool {
	return strings.HasSuffix(name, "-restore") ||
		name == "nft" && slices.Contains(os.Args, "-f") || name == "ipset" && slices.Contains(os.Args, "restore")
}

func lookIn(path, name string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		if found, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("%s: not in PATH", name)
}

// counter counts what is read through it.
type counter struct {
	from  io.Reader
	bytes int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.from.Read(b)
	c.bytes += int64(n)
	return n, err
}

// note appends a line, whole: others may do so at the same time.
func note(file, name string, input int64) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s %d\n", name, input)
	return errors.Join(err, f.Close())
}

// prepareTally makes the folder that comes first in PATH.
func prepareTally(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range tallied() {
		if _, err := exec.LookPath(name); err != nil {
			continue // a contestant shall not find it either
		}
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// readTally adds up the notes.
func readTally(file string) (t Tally, err error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return t, nil // nothing was started
	}
	for line := range strings.Lines(string(text)) {
		_, bytes, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseInt(bytes, 10, 64)
		if err != nil {
			return t, fmt.Errorf("read the tally: %w", err)
		}
		t.Programs++
		t.Input += n
	}
	return t, err
}
