package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"switchyard/test/netlab"
	"switchyard/test/uml"
)

// insideTimeout bounds a demo in the other kernel; it takes about a minute.
const insideTimeout = 15 * time.Minute

// needsKernel reports whether the mode needs another kernel than this one.
func needsKernel(mode string) bool {
	return mode == "ipvs" && !uml.Inside() && !hasIPVS()
}

// hasIPVS looks for IPVS in the kernel, and has it loaded if it is a module.
func hasIPVS() bool {
	_, err := os.Stat("/proc/net/ip_vs")
	return err == nil || exec.Command("modprobe", "-q", "ip_vs").Run() == nil
}

// runInside runs this very program in a kernel that has IPVS. Its temporary folder is
// this machine's, so that the log of a proxy that failed can be read here.
func runInside(ctx context.Context, o options, out *printer, args []string) error {
	fmt.Fprintln(out.w, "The kernel of this machine has no IPVS (ip_vs cannot be loaded): the demo runs in one that has, User Mode Linux.")
	if o.keep {
		fmt.Fprintln(out.w, "Nothing is left up (KEEP): that kernel ends with the demo.")
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	temp, err := os.MkdirTemp("", "switchyard-demo-")
	if err != nil {
		return err
	}
	env := []string{"TMPDIR=" + temp}
	if out.colour {
		env = append(env, "CLICOLOR_FORCE=1")
	}
	start := time.Now()
	err = uml.Run(ctx, uml.Options{
		Timeout: insideTimeout, Env: env, Writable: []string{temp}, Stdout: os.Stdout, Stderr: os.Stderr,
		Log: func(format string, args ...any) { out.step(start, fmt.Sprintf(format, args...)) },
	}, program, args...)
	if left, _ := filepath.Glob(temp + "/*.log"); len(left) == 0 {
		err = errors.Join(err, os.RemoveAll(temp))
	}
	if exit := (*uml.ExitError)(nil); errors.As(err, &exit) && exit.Status == exitBroken {
		return errBroken // the table has told
	}
	return err
}

// servers shows what IPVS has on node-a, as people look at it.
func (s *stage) servers(ctx context.Context) error {
	const command = "ipvsadm -Ln"
	words := strings.Fields(command)
	text, err := s.cluster.Host(netlab.NodeA).Output(ctx, words[0], words[1:]...)
	if err == nil {
		fmt.Fprintf(s.out.w, "\n%s on node-a:\n%s", command, text)
	}
	return err
}
