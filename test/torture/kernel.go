package main

import (
	"context"
	"fmt"

	"switchyard/proxier"
	"switchyard/test/netlab"
)

// kernel is what a mode puts into the kernel: how it is read, made from nothing, and
// broken. A new mode is one more of these, and a line in newKernel.
type kernel interface {
	// programs are those that the proxy runs, to be wrapped.
	programs() []string
	// dump is all that a host holds, in a form in which equal means equal: what is
	// the proxy's, and what is others'.
	dump(*netlab.Host) (ours, others []string, err error)
	// fresh programs a host that holds nothing, by the mode's own backend.
	fresh(context.Context, *netlab.Host, states, proxier.Settings) error
	// damages are what somebody else could do, for the step "damage". Each takes any
	// number for which one of several.
	damages() map[string]damage
	// strangers are commands that add a thing of somebody else's and take it out again,
	// by a number.
	strangers(n int) (add, remove [][]string)
	// traits is what cannot be expected of the mode.
	traits() traits
}

// damage breaks something on a host.
type damage struct {
	do func(host *netlab.Host, n int) error
	// flows: connections lose their translation.
	flows bool
	// harmless: nothing of the proxy's is touched.
	harmless bool
}

// traits are promises that a mode cannot make.
type traits struct {
	// restartEnds: a stream does not survive the proxy's process.
	restartEnds bool
}

func newKernel(mode, flavour string) (kernel, error) {
	switch mode {
	case "iptables":
		return newXtables(flavour)
	}
	return nil, fmt.Errorf("mode %q cannot be tortured yet", mode)
}
