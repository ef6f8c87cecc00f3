package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"switchyard/test/netlab"
)

// stopTimeout is how long the process may take to be gone, on a machine that others use
// too.
const stopTimeout = 30 * time.Second

// proxy is the program under test, whether it runs or not.
type proxy struct {
	host   *netlab.Host
	binary string
	args   []string
	env    []string
	log    io.WriteCloser

	mu   sync.Mutex
	cmd  *exec.Cmd     // nil: it does not run
	done chan struct{} // closed when it has ended
	ends int           // how often it ended by itself
	said []line        // since its last start
}

// line is one of the proxy's log.
type line struct {
	at   time.Time
	text string
}

// has reports whether the line is about something.
func (l line) has(what string) bool { return strings.Contains(l.text, what) }

func newProxy(host *netlab.Host, binary, log string) (*proxy, error) {
	file, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	return &proxy{host: host, binary: binary, log: file}, nil
}

// running reports whether there is a process.
func (p *proxy) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil
}

// pid is the process, 0 if there is none.
func (p *proxy) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// start starts the program unless it runs.
func (p *proxy) start() error {
	if p.running() {
		return nil
	}
	cmd := p.host.Command(context.Background(), p.binary, p.args...)
	cmd.Env = append(os.Environ(), p.env...)
	// If this program is killed, the kernel kills the proxy; its process group is its
	// own, so that Ctrl-C is for this program alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	pipe, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.said, p.done = nil, make(chan struct{})
	p.mu.Unlock()
	started := make(chan error, 1)
	go p.supervise(cmd, pipe, started)
	if err := <-started; err != nil {
		return fmt.Errorf("start the proxy: %w", err)
	}
	return nil
}

// supervise holds the thread that started the process, whose death Pdeathsig is
// about.
func (p *proxy) supervise(cmd *exec.Cmd, pipe io.Reader, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	done := p.done
	err := cmd.Start()
	if err == nil {
		p.mu.Lock()
		p.cmd = cmd
		p.mu.Unlock()
	}
	started <- err
	if err != nil {
		return
	}
	p.listen(pipe)
	_ = cmd.Wait() // how it ended, whoever ended it knows
	p.mu.Lock()
	if p.cmd == cmd {
		p.cmd = nil
		p.ends++
	}
	p.mu.Unlock()
	close(done)
}

func (p *proxy) listen(pipe io.Reader) {
	scan := bufio.NewScanner(pipe)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		l := line{time.Now(), scan.Text()}
		fmt.Fprintln(p.log, l.text)
		p.mu.Lock()
		p.said = append(p.said, l)
		p.mu.Unlock()
	}
}

// stop ends the program by a signal and waits until it has.
func (p *proxy) stop(sig syscall.Signal) error {
	p.mu.Lock()
	cmd, done := p.cmd, p.done
	p.cmd = nil
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end the proxy: %w", err)
	}
	select {
	case <-done:
		return nil
	case <-time.After(stopTimeout):
	}
	err := cmd.Process.Kill()
	<-done
	return errors.Join(fmt.Errorf("the proxy took more than %s to end by %s", stopTimeout, sig), err)
}

// lines are those since the last start.
func (p *proxy) lines() []line {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said[:len(p.said):len(p.said)]
}

var operations = regexp.MustCompile(`msg=applied family=(\S+) .*\boperations=(\d+)( written=map\[\])?`)

// synced reports whether each family was applied since the start, and by how many
// writing calls the first time. Where only deletions were made, that is an endpoint
// whose last connection ended while nobody looked: it counts for nothing.
func (p *proxy) synced() (writes int, ok bool) {
	first := map[string]int{}
	for _, l := range p.lines() {
		m := operations.FindStringSubmatch(l.text)
		if m == nil {
			continue
		}
		if _, seen := first[m[1]]; !seen {
			first[m[1]] = 0
			if m[3] == "" {
				first[m[1]], _ = strconv.Atoi(m[2])
			}
		}
	}
	for _, n := range first {
		writes += n
	}
	return writes, len(first) == len(families)
}

// tail is the end of the log.
func (p *proxy) tail() string {
	var b strings.Builder
	lines := p.lines()
	for _, l := range lines[max(0, len(lines)-15):] {
		fmt.Fprintf(&b, "\n    %.400s", l.text)
	}
	return b.String()
}
