package uml

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"time"
)

// DefaultMemory is the size of the kernel's memory if neither Options nor the
// environment variable MEM say otherwise. Files written inside are in it. Memory
// of this machine is taken only as it is used.
const DefaultMemory = "2048M"

// DefaultTimeout is the limit of Options that name none.
const DefaultTimeout = 10 * time.Minute

// Options say in what the command runs. The zero value is good for most.
type Options struct {
	// Modules are loaded before the command; one that cannot be is an error. nil:
	// Modules().
	Modules []string
	// Memory is the kernel's: a number and K, M or G. "": MEM, or DefaultMemory.
	Memory string
	// Timeout is the limit for everything together; 0: DefaultTimeout.
	Timeout time.Duration
	// Dir is the command's working directory; "": that of this process.
	Dir string
	// Env are settings ("CI=true") beside the environment of this process, whose
	// names must be such that a shell takes them.
	Env []string
	// Writable are folders, by their absolute paths, in which what the command
	// writes stays on this machine.
	Writable []string
	// Stdout and Stderr get what the command prints, while it runs; nil: nobody. They
	// are written to by one goroutine.
	Stdout, Stderr io.Writer
	// Log is told what kernel runs, and how long it took to boot; nil: nobody.
	Log func(format string, args ...any)
}

// ExitError is the end of a command whose exit status is not 0.
type ExitError struct{ Status int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Status) }

// Inside reports whether this process runs in User Mode Linux.
func Inside() bool {
	text, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && bytes.Contains(text, []byte("User Mode Linux"))
}

// Patience is by how much longer things may take that are mostly system calls: 1
// on this machine, 10 in User Mode Linux.
func Patience() time.Duration {
	if Inside() {
		return 10
	}
	return 1
}

// Run boots a kernel, runs a command in it and returns when the command has ended
// and the kernel with it. The error is nil if the exit status is 0, an *ExitError if
// it is another, and else says why the command did not come to its end, with the
// last lines of the kernel's console.
func Run(ctx context.Context, o Options, command string, args ...string) error {
	if Inside() {
		return errors.New("run in User Mode Linux: this is User Mode Linux")
	}
	if err := o.complete(); err != nil {
		return fmt.Errorf("run in User Mode Linux: %w", err)
	}
	k, err := find()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, fmt.Errorf("not done after %v", o.Timeout))
	defer cancel()
	m, err := newMachine(k, o, append([]string{command}, args...))
	if err != nil {
		return fmt.Errorf("run in User Mode Linux: %w", err)
	}
	err = m.run(ctx)
	if e := (*ExitError)(nil); err != nil && !errors.As(err, &e) {
		err = fmt.Errorf("run in User Mode Linux: %w%s", err, m.console.tail())
	}
	return errors.Join(err, m.close())
}

var memorySize = regexp.MustCompile(`^[0-9]+[KMG]$`)

func (o *Options) complete() (err error) {
	o.Memory = cmp.Or(o.Memory, os.Getenv("MEM"), DefaultMemory)
	if !memorySize.MatchString(o.Memory) {
		return fmt.Errorf("memory %q is not a number and K, M or G", o.Memory)
	}
	if o.Modules == nil {
		o.Modules = Modules()
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Dir == "" {
		if o.Dir, err = os.Getwd(); err != nil {
			return err
		}
	}
	if o.Stdout == nil {
		o.Stdout = io.Discard
	}
	if o.Stderr == nil {
		o.Stderr = io.Discard
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	return nil
}
