package ruleset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lockSeconds = "5"      // how long a program waits for the xtables lock, as upstream
	maxStderr   = 64 << 10 // bytes kept of what a program says: nft names every refused line
	maxText     = 300      // bytes of an input line in an error
	statusBusy  = 4        // the programs' exit status for "resource problem"
)

// RestoreError is a refusal by one of the programs, mostly iptables-restore. The
// sections of its input before the named one are in the kernel: each COMMIT stands
// alone.
type RestoreError struct {
	Table  string // the section that Line is in; "" if outside of one
	Line   int    // first line at fault, 1-based; 0 if the program named none or has no input
	Text   string // that line, or the arguments of a program without input; at most 300 bytes
	Lines  []int  // every line at fault, ascending: the kernel may refuse several at once
	Stderr string // what the program printed, at most 64 KiB
	Status int    // its exit status; -1 if a signal ended it
	Holder string // who holds the xtables lock, if that was the reason and it is known

	program string
	advice  string
}

func (e *RestoreError) Error() string {
	var b strings.Builder
	b.WriteString(e.program)
	if e.Table != "" {
		b.WriteString(": table " + e.Table)
	}
	switch {
	case e.Line > 0:
		fmt.Fprintf(&b, ": line %d %q", e.Line, e.Text)
	case e.Text != "":
		b.WriteString(": " + e.Text)
	}
	if more := len(e.Lines) - 1; more > 0 {
		fmt.Fprintf(&b, " and %d more", more)
	}
	fmt.Fprintf(&b, ": exit status %d", e.Status)
	if said := oneLine(e.Stderr); said != "" {
		b.WriteString(": " + said)
	}
	if e.Holder != "" {
		b.WriteString(": the xtables lock is held by " + e.Holder)
	}
	if e.advice != "" {
		b.WriteString(": " + e.advice)
	}
	return b.String()
}

// transientErrno are the kernel's errors in a refusal that may pass by themselves.
var transientErrno = regexp.MustCompile(`failed \((Resource temporarily unavailable|Interrupted system call|Cannot allocate memory|No buffer space available)\)`)

// Temporary tells that the same input may be accepted a moment later: the xtables
// lock is held by another program, or memory is short. The nft programs exit with 4
// for every refusal of the kernel as well; those are not temporary.
func (e *RestoreError) Temporary() bool {
	if e.lockHeld() || transientErrno.MatchString(e.Stderr) {
		return true
	}
	return e.Status == statusBusy && e.Line == 0 && e.advice == "" && !strings.Contains(e.Stderr, "failed (")
}

func (e *RestoreError) lockHeld() bool { return strings.Contains(e.Stderr, "xtables lock") }

// WholeTable tells that the kernel refused the section as one and nobody knows which
// line is at fault: Line is its COMMIT. The legacy kernel interface does so always;
// only trying the section's parts finds the offender.
func (e *RestoreError) WholeTable() bool { return e.Text == "COMMIT" }

// Restore gives input to iptables-restore --noflush: chains that it declares are
// emptied or created, all others stay. Each *table … COMMIT section of the input
// goes in as one transaction or not at all. It waits up to 5 s for the xtables lock.
//
// A refusal is a *RestoreError. If ctx ends, the program is killed and the error
// wraps ctx's: sections already committed stay.
func (t *Tool) Restore(ctx context.Context, input []byte) error {
	r := t.execute(ctx, program{
		path: t.bin.restore, args: []string{"-w", lockSeconds, "--noflush"}, stdin: input,
	})
	if r.err == nil {
		return nil
	}
	return t.refusal(ctx, t.bin.restore, r, explainRestore(input, r.stderr))
}

// Save returns one table as iptables-save prints it. At 10,000 services it is
// 8 MB and takes 0.2 s with the legacy programs, but 9 s with those of nft,
// whose time grows with the square of the chains. The legacy kernel creates the table
// if it is not there.
func (t *Tool) Save(ctx context.Context, table string) ([]byte, error) {
	r := t.execute(ctx, program{path: t.bin.save, args: []string{"-t", table}})
	if r.err == nil {
		return r.stdout, nil
	}
	return nil, t.refusal(ctx, t.bin.save, r, &RestoreError{Table: table, Stderr: r.stderr})
}

