package iptables

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
	"switchyard/proxier/compile"
	thenode "switchyard/proxier/node"
	"switchyard/proxier/proxiertest"
)

// evolution is a cluster that changes: each step takes some Services from another
// random cluster, and sometimes the flags' part of the node.
type evolution struct {
	rng      *rand.Rand
	family   proxier.Family
	store    *cluster.Store
	compiler *compile.Compiler
	flags    proxiertest.Flags
	steady   bool // the node stays as it is
}

func evolve(seed uint64, family proxier.Family) *evolution {
	e := &evolution{
		rng:    rand.New(rand.NewPCG(seed, 0xe)),
		family: family,
		store:  cluster.NewStore(proxiertest.NodeName),
	}
	e.flags = proxiertest.RandomFlags(e.rng)
	e.compiler = compile.New(family, compile.Options{MasqueradeAll: e.flags.MasqueradeAll})
	return e
}

const serviceNameLabel = "kubernetes.io/service-name"

// next is the State after one step.
func (e *evolution) next() *proxier.State {
	objects := proxiertest.Random(e.rng.Uint64())
	for _, n := range objects.Nodes {
		e.store.SetNode(n)
	}
	share := e.rng.IntN(101)
	for _, s := range objects.Services {
		name := cluster.Name{Namespace: s.Namespace, Name: s.Name}
		switch n := e.rng.IntN(100); {
		case n >= share:
			continue
		case n%10 == 0:
			e.store.DeleteService(name)
			continue
		}
		e.store.SetService(s)
		for _, slice := range objects.Slices {
			if slice.Namespace == s.Namespace && slice.Labels[serviceNameLabel] == s.Name {
				e.store.SetSlice(slice)
			}
		}
	}
	if !e.steady && e.rng.IntN(4) == 0 {
		e.flags = proxiertest.RandomFlags(e.rng)
	}
	return e.state()
}

func (e *evolution) state() *proxier.State {
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
	return e.compiler.Compile(snap, thenode.Describe(e.family, snap.Node, local, thenode.Options{
		Name: proxiertest.NodeName,
		Detect: thenode.Detect{Mode: thenode.Mode(e.flags.DetectLocalMode), ClusterCIDRs: e.flags.ClusterCIDRs,
			Bridge: e.flags.PodBridgeInterface, Prefix: e.flags.PodInterfaceNamePrefix},
		NodePorts: selection, LocalhostNodePorts: e.flags.LocalhostNodePorts,
	}))
}

// probes are packets to every frontend of the States, from every sort of source.
func probes(states ...*proxier.State) []proxier.Packet {
	seen := map[proxier.Packet]bool{}
	var out []proxier.Packet
	for _, s := range states {
		for _, svc := range s.Services {
			for _, dst := range destinations(s, svc) {
				out = append(out, from(s.Family, svc.Protocol, dst)...)
			}
		}
	}
	return slices.DeleteFunc(out, func(p proxier.Packet) bool {
		again := seen[p]
		seen[p] = true
		return again
	})
}

func destinations(s *proxier.State, svc *proxier.Service) []netip.AddrPort {
	var out []netip.AddrPort
	for _, f := range svc.Frontends {
		if f.Kind != proxier.NodePort {
			out = append(out, f.Addr)
			continue
		}
		for _, a := range s.Node.Local {
			out = append(out, netip.AddrPortFrom(a, f.Addr.Port()))
		}
	}
	return out
}

func from(family proxier.Family, protocol proxier.Protocol, dst netip.AddrPort) []proxier.Packet {
	lab := proxiertest.LabOf(family)
	var out []proxier.Packet
	for _, src := range []struct {
		addr netip.Addr
		in   string
	}{{lab.Node, ""}, {lab.PodA, proxiertest.PodBridge}, {lab.PodB, proxiertest.OuterInterface}, {lab.Outside, proxiertest.OuterInterface}} {
		out = append(out, proxier.Packet{Protocol: protocol, Src: src.addr, Dst: dst, In: src.in})
	}
	return out
}

