package contest

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// sampleEvery is how often memory is looked at. A peak that is shorter is missed.
const sampleEvery = 20 * time.Millisecond

// cgroups is where a version 2 hierarchy may be: alone, or beside version 1.
var cgroups = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}

// account is a cgroup and what its processes use.
type account struct {
	dir    *os.File
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
	return Usage{CPU: a.cpu(), RSS: a.rss(), Peak: a.peak.Load()}
}

// cpu is the time of all processes that have ever been in the cgroup.
func (a *account) cpu() time.Duration {
	f, err := os.Open(filepath.Join(a.dir.Name(), "cpu.stat"))
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "usage_usec "); ok {
			n, _ := strconv.ParseInt(text, 10, 64)
			return time.Duration(n) * time.Microsecond
		}
	}
	return 0
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
		if err = os.Remove(a.dir.Name()); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return errors.Join(err, a.dir.Close())
}
