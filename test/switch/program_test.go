package switching

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"switchyard/test/subject"
)

// mode is how a proxy runs.
type mode struct {
	upstream bool
	name     string // of --proxy-mode
	flavour  string // of iptables
}

func (m mode) String() string {
	name := m.name
	if m.name == "iptables" {
		name += " " + m.flavour
	}
	if m.upstream {
		return "upstream " + name
	}
	return name
}

// program is a proxy on the node.
type program struct {
	cmd   *exec.Cmd
	log   subject.Log
	ended chan struct{}
}

// drain is how long the userspace mode lets its connections live on when it ends.
const drain = 1500 * time.Millisecond

// start starts the proxy; it ends with the test at the latest.
func (st *stage) start(t *testing.T, m mode, more ...string) *program {
	t.Helper()
	args := []string{"--proxy-mode", m.name, "--hostname-override", "node-a",
		"--cluster-cidr", "10.180.0.0/16,fd00:10:180::/64", "--iptables-min-sync-period", "0s",
		"--manifest", st.files, "--userspace-drain", drain.String()}
	return st.launch(t, st.binary, os.Getenv("PATH"), append(args, more...))
}

// launch has the program end with the whole test, since a walk goes on with it after
// the subtest that started it.
func (st *stage) launch(t *testing.T, binary, path string, args []string) *program {
	t.Helper()
	p := &program{ended: make(chan struct{})}
	p.cmd = st.node.Command(context.Background(), binary, args...)
	p.cmd.Env = append(os.Environ(), "PATH="+path)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.WaitDelay = time.Second
	check(t, p.cmd.Start())
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // whoever ended it knows how
	}()
	st.whole.Cleanup(func() {
		p.end(st.whole, syscall.SIGKILL)
		if st.whole.Failed() {
			st.whole.Logf("the log of %q:\n%s", args, p.log.String())
		}
	})
	return p
}

// end ends the proxy by a signal and waits until it has.
func (p *program) end(t *testing.T, s syscall.Signal) {
	t.Helper()
	_ = p.cmd.Process.Signal(s) // fails if it has ended
	until(t, "the end of the proxy", func() bool {
		select {
		case <-p.ended:
			return true
		default:
			return false
		}
	})
}

var applied = regexp.MustCompile(`msg=applied family=(IPv[46])`)

// inSync waits for the first sync of each family.
func (p *program) inSync(t *testing.T) time.Duration {
	t.Helper()
	return until(t, "the first sync", func() bool {
		families := map[string]bool{}
		for _, m := range applied.FindAllStringSubmatch(p.log.String(), -1) {
			families[m[1]] = true
		}
		select {
		case <-p.ended:
			t.Fatalf("the proxy has ended:\n%s", p.log.String())
		default:
		}
		return len(families) == 2
	})
}

// isAlone waits until the proxy has removed what other modes left.
func (p *program) isAlone(t *testing.T) time.Duration {
	t.Helper()
	return until(t, "no other mode has anything in the kernel", func() bool {
		return strings.Contains(p.log.String(), "no other mode has anything in the kernel")
	})
}

// build builds the program as the image has it.
func build(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing: root, for network namespaces")
	}
	return subject.Build(t)
}
