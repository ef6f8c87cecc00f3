package uml

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
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// play is the environment variable that makes the test binary run one of plays
// instead of its tests: they are programs for tests to look at.
const play = "SWITCHYARD_UML_PLAY"

func TestMain(m *testing.M) {
	name := os.Getenv(play)
	if name == "" {
		os.Exit(m.Run())
	}
	testing.Main(regexp.MatchString, []testing.InternalTest{{Name: "TestPlay", F: plays()[name]}}, nil, nil)
}

func plays() map[string]func(*testing.T) {
	return map[string]func(*testing.T){"verdicts": playVerdicts, "panic": playPanic, "sleep": playSleep}
}

// perform runs a play and returns what it printed and how it ended.
func perform(t *testing.T, name string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), play+"="+name)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func need(t *testing.T) {
	t.Helper()
	if err := Missing(); err != nil {
		t.Skip("needs another kernel: ", err)
	}
}

// options are those of most tests here: a small kernel without modules.
func options(t *testing.T) Options {
	return Options{Modules: []string{"dummy"}, Memory: "512M", Timeout: time.Minute, Log: t.Logf}
}

// TestRun: a command inside has its words, folder, environment, output and status,
// and changes nothing of this machine but what it is allowed to.
func TestRun(t *testing.T) {
	need(t)
	t.Parallel()
	var stdout, stderr bytes.Buffer
	mine, theirs := t.TempDir(), t.TempDir()
	o := options(t)
	o.Stdout, o.Stderr = &stdout, &stderr
	o.Dir, o.Env, o.Writable = theirs, []string{"WORD=it's one"}, []string{mine}
	const script = `echo "$WORD, $1"; pwd; id -u; hostname; echo bad >&2
		echo x >"$2/written"; echo x >written; echo x >/etc/switchyard-uml || exit 9
		ls "$2/written" written /etc/switchyard-uml; ls /run; exit 3`
	err := Run(t.Context(), o, "sh", "-c", script, "sh", "a  b", mine)
	if e := (*ExitError)(nil); !errors.As(err, &e) || e.Status != 3 {
		t.Errorf("ended with %v, want exit status 3", err)
	}
	want := fmt.Sprintf("it's one, a  b\n%s\n0\numl\n/etc/switchyard-uml\n%s/written\nwritten\n", theirs, mine)
	if stdout.String() != want || stderr.String() != "bad\n" {
		t.Errorf("printed %q and %q, want %q and %q", stdout.String(), stderr.String(), want, "bad\n")
	}
	for file, stays := range map[string]bool{
		filepath.Join(mine, "written"): true, filepath.Join(theirs, "written"): false, "/etc/switchyard-uml": false,
	} {
		if exists(file) != stays {
			t.Errorf("%s is on this machine: %v, want %v", file, !stays, stays)
		}
	}
}

// TestRunStreams: what a command prints comes at once.
func TestRunStreams(t *testing.T) {
	need(t)
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	o := options(t)
	o.Stdout = w
	ended := make(chan error, 1)
	go func() {
		err := Run(ctx, o, "sh", "-c", "echo hello; sleep 1000")
		w.CloseWithError(err)
		ended <- err
	}()
	line := make([]byte, 6)
	if _, err := io.ReadFull(r, line); err != nil || string(line) != "hello\n" {
		t.Errorf("read %q, %v", line, err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled, it ended with %v", err)
	}
}

// TestRunFails: an end that is not the command's says why, with the kernel's words.
func TestRunFails(t *testing.T) {
	need(t)
	tests := []struct {
		name    string
		change  func(*Options)
		command string
		want    []string
	}{
		{"time limit", func(o *Options) { o.Timeout = 6 * time.Second }, "sleep 1000", []string{"not done after 6s"}},
		{"panic", func(*Options) {}, "echo c >/proc/sysrq-trigger", []string{"the kernel ended before the command", "Kernel panic"}},
		{"module", func(o *Options) { o.Modules = []string{"ip_vs_best"} }, "true",
			[]string{"boot: modprobe -a ip_vs_best failed", "ip_vs_best not found"}},
		{"memory", func(o *Options) { o.Memory = "much" }, "true", []string{`memory "much" is not a number`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := options(t)
			tt.change(&o)
			err := Run(t.Context(), o, "sh", "-c", tt.command)
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in the error: %v", want, err)
				}
			}
		})
	}
}

// TestKilled: whoever is killed leaves no process, and its folder until the next one
// comes.
func TestKilled(t *testing.T) {
	need(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root: others have no pid namespace, and two idle processes remain")
	}
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.v")
	cmd.Env = append(os.Environ(), play+"=sleep")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 0, 1<<10)
	for !bytes.Contains(text, []byte("inside")) {
		n, err := out.Read(text[len(text):cap(text)])
		text = text[:len(text)+n]
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	left := machines(t, cmd.Process.Pid)
	if len(left) != 1 || len(processes(t, left[0])) < 4 {
		t.Fatalf("found the machines %v, and not its processes", left)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	deadline := time.Now().Add(5 * time.Second)
	for len(processes(t, left[0])) > 0 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	if p := processes(t, left[0]); len(p) > 0 {
		t.Errorf("processes that are left: %v", p)
	}
	if err := sweep(os.TempDir()); err != nil || exists(left[0]) {
		t.Errorf("the folder %s is left (%v)", left[0], err)
	}
}

func playSleep(t *testing.T) {
	err := Run(t.Context(), Options{Modules: []string{"dummy"}, Memory: "512M", Stdout: os.Stdout}, "sh", "-c", "echo inside; sleep 1000")
	t.Error(err)
}

// machines lists the folders of a process's machines.
func machines(t *testing.T, pid int) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+strconv.Itoa(pid)+".*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// processes lists the processes whose command line names a machine's folder.
func processes(t *testing.T, folder string) (pids []string) {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range found {
		line, err := os.ReadFile(name) // no error, but nothing, of a process that ends
		if err == nil && bytes.Contains(line, []byte(folder+"/")) {
			pids = append(pids, filepath.Base(filepath.Dir(name)))
		}
	}
	return pids
}

// TestRunAsNobody: it takes no root to boot a kernel in which one is root.
func TestRunAsNobody(t *testing.T) {
	need(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root to become somebody else; all other tests show it already")
	}
	t.Parallel()
	temp, err := os.MkdirTemp("", "switchyard-nobody.")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(temp)
	binary := filepath.Join(temp, "uml.test")
	text, err := os.ReadFile(os.Args[0])
	err = errors.Join(err, os.WriteFile(binary, text, 0o755), os.Chmod(temp, 0o777))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "-test.run=^TestRunStreams$", "-test.v")
	cmd.Dir, cmd.Env = temp, []string{"TMPDIR=" + temp, "PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestRunStreams")) {
		t.Errorf("%v: %s", err, out)
	}
	if p := processes(t, temp); len(p) > 0 {
		t.Errorf("processes that are left: %v", p)
	}
}
