package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/pflag"

	"switchyard/cmd/backends"
	"switchyard/proxier"
)

// cleanup takes what every backend left in the kernel out of it. It needs no API
// server and no configuration; running it again is no error.
func cleanup(args []string, out io.Writer) error {
	fs := pflag.NewFlagSet("cleanup", pflag.ContinueOnError)
	if err := parse(fs, args, out); err != nil {
		return err
	}
	var errs []error
	nothing := true
	// Before the guard that stands behind it goes.
	errs = append(errs, adoptLocalnet(context.Background()))
	removed, err := closeLocalhost(context.Background())
	for _, what := range removed {
		fmt.Fprintf(out, "put back %s\n", what)
		nothing = false
	}
	if err != nil {
		errs = append(errs, err)
	}
	// ipvs before iptables: its chains lead to some that both have.
	for _, d := range slices.Backward(backends.All()) {
		removed, err := d.Cleanup(context.Background())
		for _, what := range removed {
			fmt.Fprintf(out, "%s: removed from %s\n", d.Name, what)
			nothing = false
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", d.Name, err))
		}
	}
	// What upstream's modes have beside the names that ours have, too.
	removed, err = removeRules(context.Background(), proxier.Claim{}, nil)
	for _, what := range removed {
		fmt.Fprintf(out, "removed from %s\n", what)
		nothing = false
	}
	if err != nil {
		errs = append(errs, err)
	}
	if nothing && errors.Join(errs...) == nil {
		fmt.Fprintln(out, "nothing of ours was there")
	}
	return errors.Join(errs...)
}
