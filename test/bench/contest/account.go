package contest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// sampleEvery is how often memory is looked at. A peak that is shorter is missed.
const sampleEvery = 20 * time.Millisecond

// cgroups is where a version 2 hierarchy may be: alone, or beside version 1.
var cgroups = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}

// memoryV1 is where the memory controller of version 1 may be.
const memoryV1 = "/sys/fs/cgroup/memory"

// account is a cgroup and what its processes use.
type account struct {
	dir *os.File
	// memory is a folder of the memory controller of version 1; "" if there is none:
	// then that of version 2, if it is on, is in dir.
	memory string
	peak   atomic.Int64
	stop   chan struct{}
	sample sync.WaitGroup
}

// newAccount makes a cgroup below the root of the version 2 hierarchy, in which
// the kernel counts CPU time whatever controllers are there.
func newAccount(name string) (*account, error) {
	for _, root := range cgroups {
		if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil {
			continue
		}
		path := filepath.Join(root, fmt.Sprintf("proxybench-%d-%s", os.Getpid(), name))
		if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("make a cgroup: %w", err)
		}
		dir, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("open a cgroup: %w", err)
		}
		a := &account{dir: dir, stop: make(chan struct{})}
		if _, err := os.Stat(filepath.Join(memoryV1, "memory.max_usage_in_bytes")); err == nil {
			a.memory = filepath.Join(memoryV1, filepath.Base(path))
			if err := os.Mkdir(a.memory, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return nil, errors.Join(fmt.Errorf("make a cgroup: %w", err), dir.Close())
			}
		}
		a.sample.Go(a.watch)
		return a, nil
	}
	return nil, fmt.Errorf("no cgroup version 2 is mounted at %s", strings.Join(cgroups, " or "))
}

func (a *account) watch() {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-a.stop:
			return
		case <-tick.C:
			a.peak.Store(max(a.peak.Load(), a.rss()))
		}
	}
}

func (a *account) usage() Usage {
	u := Usage{CPU: a.cpu(), RSS: a.rss(), Peak: a.peak.Load()}
	if a.memory != "" {
		u.Charged = readNumber(filepath.Join(a.memory, "memory.max_usage_in_bytes"))
		u.Kernel = readNumber(filepath.Join(a.memory, "memory.kmem.usage_in_bytes"))
		return u
	}
	u.Charged = readNumber(filepath.Join(a.dir.Name(), "memory.peak"))
	u.Kernel = a.stat("memory.stat", "kernel ")
	return u
}

// begin forgets the peaks. That of version 2 stays: the kernel forgets it only for a
// file that stays open, and only since 6.12.
func (a *account) begin() {
	a.peak.Store(0)
	if a.memory != "" {
		_ = os.WriteFile(filepath.Join(a.memory, "memory.max_usage_in_bytes"), []byte("0"), 0) // then the peak is an older one
	}
}

// admit has a program start within the account.
func (a *account) admit(cmd *exec.Cmd, attr syscall.SysProcAttr) {
	attr.UseCgroupFD, attr.CgroupFD = true, int(a.dir.Fd())
	cmd.SysProcAttr = &attr
	if a.memory == "" {
		return
	}
	// Version 1 knows no start inside: a shell goes there and becomes the program.
	const enter = `echo 0 >"$0/cgroup.procs"; exec "$@"`
	cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", enter, a.memory}, cmd.Args...)
}

// cpu is the time of all processes that have ever been in the cgroup.
func (a *account) cpu() time.Duration {
	return time.Duration(a.stat("cpu.stat", "usage_usec ")) * time.Microsecond
}

// stat is a number of one of the cgroup's files of names and numbers; 0 if it is not
// there.
func (a *account) stat(file, name string) int64 {
	text, _ := os.ReadFile(filepath.Join(a.dir.Name(), file))
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return n
		}
	}
	return 0
}

func readNumber(path string) int64 {
	text, _ := os.ReadFile(path)
	n, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n
}

// rss is the sum over all processes that are in the cgroup now. What two of them
// share counts twice: programs that are started are not forks that live on.
func (a *account) rss() (sum int64) {
	for _, pid := range a.pids() {
		text, err := os.ReadFile("/proc/" + pid + "/statm")
		if err != nil {
			continue // it has ended meanwhile
		}
		if fields := strings.Fields(string(text)); len(fields) > 1 {
			pages, _ := strconv.ParseInt(fields[1], 10, 64)
			sum += pages * int64(os.Getpagesize())
		}
	}
	return sum
}

func (a *account) pids() []string {
	text, _ := os.ReadFile(filepath.Join(a.dir.Name(), "cgroup.procs"))
	return strings.Fields(string(text))
}

// close removes the cgroup, once its processes are gone.
func (a *account) close() error {
	close(a.stop)
	a.sample.Wait()
	var err error
	for range 100 {
		if err = a.remove(); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.Join(err, a.dir.Close())
}

func (a *account) remove() error {
	for _, path := range []string{a.memory, a.dir.Name()} {
		if err := os.Remove(path); path != "" && err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