// Packets are the kernel's counts of the rules of one chain, in their order. The
// legacy flavour reads the whole table for it.
func (t *Tool) Packets(ctx context.Context, table, chain string) ([]uint64, error) {
	r := t.execute(ctx, program{path: t.bin.iptables, args: []string{"-w", "5", "-t", table, "-nvxL", chain}})
	if r.err != nil {
		return nil, t.refusal(ctx, t.bin.iptables, r, &RestoreError{Table: table, Stderr: r.stderr})
	}
	return parsePackets(r.stdout), nil
}

// parsePackets reads the output of iptables -nvxL: two lines of heading, then a rule
// a line, its packets first.
func parsePackets(listing []byte) (counts []uint64) {
	line := 0
	for text := range bytes.Lines(listing) {
		if line++; line <= 2 {
			continue
		}
		fields := bytes.Fields(text)
		if len(fields) == 0 {
			continue
		}
		n, err := strconv.ParseUint(string(fields[0]), 10, 64)
		if err != nil {
			continue
		}
		counts = append(counts, n)
	}
	return counts
}

// refusal completes e, which says what was refused, for a program that failed. If it
// did not fail by itself, that is the error: it could not start, or ctx ended.
func (t *Tool) refusal(ctx context.Context, path string, r outcome, e *RestoreError) error {
	e.program = filepath.Base(path)
	if ctx.Err() != nil {
		return fmt.Errorf("run %s: %w", e.program, ctx.Err())
	}
	// go-iptables' error and os/exec's both end in an ExitError, by different ways.
	var exit interface{ ExitCode() int }
	if !errors.As(r.err, &exit) {
		return fmt.Errorf("run %s: %w", e.program, r.err)
	}
	e.Status = exit.ExitCode()
	e.advice = advise(t.flavour, e.Stderr)
	if e.lockHeld() {
		e.Holder = lockHolder()
	}
	return e
}

// namedLine finds the input lines that a message names, in the forms of all versions:
// "line 12 failed", "Error occurred at line: 12", "COMMIT expected at line 12",
// "line 12: RULE_APPEND failed (Invalid argument): rule in chain KUBE-X".
var namedLine = regexp.MustCompile(`(?m)(?:^|^[\w-]+: |\bat )line:? (\d+)\b`)

// missingChain is a message of the nft programs for a jump to a chain that does not
// exist. They notice at the section's end and name the line they have read by then.
var missingChain = regexp.MustCompile(`Chain '([^']+)' does not exist`)

// explainRestore finds in input what the programs' message is about.
func explainRestore(input []byte, stderr string) *RestoreError {
	e := &RestoreError{Stderr: stderr}
	for _, m := range namedLine.FindAllStringSubmatch(stderr, -1) {
		if n, err := strconv.Atoi(m[1]); err == nil && n > 0 && !slices.Contains(e.Lines, n) {
			e.Lines = append(e.Lines, n)
		}
	}
	if len(e.Lines) == 0 {
		return e
	}
	slices.Sort(e.Lines)
	lines := strings.Split(string(input), "\n")
	start, table := sectionAt(lines, e.Lines[0])
	if m := missingChain.FindStringSubmatch(stderr); m != nil {
		if n := jumpTo(lines, start, e.Lines[0], m[1]); n > 0 {
			e.Lines = []int{n}
		}
	}
	e.Table, e.Line = table, e.Lines[0]
	if e.Line <= len(lines) {
		text := strings.TrimSpace(lines[e.Line-1])
		e.Text = text[:min(len(text), maxText)]
	}
	return e
}

// sectionAt returns the line at which the section around line n begins, and its
// table; 1 and "" outside of one. A section's COMMIT belongs to it.
func sectionAt(lines []string, n int) (start int, table string) {
	for i := min(n, len(lines)); i >= 1; i-- {
		text := strings.TrimSpace(lines[i-1])
		if name, ok := strings.CutPrefix(text, "*"); ok {
			return i, name
		}
		if text == "COMMIT" && i < n {
			break
		}
	}
	return 1, ""
}

