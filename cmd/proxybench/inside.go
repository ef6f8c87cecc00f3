package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/test/bench/contest"
	"switchyard/test/bench/record"
	"switchyard/test/uml"
)

// insideTimeout bounds a run in the other kernel, where system calls take some 60
// times as long.
const insideTimeout = 6 * time.Hour

// needsKernel reports whether a contestant needs IPVS and this kernel has none.
func needsKernel(o options) bool {
	wants := slices.ContainsFunc(o.contestants, func(c contest.Contestant) bool { return c.Mode == "ipvs" })
	return wants && !uml.Inside() && !hasIPVS()
}

// hasIPVS looks for IPVS in the kernel, and has it loaded if it is a module.
func hasIPVS() bool {
	_, err := os.Stat("/proc/net/ip_vs")
	return err == nil || exec.Command("modprobe", "-q", "ip_vs").Run() == nil
}

// runInside makes a run in User Mode Linux by this very program.
func runInside(ctx context.Context, o options) (*record.Run, error) {
	fmt.Fprintln(os.Stderr, "This kernel has no IPVS: all contestants run in User Mode Linux. Compare ratios only.")
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	temp, err := os.MkdirTemp("", "proxybench-uml-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	// The last --out counts. TMPDIR is not this machine's: what only the run needs
	// stays in the memory of its kernel.
	args := append(slices.Clone(o.arguments), "--out="+temp, "--no-tables")
	failed := uml.Run(ctx, uml.Options{
		Timeout: insideTimeout, Writable: []string{temp}, Stdout: os.Stdout, Stderr: os.Stderr,
		Memory: o.umlMemory,
		Log:    func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	}, program, args...)
	run, err := readRun(filepath.Join(temp, "results.json"))
	if err != nil {
		return nil, errors.Join(failed, err)
	}
	run.Arguments = o.arguments
	run.Machine.Kernel += " (User Mode Linux)"
	return run, failed
}

func readRun(path string) (*record.Run, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return record.ReadJSON(f)
}

// settleInside prepares User Mode Linux: cgroups, which nobody has mounted there, and
// the legacy tables, which are the only ones.
func settleInside(o *options) error {
	for i := range o.contestants {
		c := &o.contestants[i]
		switch {
		case c.Kind == contest.Direct || c.Kind == contest.Floor && c.Mode == "ipvs" || c.Tables == contest.Legacy:
		case c.Mode == "iptables" || c.Mode == "nftables":
			return fmt.Errorf("contestant %s: User Mode Linux has no nft tables: give it tables=legacy, or leave IPVS to a run of its own", c.Name)
		default:
			c.Tables = contest.Legacy
		}
	}
	if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mount cgroups: %w", err)
	}
	_ = os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory"), 0) // a kernel without it tells no more than processes do
	return nil
}
