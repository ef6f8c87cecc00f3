package uml

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// modulesDir is where Debian's package has the modules, by the kernel's version.
const modulesDir = "/usr/lib/uml/modules"

// Missing says what this machine lacks for Run, and how to get it: nil if nothing.
func Missing() error {
	_, err := find()
	return err
}

// kernel is an installed User Mode Linux.
type kernel struct {
	program string
	version string // "6.1.176"
}

func find() (kernel, error) {
	var missing []string
	for _, needed := range []struct{ program, of string }{
		{"linux.uml", "user-mode-linux"}, {"modprobe", "kmod"}, {"ip", "iproute2"},
		{"mount", "mount"}, {"pivot_root", "util-linux"},
	} {
		if path(needed.program) == "" {
			missing = append(missing, needed.of)
		}
	}
	if len(missing) > 0 {
		return kernel{}, fmt.Errorf("no User Mode Linux: install the Debian packages %s", strings.Join(missing, ", "))
	}
	k := kernel{program: path("linux.uml")}
	out, err := exec.Command(k.program, "--version").Output()
	if err != nil {
		return kernel{}, fmt.Errorf("ask %s for its version: %w", k.program, err)
	}
	k.version = strings.TrimSpace(string(out))
	if _, err := os.Stat(k.modules()); err != nil {
		return kernel{}, fmt.Errorf("no modules for %s: %w", k.program, err)
	}
	return k, nil
}

func (k kernel) modules() string { return filepath.Join(modulesDir, k.version) }

// path finds a program, also where only root's PATH leads; "" if there is none.
func path(program string) string {
	if p, err := exec.LookPath(program); err == nil {
		return p
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if p := filepath.Join(dir, program); exists(p) {
			return p
		}
	}
	return ""
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return !errors.Is(err, os.ErrNotExist)
}