// plainState has n services of k endpoints each: ClusterIPs from 10.96.0.0 up.
func plainState(n, k int) *proxier.State {
	s := &proxier.State{Family: proxier.IPv4, Node: plainNode()}
	for i := range n {
		s.Services = append(s.Services, plainService(i, k))
	}
	return s
}

func plainNode() proxier.Node {
	return proxier.Node{
		Name:      "node-a",
		PodRanges: []netip.Prefix{netip.MustParsePrefix("10.128.0.0/9")},
		Local:     []netip.Addr{netip.MustParseAddr("192.168.0.2")},
		NodePorts: proxier.NodePorts{Any: true, Localhost: true},
	}
}

// plainService is "default/service-00007:http" for i 7, with k endpoints.
func plainService(i, k int) *proxier.Service {
	return &proxier.Service{
		Name:      proxier.ServicePort{Namespace: "default", Service: fmt.Sprintf("service-%05d", i), Port: "http"},
		Protocol:  proxier.TCP,
		Frontends: []proxier.Frontend{{Kind: proxier.ClusterIP, Addr: plainVIP(i), Routes: clusterIPRoutes(k)}},
		Cluster:   plainEndpoints(i*k, k),
	}
}

func plainVIP(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), 80)
}

func clusterIPRoutes(endpoints int) []proxier.Route {
	if endpoints == 0 {
		return []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToReject}}
	}
	return []proxier.Route{
		{From: proxier.FromNotPods, To: proxier.ToCluster, Masq: true},
		{From: proxier.FromAnyone, To: proxier.ToCluster},
	}
}

// plainEndpoints are n endpoints, the pods number first and following.
func plainEndpoints(first, n int) []proxier.Endpoint {
	var eps []proxier.Endpoint
	for pod := first; pod < first+n; pod++ {
		addr := netip.AddrFrom4([4]byte{10, byte(128 + pod>>16), byte(pod >> 8), byte(pod)})
		eps = append(eps, proxier.Endpoint{Addr: netip.AddrPortFrom(addr, 8080)})
	}
	return eps
}

// edited is a State with one service changed; all others are shared.
func edited(s *proxier.State, i int, edit func(*proxier.Service)) *proxier.State {
	next := &proxier.State{Family: s.Family, Node: s.Node, Services: slices.Clone(s.Services)}
	svc := *s.Services[i]
	edit(&svc)
	next.Services[i] = &svc
	return next
}

// lessOne takes the service's first endpoint away.
func lessOne(s *proxier.Service) { s.Cluster = s.Cluster[1:] }

// shows counts what a service has.
func shows(svc *proxier.Service, seen map[string]int) {
	if svc.Affinity > time.Second {
		seen["affinity"]++
	}
	for _, f := range svc.Frontends {
		seen[fmt.Sprintf("allow %v", len(f.Allow) > 0)]++
		for _, r := range f.Routes {
			seen[f.Kind.String()+" "+r.To.String()]++
		}
	}
}

// The walks are worth what the clusters show: all kinds, targets and sources.
func TestEvolutionShowsEverything(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(20) {
		e := evolve(seed, proxier.IPv4)
		for range 5 {
			for _, svc := range e.next().Services {
				shows(svc, seen)
			}
		}
	}
	want := []string{"affinity", "allow true"}
	for _, k := range proxier.Kinds {
		for _, to := range proxier.Tos {
			want = append(want, k.String()+" "+to.String())
		}
	}
	for _, w := range want {
		if seen[w] == 0 {
			t.Errorf("never seen: %s", w)
		}
	}
}

// addrPort6 is the i-th of IPv6 addresses that follow each other.
func addrPort6(i int) netip.AddrPort { return netip.AddrPortFrom(v6("fd00:172:30::", i), 80) }