// jumpTo returns the first of the lines from…to that jumps to chain, or 0.
func jumpTo(lines []string, from, to int, chain string) int {
	for i := from; i <= min(to, len(lines)); i++ {
		fields := strings.Fields(lines[i-1])
		for k := 1; k < len(fields); k++ {
			if fields[k] == chain && (fields[k-1] == "-j" || fields[k-1] == "-g") {
				return i
			}
		}
	}
	return 0
}

// noise is what the programs say around the reason. The second alternative is the
// program's name and version, which the error gives by itself.
var noise = regexp.MustCompile("(?m)^(Try `.*|Error occurred at line: \\d+|# Warning: .*)$|^[\\w-]+ v[0-9.]+ \\(\\w+\\): *|^Perhaps iptables or your kernel needs to be upgraded\\.$")

// oneLine makes a message of the programs fit for an error: one line, 500 bytes.
func oneLine(stderr string) string {
	text := strings.Join(strings.Fields(noise.ReplaceAllString(stderr, "")), " ")
	if len(text) > 500 {
		text = strings.ToValidUTF8(text[:500], "") + "…"
	}
	return text
}

// program is one program to run.
type program struct {
	path  string
	args  []string
	stdin []byte
}

// outcome is what came of it. err is an *exec.ExitError if the program ran.
type outcome struct {
	stdout []byte
	stderr string
	err    error
}

func (t *Tool) execute(ctx context.Context, p program) outcome {
	t.execs.Add(1)
	return execute(ctx, p)
}

// execute runs a program on the calling thread's network namespace; the end of ctx
// kills it.
func execute(ctx context.Context, p program) outcome {
	var stdout bytes.Buffer
	var stderr cappedBuffer
	cmd := exec.CommandContext(ctx, p.path, p.args...)
	// Bounds the wait for a grandchild that keeps the pipes open after the kill.
	cmd.WaitDelay = time.Second
	// A program that waits for the lock would write for a process that was killed
	// meanwhile, beside the next one: a jump would stand twice.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // it is the death of the thread that counts
	defer runtime.UnlockOSThread()
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if p.stdin != nil {
		cmd.Stdin = bytes.NewReader(p.stdin)
	}
	err := cmd.Run()
	return outcome{stdout: stdout.Bytes(), stderr: stderr.String(), err: err}
}

// lockHolder names the process that holds the xtables lock as "pid 12 (iptables -S)",
// "" if it is gone by now or lives outside of this process's pid namespace.
func lockHolder() string {
	path := os.Getenv("XTABLES_LOCKFILE")
	if path == "" {
		path = "/run/xtables.lock"
	}
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	file, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return ""
	}
	// The kernel prints the device as major:minor in hexadecimal, proc(5).
	id := fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(file.Dev)), unix.Minor(uint64(file.Dev)), file.Ino)
	pid := flockPID(string(locks), id)
	if pid == "" {
		return ""
	}
	name := ""
	if cmdline, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil {
		name = strings.Join(strings.FieldsFunc(string(cmdline), func(r rune) bool { return r <= ' ' }), " ")
	}
	return fmt.Sprintf("pid %s (%s)", pid, strings.ToValidUTF8(name[:min(len(name), 120)], ""))
}

// flockPID finds in the text of /proc/locks the process that holds the write lock
// taken by flock(2) on the file id; "" if none. Lines with an arrow are waiters.
func flockPID(locks, id string) string {
	for line := range strings.Lines(locks) {
		f := strings.Fields(line)
		if len(f) >= 6 && f[1] == "FLOCK" && f[3] == "WRITE" && f[5] == id {
			return f[4]
		}
	}
	return ""
}

func lookPath(name string) (string, error) { return exec.LookPath(name) }

// cappedBuffer keeps the first maxStderr bytes and swallows the rest.
type cappedBuffer struct{ bytes.Buffer }

var _ io.Writer = (*cappedBuffer)(nil)

func (b *cappedBuffer) Write(p []byte) (int, error) {
	if room := maxStderr - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
