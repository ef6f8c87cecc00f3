package ipvs

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sysctls are the kernel's settings of the network namespace of the calling thread.
type sysctls struct{}

const sysctlRoot = "/proc/sys"

func (sysctls) read(name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(sysctlRoot, name))
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", name, err)
	}
	return strings.TrimSpace(string(text)), nil
}

func (sysctls) write(name, value string) error {
	if err := os.WriteFile(filepath.Join(sysctlRoot, name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("write sysctl %s: %w", name, err)
	}
	return nil
}

// version is the kernel's, as in "6.1.0-13-amd64".
func (sysctls) version() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("ask for the kernel's version: %w", err)
	}
	return unix.ByteSliceToString(name.Release[:]), nil
}

// loadWithin bounds how long loading modules may take.
const loadWithin = 10 * time.Second

// load loads modules. Where there are none to load, they may be part of the kernel:
// what needs them will tell, so the error matters only beside another.
func load(ctx context.Context, modules ...string) error {
	path, err := exec.LookPath("modprobe")
	if err != nil {
		return fmt.Errorf("load modules: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, loadWithin)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, append([]string{"-a"}, modules...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("load modules: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// matches are the modules that rules need and that no program loads by itself.
var matches = []string{"xt_set", "xt_NETMAP"}

// hasDevice reports whether a network device exists.
func hasDevice(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
}

// hasIPVS reports whether the kernel has IPVS, without having it loaded. Not /proc/net,
// which is the namespace of the process's first thread.
func hasIPVS() bool {
	_, err := os.Stat("/proc/thread-self/net/ip_vs")
	return err == nil
}
