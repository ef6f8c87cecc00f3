// Command kube-proxy makes the Services of a Kubernetes cluster work on one
// node. Without a verb it runs, so the command lines of upstream's kube-proxy
// work; the other verbs look at what it would do, or undo what it did.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"switchyard/userspace/keeper"
)

// verb is one way to use the program.
type verb struct {
	name, short string
	run         func(args []string, out io.Writer) error
}

func verbs() []verb {
	return []verb{
		{"run", "program the node's kernel until a signal comes (the default)", run},
		{"render", "print what run would program, and touch nothing", render},
		{"cleanup", "take everything of ours out of the kernel", cleanup},
		{"version", "print the version and the backends", printVersion},
	}
}

func main() {
	err := dispatch(os.Args[1:], os.Stdout)
	switch {
	case err == nil, errors.Is(err, pflag.ErrHelp):
	default:
		fmt.Fprintln(os.Stderr, "kube-proxy:", err)
		os.Exit(1)
	}
}

// dispatch calls the verb that the first argument names; flags without one are
// run's, where --cleanup and --version stand for those verbs as upstream.
func dispatch(args []string, out io.Writer) error {
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		for _, v := range verbs() {
			if v.name == args[0] {
				return v.run(args[1:], out)
			}
		}
		if args[0] == keeper.Verb { // the proxy starts itself so; people do not
			return keeper.Main()
		}
		if args[0] == "help" {
			return usage(out)
		}
		return fmt.Errorf("%q is no verb; there are run, render, cleanup and version, and `kube-proxy help`", args[0])
	}
	if len(args) == 1 && (args[0] == "-h" || args[0] == "--help") {
		return usage(out)
	}
	return run(args, out)
}

func usage(out io.Writer) error {
	fmt.Fprint(out, "kube-proxy makes the Services of a Kubernetes cluster work on one node.\n\n"+
		"  kube-proxy [verb] [flags]\n\n")
	for _, v := range verbs() {
		fmt.Fprintf(out, "  %-9s %s\n", v.name, v.short)
	}
	_, err := fmt.Fprint(out, "\n`kube-proxy <verb> --help` lists the flags of a verb.\n")
	return err
}

// parse reads a verb's flags. What is left over is an error: no verb takes
// arguments.
func parse(fs *pflag.FlagSet, args []string, out io.Writer) error {
	fs.SetOutput(out)
	fs.SortFlags = true
	fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
	})
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%s: unexpected argument %q: everything is given by flags", fs.Name(), fs.Arg(0))
	}
	return nil
}
