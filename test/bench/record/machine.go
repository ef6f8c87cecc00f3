package record

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine is what a run ran on and with.
type Machine struct {
	CPU    string            `json:"cpu"`
	Cores  int               `json:"cores"`
	Memory int64             `json:"memory"` // bytes
	Kernel string            `json:"kernel"`
	Load   string            `json:"load"` // of one, five and fifteen minutes, at the start
	Commit string            `json:"commit"`
	Tools  map[string]string `json:"tools"` // versions, by program
}

// LookAround describes this machine. programs are those whose version is of
// interest beside the tools of the kernel; each is asked with --version.
func LookAround(ctx context.Context, programs ...string) Machine {
	m := Machine{Cores: runtime.NumCPU(), CPU: runtime.GOARCH, Commit: commit(), Tools: map[string]string{"go": runtime.Version()}}
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.CPU = strings.TrimSpace(value)
		}
	}
	text, _ = os.ReadFile("/proc/loadavg")
	if fields := strings.Fields(string(text)); len(fields) > 2 {
		m.Load = strings.Join(fields[:3], " ")
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	var sys unix.Sysinfo_t
	if unix.Sysinfo(&sys) == nil {
		m.Memory = int64(sys.Totalram) * int64(sys.Unit)
	}
	for _, p := range append([]string{"iptables", "iptables-legacy", "nft", "ipset", "ipvsadm"}, programs...) {
		if version := versionOf(ctx, p); version != "" {
			m.Tools[filepath.Base(p)] = version
		}
	}
	return m
}

func versionOf(ctx context.Context, program string) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

// commit is what the benchmark was built from.
func commit() string {
	built, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	commit, dirty := "unknown", ""
	for _, s := range built.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	return commit + dirty
}
