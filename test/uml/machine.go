package uml

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

//go:embed init.sh
var initScript string

const (
	// poll is how late the command's output and end are seen.
	poll = 10 * time.Millisecond
	// drain bounds the wait for the console's end after the kernel was killed.
	drain = 5 * time.Second
	// prefix begins the name of a machine's folder; the owner's pid follows.
	prefix = "switchyard-uml."
	// consoleLines are shown of a kernel that died.
	consoleLines = 60
)

// machine is one running kernel and the folder by which it is spoken with. What is
// in the folder is told in init.sh.
type machine struct {
	options Options
	kernel  kernel
	dir     string
	streams []stream
	console console
	cmd     *exec.Cmd
	done    chan struct{} // closed when the kernel has ended, err set
	err     error
}

// newMachine prepares the folder. What a machine left behind whose owner was
// killed is removed.
func newMachine(k kernel, o Options, command []string) (m *machine, err error) {
	if err := sweep(os.TempDir()); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d.", prefix, os.Getpid()))
	if err != nil {
		return nil, err
	}
	m = &machine{options: o, kernel: k, dir: dir, done: make(chan struct{})}
	if err := m.furnish(command); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

func (m *machine) furnish(command []string) error {
	if strings.ContainsAny(m.dir, " \t\n\"") {
		return fmt.Errorf("the path of the temporary folder %q has spaces: a kernel cannot be told of it", m.dir)
	}
	for _, dir := range []string{"memory", "uml", "kernel/lib/modules"} {
		if err := os.MkdirAll(m.path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink(m.kernel.modules(), m.path("kernel/lib/modules/"+m.kernel.version)); err != nil {
		return err
	}
	writable := ""
	for _, dir := range m.options.Writable {
		writable += dir + "\n"
	}
	for name, text := range map[string]string{
		"init.sh":  initScript,
		"modules":  strings.Join(m.options.Modules, " "),
		"writable": writable,
		"command":  script(m.options, command),
	} {
		if err := os.WriteFile(m.path(name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	return errors.Join(m.stream("stdout", m.options.Stdout), m.stream("stderr", m.options.Stderr))
}

// stream begins to pass on what is written to a file of the folder.
func (m *machine) stream(name string, to io.Writer) error {
	f, err := os.OpenFile(m.path(name), os.O_CREATE|os.O_RDONLY, 0o644)
	if err == nil {
		m.streams = append(m.streams, stream{from: f, to: to})
	}
	return err
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

var shellName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// script is what a shell does to run the command.
func script(o Options, command []string) string {
	var b strings.Builder
	for _, setting := range append(os.Environ(), o.Env...) {
		name, value, _ := strings.Cut(setting, "=")
		if shellName.MatchString(name) {
			fmt.Fprintf(&b, "export %s=%s\n", name, quote(value))
		}
	}
	b.WriteString("export PATH=\"$PATH:/usr/sbin:/sbin\"\n")
	fmt.Fprintf(&b, "cd %s || exit 127\nexec", quote(o.Dir))
	for _, word := range command {
		b.WriteString(" " + quote(word))
	}
	return b.String() + "\n"
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// run starts the kernel and sees it to the end of the command.
func (m *machine) run(ctx context.Context) error {
	m.cmd = m.command()
	m.cmd.Env = append(os.Environ(), "TMPDIR="+memoryDir(m.options.Memory))
	m.cmd.Stdout, m.cmd.Stderr = &m.console, &m.console
	m.cmd.WaitDelay = drain
	start := time.Now()
	started := make(chan error, 1)
	go m.supervise(started)
	if err := <-started; err != nil {
		return err
	}
	err := m.follow(ctx, start)
	return errors.Join(err, m.kill())
}

// command is how the kernel is started. Ctrl-C is for this program, which then ends
// the kernel; if it is killed, so is the kernel. Root gives it a pid namespace, whose
// processes all end with its first one. That is not the kernel itself: to end after a
// panic it sends itself a signal, and a first process is deaf to its own.
func (m *machine) command() *exec.Cmd {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	start := `ulimit -c 0; exec "$0" "$@"`
	if os.Geteuid() == 0 {
		attr.Cloneflags = syscall.CLONE_NEWPID
		start = `ulimit -c 0; "$0" "$@"; exit $?`
	}
	cmd := exec.Command("sh", "-c", start, m.kernel.program,
		"mem="+m.options.Memory, "uml_dir="+m.path("uml"),
		"root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", "init="+m.path("init.sh"),
		"con=null", "con0=null,fd:1", "quiet")
	cmd.SysProcAttr = attr
	return cmd
}

// memoryDir is where the kernel keeps its memory, in a file without a name: in
// memory of this machine, if it has room for all of it (in a container it is often
// 64 MB, and the kernel would die when that is used up).
func memoryDir(size string) string {
	const shm = "/dev/shm"
	unit := map[byte]uint64{'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30}[size[len(size)-1]]
	want, err := strconv.ParseUint(size[:len(size)-1], 10, 32)
	var fs syscall.Statfs_t
	if err == nil {
		err = syscall.Statfs(shm, &fs)
	}
	if err != nil || fs.Bavail*uint64(fs.Bsize) < want*unit {
		return os.TempDir()
	}
	return shm
}

// supervise holds the thread that started the kernel: Pdeathsig means the death of
// that thread.
func (m *machine) supervise(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := m.cmd.Start()
	started <- err
	if err == nil {
		m.err = m.cmd.Wait()
		close(m.done)
	}
}

// kill ends the kernel and all processes that are part of it.
func (m *machine) kill() error {
	err := syscall.Kill(-m.cmd.Process.Pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		err = nil
	}
	<-m.done
	return err
}

// follow passes on what the command prints until it has ended.
func (m *machine) follow(ctx context.Context, start time.Time) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	booted := false
	for {
		if up, ok := m.told("booted"); ok && !booted {
			booted = true
			m.options.Log("Linux %s (User Mode Linux, %s, %d modules loaded) is up after %.1f s, by its own clock %s s",
				m.kernel.version, m.options.Memory, len(m.options.Modules), time.Since(start).Seconds(), up)
		}
		status, ended := m.told("status")
		for _, s := range m.streams {
			if err := s.copy(); err != nil {
				return err
			}
		}
		if ended {
			return exit(status)
		}
		if what, ok := m.told("failed"); ok {
			return fmt.Errorf("boot: %s failed", what)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-m.done:
			return fmt.Errorf("the kernel ended before the command: %w", m.ending())
		case <-tick.C:
		}
	}
}

func (m *machine) ending() error {
	if m.err == nil {
		return errors.New("exit status 0")
	}
	return m.err
}

// told reads a file that init.sh writes once.
func (m *machine) told(name string) (string, bool) {
	text, err := os.ReadFile(m.path(name))
	return strings.TrimSpace(string(text)), err == nil && len(text) > 0
}

func exit(status string) error {
	n, err := strconv.Atoi(status)
	if err != nil {
		return fmt.Errorf("the command's exit status: %w", err)
	}
	if n != 0 {
		return &ExitError{Status: n}
	}
	return nil
}

func (m *machine) close() error {
	var errs []error
	for _, s := range m.streams {
		errs = append(errs, s.from.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(m.dir))...)
}

// sweep removes the folders of machines whose owner has died. A process number
// that was given out again keeps them until that process ends too.
func sweep(temp string) error {
	found, err := filepath.Glob(filepath.Join(temp, prefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range found {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), prefix), ".")
		if _, err := strconv.Atoi(pid); err != nil || exists("/proc/"+pid) {
			continue
		}
		if err := os.RemoveAll(dir); err != nil && !errors.Is(err, os.ErrPermission) { // another user's
			return fmt.Errorf("remove a leftover: %w", err)
		}
	}
	return nil
}

// stream passes on what is appended to a file.
type stream struct {
	from *os.File
	to   io.Writer
}

func (s stream) copy() error {
	_, err := io.Copy(s.to, s.from)
	return err
}

// console keeps the end of what the kernel says.
type console struct {
	mu   sync.Mutex
	text []byte
}

func (c *console) Write(b []byte) (int, error) {
	const enough = 64 << 10
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, b...)
	c.text = c.text[max(0, len(c.text)-enough):]
	return len(b), nil
}

// tail is the end of what was said, to be put behind an error.
func (c *console) tail() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(c.text), "\r", "")), "\n")
	lines = lines[max(0, len(lines)-consoleLines):]
	return "; the end of the kernel's console:\n  " + strings.Join(lines, "\n  ")
}
