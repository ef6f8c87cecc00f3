package ipvs

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
	"switchyard/proxier/compile"
	thenode "switchyard/proxier/node"
	"switchyard/proxier/proxiertest"
)

// evolution is a cluster that changes: each step takes some Services from another
// random cluster, and sometimes other flags.
type evolution struct {
	rng      *rand.Rand
	family   proxier.Family
	store    *cluster.Store
	compiler *compile.Compiler
	flags    proxiertest.Flags
}

func evolve(seed uint64, family proxier.Family) *evolution {
	e := &evolution{rng: rand.New(rand.NewPCG(seed, 0xe)), family: family, store: cluster.NewStore(proxiertest.NodeName)}
	e.flags = proxiertest.RandomFlags(e.rng)
	e.compiler = compile.New(family, compile.Options{MasqueradeAll: e.flags.MasqueradeAll})
	return e
}

// next is the State after one step.
func (e *evolution) next() *proxier.State {
	objects := proxiertest.Random(e.rng.Uint64())
	for _, n := range objects.Nodes {
		e.store.SetNode(n)
	}
	share := e.rng.IntN(101)
	for _, s := range objects.Services {
		switch n := e.rng.IntN(100); {
		case n >= share:
			continue
		case n%10 == 0:
			e.store.DeleteService(cluster.Name{Namespace: s.Namespace, Name: s.Name})
			continue
		}
		e.store.SetService(s)
		for _, slice := range objects.Slices {
			if slice.Namespace == s.Namespace && slice.Labels["kubernetes.io/service-name"] == s.Name {
				e.store.SetSlice(slice)
			}
		}
	}
	if e.rng.IntN(4) == 0 {
		e.flags = proxiertest.RandomFlags(e.rng)
	}
	snap := e.store.Snapshot()
	selection, err := thenode.ParseSelection(e.flags.NodePortAddresses)
	if err != nil {
		panic(err)
	}
	var local []netip.Addr
	for _, f := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		lab := proxiertest.LabOf(f)
		local = append(local, append(lab.Local(), lab.Loopback)...)
	}
	n := thenode.Describe(e.family, snap.Node, local, thenode.Options{
		Name: proxiertest.NodeName, NodePorts: selection, LocalhostNodePorts: e.flags.LocalhostNodePorts,
		Detect: thenode.Detect{
			Mode: thenode.Mode(e.flags.DetectLocalMode), ClusterCIDRs: e.flags.ClusterCIDRs,
			Bridge: e.flags.PodBridgeInterface, Prefix: e.flags.PodInterfaceNamePrefix,
		},
	})
	return e.compiler.Compile(snap, n)
}

// States by hand: the node is 192.168.0.2, pods are 10.180.0.0/16.

func addr(s string) netip.Addr         { return netip.MustParseAddr(s) }
func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func theNode() proxier.Node {
	return proxier.Node{
		Name: "node-a", PodRanges: []netip.Prefix{netip.MustParsePrefix("10.180.0.0/16")},
		Local: []netip.Addr{addr("192.168.0.2")}, NodePorts: proxier.NodePorts{Any: true},
	}
}

func stateOf(services ...*proxier.Service) *proxier.State {
	slices.SortFunc(services, (*proxier.Service).Compare)
	return &proxier.State{Family: proxier.IPv4, Node: theNode(), Services: services}
}

// clusterIP is a service with one ClusterIP.
func clusterIP(name, at string, protocol proxier.Protocol, endpoints ...string) *proxier.Service {
	s := &proxier.Service{Name: proxier.ServicePort{Namespace: "default", Service: name}, Protocol: protocol}
	for _, ep := range endpoints {
		s.Cluster = append(s.Cluster, proxier.Endpoint{Addr: addrPort(ep)})
	}
	routes := []proxier.Route{
		{From: proxier.FromNotPods, To: proxier.ToCluster, Masq: true},
		{From: proxier.FromAnyone, To: proxier.ToCluster}}
	if len(endpoints) == 0 {
		routes = []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToReject}}
	}
	s.Frontends = []proxier.Frontend{{Kind: proxier.ClusterIP, Addr: addrPort(at), Routes: routes}}
	return s
}

// balanced adds a load balancer's address with policy Local, and no endpoint here.
func balanced(s *proxier.Service, at string) *proxier.Service {
	s.Frontends = append(s.Frontends, proxier.Frontend{
		Kind: proxier.LoadBalancer, Addr: addrPort(at),
		Routes: []proxier.Route{
			{From: proxier.FromPods, To: proxier.ToCluster},
			{From: proxier.FromNode, To: proxier.ToCluster, Masq: true},
			{From: proxier.FromAnyone, To: proxier.ToDrop}},
	})
	return s
}

// many are n services with two endpoints each.
func many(n int) []*proxier.Service {
	var out []*proxier.Service
	for i := range n {
		ip := netip.AddrFrom4([4]byte{172, 30, byte(i >> 8), byte(i)})
		out = append(out, balanced(clusterIP(fmt.Sprintf("s%05d", i), ip.String()+":80", proxier.TCP,
			fmt.Sprintf("10.%d.%d.2:8080", 180+i/256, i%256), fmt.Sprintf("10.%d.%d.3:8080", 180+i/256, i%256)), fmt.Sprintf("198.51.%d.%d:80", i>>8, i%256)))
	}
	return out
}

func apply(t *testing.T, b *Backend, want *proxier.State) proxier.Report {
	t.Helper()
	r, err := b.Apply(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
