package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"switchyard/test/uml"
)

// needsKernel reports whether the mode needs another kernel than this one.
func needsKernel(mode string) bool {
	if mode != "ipvs" || uml.Inside() {
		return false
	}
	_, err := os.Stat("/proc/net/ip_vs")
	return err != nil && exec.Command("modprobe", "-q", "ip_vs").Run() != nil
}

// runElsewhere runs this very program in a kernel that has IPVS. What it writes down
// of a failing script is written here.
func runElsewhere(ctx context.Context, o options, args []string) error {
	fmt.Println("The kernel of this machine has no IPVS: all of it runs in one that has, User Mode Linux.")
	program, err := os.Executable()
	if err != nil {
		return err
	}
	folder, err := filepath.Abs(filepath.Dir(o.keep))
	if err != nil {
		return err
	}
	err = uml.Run(ctx, uml.Options{
		Timeout:  10*o.duration + 2*o.shrink + 10*o.soak + 20*time.Minute,
		Writable: []string{folder}, Stdout: os.Stdout, Stderr: os.Stderr,
		Log: func(format string, args ...any) { fmt.Printf(format+"\n", args...) },
	}, program, append(args, fmt.Sprintf("-seed=%d", o.seed))...)
	if exit := (*uml.ExitError)(nil); errors.As(err, &exit) && exit.Status == exitBroken {
		return errBroken
	}
	return err
}
