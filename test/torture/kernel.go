package main

import (
	"context"
	"fmt"
	"slices"

	"switchyard/proxier"
	"switchyard/test/netlab"
	"switchyard/test/uml"
)

// kernel is what a mode puts into the kernel: how it is read, made from nothing, and
// broken. A new mode is one more of these, and a line in newKernel.
type kernel interface {
	// programs are those that the proxy runs, to be wrapped.
	programs() []string
	// dump is all that a host holds, in a form in which equal means equal: what is
	// the proxy's, and what is others'.
	dump(*netlab.Host) (ours, others []string, err error)
	// settled is a dump of ours without what only established connections need, so
	// that it can be compared with that of a host that never had any.
	settled(ours, want []string) []string
	// fresh programs a host that holds nothing, by the mode's own backend.
	fresh(context.Context, *netlab.Host, states, proxier.Settings) error
	// damages are what somebody else could do, for the step "damage". Each takes any
	// number for which one of several.
	damages() map[string]damage
	// curses are texts of what is written when a slot's endpoints come or go, for the
	// kernel to refuse; name is that of the slot's Service. None: writes are messages.
	curses(slot int, name string) []string
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

// traits are how a mode differs from the others.
type traits struct {
	// relayed: connections go through the proxy's process, and end with it; while it is
	// down, nobody answers. Endpoints see the node in place of the client.
	relayed bool
	// netlink: most writes are messages of the process itself, and no program's.
	netlink bool
	// hidesNode: endpoints may see any of the node's addresses in place of the one that
	// the node chose.
	hidesNode bool
}

// modes are those that can be tortured.
var modes = []string{"iptables", "ipvs", "userspace"}

func newKernel(mode, flavour string) (kernel, error) {
	if uml.Inside() {
		flavour = "legacy" // it has no other
	}
	x, err := newXtables(flavour)
	if err != nil {
		return nil, err
	}
	switch mode {
	case "iptables":
		return x, nil
	case "ipvs":
		return &virtual{x}, nil
	case "userspace":
		return &relayed{x}, nil
	}
	return nil, fmt.Errorf("mode %q: want one of %s", mode, modes)
}

// same reports whether a host holds what it should.
func same(k kernel, ours, want []string) bool { return slices.Equal(k.settled(ours, want), want) }
