package main

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
	"switchyard/proxier/compile"
	"switchyard/proxier/manifest"
	"switchyard/proxier/node"
	"switchyard/test/netlab"
)

// clusterCIDRs are all pods' addresses, as the proxy is told by --cluster-cidr.
var clusterCIDRs = []string{"10.180.0.0/16", "fd00:10:180::/64"}

// promise compiles the manifest directory as the proxy on the host does: a State
// for each family.
func promise(dir string, host *netlab.Host) ([]*proxier.State, error) {
	store := cluster.NewStore(host.Name())
	if err := manifest.New(dir, store).Load(); err != nil {
		return nil, err
	}
	for _, p := range store.Problems() {
		return nil, fmt.Errorf("the examples are wrong: %s", p)
	}
	local, err := addresses(host)
	if err != nil {
		return nil, err
	}
	o := node.Options{Name: host.Name(), LocalhostNodePorts: true}
	for _, c := range clusterCIDRs {
		o.Detect.ClusterCIDRs = append(o.Detect.ClusterCIDRs, netip.MustParsePrefix(c))
	}
	snap := store.Snapshot()
	if snap.Node == nil {
		return nil, fmt.Errorf("%s has no Node %s", dir, host.Name())
	}
	var states []*proxier.State
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		n := node.Describe(family, snap.Node, local, o)
		states = append(states, compile.New(family, compile.Options{}).Compile(snap, n))
	}
	return states, nil
}

// relayed is what States promise where a relay on the node makes the connections:
// every endpoint sees the node.
func relayed(states []*proxier.State) []*proxier.State {
	for _, st := range states {
		for i, svc := range st.Services {
			seen := *svc
			seen.Frontends = slices.Clone(svc.Frontends)
			for j := range seen.Frontends {
				routes := slices.Clone(seen.Frontends[j].Routes)
				for k := range routes {
					routes[k].Masq = routes[k].To == proxier.ToCluster || routes[k].To == proxier.ToLocal
				}
				seen.Frontends[j].Routes = routes
			}
			st.Services[i] = &seen
		}
	}
	return states
}

func addresses(host *netlab.Host) ([]netip.Addr, error) {
	var all []netip.Addr
	err := host.Do(func() error {
		found, err := net.InterfaceAddrs()
		for _, a := range found {
			text, _, _ := strings.Cut(a.String(), "/")
			addr, err := netip.ParseAddr(text)
			if err != nil {
				return err
			}
			all = append(all, addr)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", host.Name(), err)
	}
	return all, nil
}
