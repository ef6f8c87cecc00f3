package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"switchyard/test/netlab"
	"switchyard/test/uml"
)

const (
	syncTimeout = 30 * time.Second
	syncPoll    = 20 * time.Millisecond
	stopTimeout = 5 * time.Second // then it is killed
	logTail     = 20              // lines shown if the proxy dies
)

// healthz is where the proxy says on its own node that it is in sync.
var healthz = netip.MustParseAddrPort("127.0.0.1:10256")

// proxy is the running kube-proxy.
type proxy struct {
	cmd  *exec.Cmd
	host *netlab.Host
	log  string
	done chan struct{} // closed when the process has ended, err set
	err  error
}

func startProxy(s *stage) (*proxy, error) {
	binary, err := filepath.Abs(s.o.binary)
	if err != nil {
		return nil, err
	}
	p := &proxy{
		host: s.cluster.Host(netlab.NodeA),
		log:  s.log,
		done: make(chan struct{}),
	}
	file, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	// Not tied to a context: it is stopped in an orderly way, by its pid.
	p.cmd = p.host.Command(context.Background(), binary, "run",
		"--manifest", s.manifest(), "--hostname-override", p.host.Name(),
		"--cluster-cidr", strings.Join(clusterCIDRs, ","), "--proxy-mode", s.o.mode)
	p.cmd.Stdout, p.cmd.Stderr = file, file
	// Its own process group: Ctrl-C is for the demo, which then ends the proxy.
	// If the demo is killed, the kernel kills the proxy.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go p.supervise(file, started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start the proxy: %w", err)
	}
	return p, nil
}

// supervise holds the thread that started the process: Pdeathsig means the death
// of that thread.
func (p *proxy) supervise(log io.Closer, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer log.Close()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	p.err = p.cmd.Wait()
	close(p.done)
}

// healthy asks the proxy how it is.
func (p *proxy) healthy(ctx context.Context) error {
	code, body, err := get(ctx, p.host, healthz, "/healthz")
	if err != nil {
		return err
	}
	if code != http.StatusOK {
		return fmt.Errorf("%s/healthz: %d %s", healthz, code, strings.TrimSpace(string(body)))
	}
	return nil
}

// await asks again and again until the answer is good or the proxy is dead.
func (p *proxy) await(ctx context.Context, ask func(context.Context) error) error {
	limit := uml.Patience() * syncTimeout
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not in sync after %v", limit))
	defer cancel()
	for {
		last := ask(ctx)
		if last == nil {
			return nil
		}
		select {
		case <-p.done:
			return p.alive()
		case <-ctx.Done():
			return fmt.Errorf("the proxy: %w: %w%s", context.Cause(ctx), last, p.tail())
		case <-time.After(syncPoll):
		}
	}
}

// alive returns an error with the end of the log if the proxy has ended.
func (p *proxy) alive() error {
	select {
	case <-p.done:
		return fmt.Errorf("the proxy ended by itself: %w%s", cause(p.err), p.tail())
	default:
		return nil
	}
}

func cause(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

func (p *proxy) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return "; its log cannot be read: " + err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	lines = lines[max(0, len(lines)-logTail):]
	return "; the end of its log:\n  " + strings.Join(lines, "\n  ")
}

// stop ends the proxy and waits until it has.
func (p *proxy) stop() error {
	if p.alive() != nil {
		return nil
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end the proxy: %w", err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTimeout):
	}
	err := p.cmd.Process.Kill()
	<-p.done
	return errors.Join(fmt.Errorf("the proxy took more than %v to end and was killed", stopTimeout), err)
}
