package main

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/spf13/pflag"
	networkingv1 "k8s.io/api/networking/v1"

	"switchyard/cmd/backends"
	"switchyard/proxier"
	"switchyard/proxier/cluster"
	"switchyard/proxier/compile"
	"switchyard/proxier/config"
	"switchyard/proxier/manifest"
	"switchyard/proxier/node"
	"switchyard/test/netlab"
)

// states is what the node must do, for each family.
type states map[proxier.Family]*proxier.State

// common are the flags of the proxy, and of what is promised in its place.
func common(mode string) []string {
	return []string{"--proxy-mode", mode, "--hostname-override", netlab.NodeA, "--cluster-cidr", "10.180.0.0/16,fd00:10:180::/64"}
}

// promiser compiles as the proxy does, by other hands and always from scratch. It has
// files of its own, which say what the proxy is about to be told.
type promiser struct {
	copy    *files
	options config.Options
	cidr    *networkingv1.ServiceCIDR // nil: the source has none
}

func newPromiser(mode string, copy *files) (*promiser, error) {
	var flags config.Flags
	set := pflag.NewFlagSet("torture", pflag.ContinueOnError)
	flags.Bind(set)
	if err := set.Parse(append(common(mode), "--manifest", copy.dir)); err != nil {
		return nil, fmt.Errorf("read the proxy's flags: %w", err)
	}
	o, err := flags.Options(backends.Names())
	if err != nil {
		return nil, fmt.Errorf("read the proxy's flags: %w", err)
	}
	o.Backend.ConntrackLiberal = node.ConntrackLiberal()
	return &promiser{copy: copy, options: o}, nil
}

// promise reads the files as they are now.
func (p *promiser) promise(host *netlab.Host) (states, error) {
	store := cluster.NewStore(netlab.NodeA)
	if err := manifest.New(p.copy.dir, store).Load(); err != nil {
		return nil, fmt.Errorf("promise: %w", err)
	}
	if p.cidr != nil {
		store.SetServiceCIDR(p.cidr)
	}
	local, err := addresses(host)
	if err != nil {
		return nil, err
	}
	snap, all := store.Snapshot(), states{}
	for _, f := range families {
		all[f] = compile.New(f, p.options.Compile).Compile(snap, node.Describe(f, snap.Node, local, p.options.Node))
	}
	return all, nil
}

// addresses are those of a host's interfaces, but of the one that has those of
// Services.
func addresses(host *netlab.Host) (all []netip.Addr, err error) {
	err = host.Do(func() error {
		links, err := net.Interfaces()
		for _, link := range links {
			if link.Name == device {
				continue
			}
			found, err := link.Addrs()
			if err != nil {
				return err
			}
			for _, a := range found {
				if n, ok := a.(*net.IPNet); ok {
					addr, _ := netip.AddrFromSlice(n.IP)
					all = append(all, addr.Unmap())
				}
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read addresses of %s: %w", host.Name(), err)
	}
	return all, nil
}

// check reads the files, and tells of anything in them that is not good.
func (p *promiser) check() error {
	store := cluster.NewStore(netlab.NodeA)
	if err := manifest.New(p.copy.dir, store).Load(); err != nil {
		return err
	}
	for _, problem := range store.Problems() {
		return fmt.Errorf("%s", problem)
	}
	return nil
}
