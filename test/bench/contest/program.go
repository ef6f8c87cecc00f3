package contest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"switchyard/test/bench/load"
)

// program is a kube-proxy at work.
type program struct {
	contestant Contestant
	stage      Stage
	account    *account
	cmd        *exec.Cmd
	done       chan struct{}
	err        error // valid once done is closed
	starts     int
}

func openProgram(c Contestant, s Stage) (*program, error) {
	if err := prepareTables(c.Tables, s); err != nil {
		return nil, fmt.Errorf("contestant %s: %w", c.Name, err)
	}
	a, err := newAccount(c.Name)
	if err != nil {
		return nil, err
	}
	return &program{contestant: c, stage: s, account: a}, nil
}

// Start writes the configuration and starts the program.
func (p *program) Start(_ context.Context, s Settings) error {
	p.starts++
	path := filepath.Join(p.stage.Dir, "config.yaml")
	if err := os.WriteFile(path, p.configuration(s), 0o600); err != nil {
		return err
	}
	args := append([]string{"--config=" + path, "--v=1"}, p.contestant.Args...)
	if p.stage.Manifest != "" {
		args = append(args, "--manifest="+p.stage.Manifest)
	}
	log, err := os.OpenFile(p.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.account.begin()
	cmd := p.stage.command(p.contestant.Path, args...)
	if s.Tally {
		if err := p.tally(cmd); err != nil {
			return err
		}
	}
	p.account.admit(cmd, syscall.SysProcAttr{Setpgid: true})
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.contestant.Name, err)
	}
	p.cmd, p.done = cmd, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		p.err = cmd.Wait()
	}(p.done)
	return nil
}

// tally puts the counting names before all others in PATH.
func (p *program) tally(cmd *exec.Cmd) error {
	dir := filepath.Join(p.stage.Dir, "tally")
	if err := prepareTally(dir); err != nil {
		return fmt.Errorf("prepare the tally: %w", err)
	}
	i := slices.IndexFunc(cmd.Env, func(e string) bool { return strings.HasPrefix(e, "PATH="+p.stage.Dir) })
	path := strings.TrimPrefix(cmd.Env[i], "PATH=")
	cmd.Env = append(cmd.Env, tallyPath+"="+path, tallyFile+"="+p.notes(), "PATH="+dir+":"+path)
	return nil
}

func (p *program) notes() string { return filepath.Join(p.stage.Dir, "tally.notes") }

// Tally adds up the notes of all starts with a tally.
func (p *program) Tally() (Tally, error) { return readTally(p.notes()) }

// Log is the path of what the program has said.
func (p *program) Log() string { return filepath.Join(p.stage.Dir, "log") }

// command prepares a program on the node, with the stage's tools first in PATH and
// a lock file of its own: namespaces do not divide the xtables lock of legacy tools.
func (s Stage) command(name string, args ...string) *exec.Cmd {
	cmd := s.Street.Node.Command(context.Background(), name, args...)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(s.Dir, "bin")+":"+os.Getenv("PATH"),
		"XTABLES_LOCKFILE="+filepath.Join(s.Dir, "xtables.lock"))
	return cmd
}

// Changed does nothing: the program watches.
func (p *program) Changed(context.Context, int) (time.Time, error) { return time.Time{}, nil }

// Ended tells how the program ended, with the end of its log.
func (p *program) Ended() error {
	if p.cmd == nil {
		return errors.New("not started")
	}
	select {
	case <-p.done:
		text, _ := os.ReadFile(p.Log())
		return fmt.Errorf("%s has ended: %w: %s", p.contestant.Name, p.err, tail(string(text)))
	default:
		return nil
	}
}

func tail(text string) string {
	const enough = 600
	text = strings.TrimSpace(text)
	return text[max(0, len(text)-enough):]
}

// Stop sends a signal and waits for the end, which it forces after 20 s.
func (p *program) Stop(sig syscall.Signal) error {
	if p.cmd == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(sig) // fails only if it has ended
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	p.cmd = nil
	return p.orphans()
}

// orphans ends what the program started and left behind.
func (p *program) orphans() error {
	for range 500 {
		if len(p.account.pids()) == 0 {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return os.WriteFile(filepath.Join(p.account.dir.Name(), "cgroup.kill"), []byte("1"), 0)
}

// Usage is that of all starts.
func (p *program) Usage() Usage { return p.account.usage() }

// Close kills the program if it runs.
func (p *program) Close() error {
	return errors.Join(p.Stop(syscall.SIGKILL), p.account.close())
}

// configuration is upstream's file, in which each contestant's part is the same.
// The conntrack limits are the machine's, which a namespace may not set.
func (p *program) configuration(s Settings) []byte {
	min := ""
	switch {
	case s.MinSync == 0:
		min = "minSyncPeriod: 1ns" // 0 in a file is the default
	case s.MinSync > 0:
		min = "minSyncPeriod: " + s.MinSync.String()
	}
	mode := p.contestant.Mode
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
hostnameOverride: %s
clusterCIDR: %s
mode: %s
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
enableProfiling: true
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`, load.NodeName, load.PodCIDR(), mode)
	if p.stage.Kubeconfig != "" {
		fmt.Fprintf(&b, "clientConnection: {kubeconfig: %q}\n", p.stage.Kubeconfig)
	}
	section := mode
	if mode == "userspace" {
		section = "iptables"
	}
	if min != "" {
		fmt.Fprintf(&b, "%s: {%s}\n", section, min)
	}
	return []byte(b.String())
}
