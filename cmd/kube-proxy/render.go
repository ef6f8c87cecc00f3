package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"switchyard/cmd/backends"
	"switchyard/proxier"
	"switchyard/proxier/cluster"
	"switchyard/proxier/compile"
	"switchyard/proxier/config"
	"switchyard/proxier/manifest"
	"switchyard/proxier/node"
)

// render prints what run would program from a manifest. It reads files only, so
// it works on any machine and for any node.
func render(args []string, out io.Writer) error {
	fs := pflag.NewFlagSet("render", pflag.ContinueOnError)
	var flags config.Flags
	flags.BindRender(fs)
	as := fs.String("as", "state", `what to print: "state", or "ruleset" for the backend's own words`)
	families := fs.IntSlice("family", []int{4, 6}, "the IP families: 4, 6 or both")
	local := fs.StringSlice("node-addresses", nil,
		"the node's own addresses; default: those of its Node object")
	if err := parse(fs, args, out); err != nil {
		return err
	}
	o, err := flags.Options(backends.Names())
	if err != nil {
		return err
	}
	if o.Manifest == "" {
		return errors.New("render: --manifest: must name a file or a directory")
	}
	if *as != "state" && *as != "ruleset" {
		return fmt.Errorf("render: --as: %q: must be state or ruleset", *as)
	}
	store := cluster.NewStore(o.Node.Name)
	source := manifest.New(o.Manifest, store)
	loadErr := source.Load()
	r := renderer{options: o, snap: store.Snapshot(), out: out, ruleset: *as == "ruleset"}
	r.driver, _ = backends.ByName(o.Mode)
	if loadErr != nil && r.snap.Node == nil && r.snap.Services.Len() == 0 {
		return loadErr // nothing to show
	}
	errs := []error{loadErr}
	for _, f := range *families {
		if f != 4 && f != 6 {
			return fmt.Errorf("render: --family: %d: must be 4 or 6", f)
		}
		errs = append(errs, r.family(proxier.Family(f), *local))
	}
	return errors.Join(errs...)
}

type renderer struct {
	options config.Options
	driver  proxier.Driver
	snap    cluster.Snapshot
	out     io.Writer
	ruleset bool
}

func (r *renderer) family(f proxier.Family, local []string) error {
	addrs, err := parseAddrs(local)
	if err != nil {
		return err
	}
	if len(addrs) == 0 && r.snap.Node != nil {
		addrs = r.snap.Node.Addresses
	}
	state := compile.New(f, r.options.Compile).
		Compile(r.snap, node.Describe(f, r.snap.Node, addrs, nodeOptions(r.options, r.driver)))
	if !r.ruleset {
		_, err := io.WriteString(r.out, state.String()+"\n")
		return err
	}
	text, err := r.driver.Render(state, r.options.Backend)
	fmt.Fprintf(r.out, "# %s, %s\n%s\n", f, r.driver.Name, text)
	return err
}
