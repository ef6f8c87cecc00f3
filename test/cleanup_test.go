package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"switchyard/test/netlab"
	"switchyard/test/subject"
)

// counting stands before a program that writes rules. It counts the calls, and kills
// the proxy and itself at one of them: before it is made, or after its first COMMIT.
const counting = `#!/bin/sh
case "%[2]s $*" in
*-restore*|*' -A '*|*' -I '*|*' -D '*|*' -N '*|*' -X '*|*' -F '*) ;;
*) exec %[3]s "$@" ;;
esac
echo %[2]s >> %[1]s/calls
if [ -e %[1]s/kill ] && [ "$(wc -l < %[1]s/calls)" -ge "$(cat %[1]s/kill)" ]; then
	if [ -e %[1]s/half ]; then sed '/^COMMIT/q' | %[3]s "$@"; fi
	kill -9 0
fi
exec %[3]s "$@"
`

// wrapped makes a folder, for PATH, of the programs of some flavours behind counting.
func wrapped(t *testing.T, state string, flavours ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, flavour := range flavours {
		for _, prefix := range []string{"iptables-", "ip6tables-"} {
			for _, suffix := range []string{"", "-save", "-restore"} {
				name := prefix + flavour + suffix
				real, err := exec.LookPath(name)
				if err != nil {
					t.Skipf("needs %s: install the package iptables", name)
				}
				script := fmt.Sprintf(counting, state, name, real)
				if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	return "PATH=" + dir + ":/usr/bin:/bin"
}

const foreignRules = `*nat
:CORP - [0:0]
-A PREROUTING -d 203.0.113.7/32 -j CORP
-A CORP -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.9.9.9:80
COMMIT
*filter
:CORP - [0:0]
:KUBE-ROUTER-X - [0:0]
-A INPUT -s 203.0.113.99/32 -j CORP
-A FORWARD -j KUBE-ROUTER-X
-A CORP -j DROP
COMMIT
`

// TestCleanupAfterAKill kills the proxy at writes of its first sync, before one or in
// the middle of it, and cleans up: what others have is byte for byte what it was,
// and the second cleanup writes nothing.
func TestCleanupAfterAKill(t *testing.T) {
	p := newProgram(t)
	for _, c := range []struct{ mode, flavour string }{
		{"iptables", "nft"}, {"iptables", "legacy"}, {"userspace", "nft"}, {"userspace", "legacy"},
	} {
		t.Run(c.mode+" "+c.flavour, func(t *testing.T) {
			state := t.TempDir()
			k := &killing{t: t, p: p, state: state, flavour: c.flavour,
				env: wrapped(t, state, c.flavour), both: wrapped(t, state, "nft", "legacy")}
			k.run("iptables-"+c.flavour+"-restore --noflush", foreignRules)
			k.run("ip6tables-"+c.flavour+"-save", "") // makes the tables that a look makes
			before := k.saved()
			// Every moment takes minutes; these are the first ones, and fewer and fewer.
			for i, at := range []int{1, 2, 3, 5, 8, 13, 21, 34, 55, 89} {
				if !k.start(c.mode, at, i%2 == 1) {
					t.Logf("killed at %d moments", i)
					k.check(before, "a whole sync")
					if i < 5 {
						t.Errorf("only %d moments", i)
					}
					return
				}
				k.check(before, fmt.Sprintf("write %d, half %t", at, i%2 == 1))
			}
			t.Error("no end of writes")
		})
	}
}

type killing struct {
	t                         *testing.T
	p                         *program
	state, flavour, env, both string
}

func (k *killing) run(command, stdin string) string {
	k.t.Helper()
	cmd := k.p.lab.Host(netlab.NodeA).Command(context.Background(), "sh", "-c", command)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		k.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// saved are the tables of the flavour and both families, without dates and counters.
func (k *killing) saved() string {
	k.t.Helper()
	text := ""
	for _, table := range []string{"nat", "filter"} {
		for _, prefix := range []string{"iptables-", "ip6tables-"} {
			text += k.run(prefix+k.flavour+"-save -t "+table+" | sed -e '/^#/d' -e 's/\\[.*\\]//'", "")
		}
	}
	return text + k.run("cat /proc/sys/net/ipv4/conf/all/route_localnet", "")
}

// start runs the proxy in a process group of its own until it is killed at a write, or
// has done all of them; it reports whether it was killed.
func (k *killing) start(mode string, at int, half bool) (killed bool) {
	k.t.Helper()
	k.arm(at, half)
	log := &subject.Log{}
	cmd := k.p.lab.Host(netlab.NodeA).Command(context.Background(), k.p.path, "--manifest="+k.p.dir,
		"--proxy-mode="+mode, "--hostname-override=node-a", "--cluster-cidr=10.180.0.0/16")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), k.env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case <-ended:
			if text := log.String(); cmd.ProcessState.ExitCode() >= 0 {
				k.t.Fatalf("it ended by itself:\n%s", text)
			}
			return true
		case <-deadline:
			k.t.Fatalf("neither killed nor in sync\n%s", log)
		case <-time.After(20 * time.Millisecond):
		}
		if strings.Contains(log.String(), "msg=applied family=IPv4") && strings.Contains(log.String(), "msg=applied family=IPv6") {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
			return false
		}
	}
}

// arm says at which write to kill; 0: at none.
func (k *killing) arm(at int, half bool) {
	k.t.Helper()
	for name, text := range map[string]string{"calls": "", "kill": fmt.Sprint(at), "half": "half"} {
		path := filepath.Join(k.state, name)
		if err := os.RemoveAll(path); err != nil {
			k.t.Fatal(err)
		}
		if name == "kill" && at == 0 || name == "half" && !half {
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			k.t.Fatal(err)
		}
	}
}

// check cleans up twice.
func (k *killing) check(before, after string) {
	k.t.Helper()
	for _, again := range []bool{false, true} {
		k.arm(0, false)
		cmd := k.p.lab.Host(netlab.NodeA).Command(context.Background(), k.p.path, "cleanup")
		cmd.Env = append(os.Environ(), k.both)
		out, err := cmd.CombinedOutput()
		if err != nil {
			k.t.Fatalf("after %s: cleanup: %v\n%s", after, err, out)
		}
		if now := k.saved(); now != before {
			k.t.Fatalf("after %s, cleanup leaves\n%s\nwhere there was\n%s", after, now, before)
		}
		calls, err := os.ReadFile(filepath.Join(k.state, "calls"))
		if err != nil {
			k.t.Fatal(err)
		}
		if again && len(calls) > 0 {
			k.t.Errorf("after %s: the second cleanup wrote:\n%s", after, calls)
		}
	}
}
