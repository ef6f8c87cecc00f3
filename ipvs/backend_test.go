package ipvs

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

// fresh is what the kernel holds after one Apply on an empty one.
func fresh(t *testing.T, want *proxier.State) string {
	t.Helper()
	k := newFake()
	apply(t, k.backend(want.Family), want)
	return k.String()
}

// TestWalk applies States one after the other, with restarts between: the kernel
// always holds what one Apply on an empty kernel would make it hold, and applying
// the same again, or after a restart, writes nothing.
func TestWalk(t *testing.T) {
	for seed := range uint64(12) {
		for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
			e, k := evolve(seed, family), newFake()
			b := k.backend(family)
			for step := range 8 {
				want := e.next()
				apply(t, b, want)
				if got, want := k.String(), fresh(t, want); got != want {
					t.Fatalf("seed %d, %s, step %d:\n%s", seed, family, step, difference(got, want))
				}
				if step%3 == 1 {
					b = k.backend(family)
				}
				if r := apply(t, b, want); r.Operations != 0 {
					t.Fatalf("seed %d, %s, step %d: %d operations where nothing changed: %v", seed, family, step, r.Operations, k.log[len(k.log)-3:])
				}
			}
		}
	}
}

// difference lists the lines that only one of two texts has.
func difference(got, want string) string {
	var b strings.Builder
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for _, line := range g {
		if !slices.Contains(w, line) {
			fmt.Fprintf(&b, "has  %s\n", line)
		}
	}
	for _, line := range w {
		if !slices.Contains(g, line) {
			fmt.Fprintf(&b, "lacks %s\n", line)
		}
	}
	return b.String()
}

// TestCostOfAChange counts the operations of some changes: they do not depend on how
// many services there are.
func TestCostOfAChange(t *testing.T) {
	more := func(s *proxier.Service, eps ...string) *proxier.Service {
		next := *s
		next.Cluster = slices.Clone(s.Cluster)
		for _, ep := range eps {
			next.Cluster = append(next.Cluster, proxier.Endpoint{Addr: addrPort(ep)})
		}
		return &next
	}
	for _, c := range []struct {
		name   string
		change func([]*proxier.Service) []*proxier.Service
		want   int
	}{
		{"nothing", func(s []*proxier.Service) []*proxier.Service { return s }, 0},
		// A destination of the ClusterIP and of the short way, and one entry of KUBE-LOOP-BACK.
		{"one endpoint more", func(s []*proxier.Service) []*proxier.Service {
			s[3] = more(s[3], "10.180.77.77:8080")
			return s
		}, 3},
		{"one endpoint less", func(s []*proxier.Service) []*proxier.Service {
			next := *s[3]
			next.Cluster = next.Cluster[:1]
			s[3] = &next
			return s
		}, 3},
		// Three servers, four destinations, addresses, and entries of seven sets.
		{"one service more", func(s []*proxier.Service) []*proxier.Service {
			return append(s, balanced(clusterIP("t", "172.31.0.1:80", proxier.TCP, "10.180.77.77:8080", "10.180.77.78:8080"), "198.52.0.1:80"))
		}, 15},
	} {
		for _, n := range []int{10, 400} {
			k := newFake()
			b := k.backend(proxier.IPv4)
			apply(t, b, stateOf(many(n)...))
			services := many(n)
			copy(services, b.mem.state.Services) // shared pointers, as a compiler gives them
			r := apply(t, b, stateOf(c.change(services)...))
			if r.Operations != c.want {
				t.Errorf("%s among %d services: %d operations, want %d: %v", c.name, n, r.Operations, c.want, k.log[len(k.log)-r.Operations:])
			}
		}
	}
}

// TestForeign leaves alone what others have.
func TestForeign(t *testing.T) {
	k := newFake()
	foreign := []vs.Key{
		vs.At(proxier.TCP, addrPort("9.9.9.9:99")), vs.Marked(proxier.IPv4, 7),
		vs.At(proxier.TCP, addrPort("192.168.0.2:8443")), // at an address of the node
	}
	for _, key := range foreign {
		k.servers[key] = &fakeServer{Server: vs.Server{Scheduler: "lc"}, pool: map[netip.AddrPort]vs.Counted{
			addrPort("9.9.9.8:1"): {Destination: vs.Destination{Addr: addrPort("9.9.9.8:1"), Weight: 5}}}}
	}
	b := k.backend(proxier.IPv4)
	apply(t, b, stateOf(many(3)...))
	apply(t, k.backend(proxier.IPv4), stateOf(many(1)...))
	s := scrubber{servers: fakeServers{k}, sets: fakeSets{k}, device: fakeDevice{k}}
	if err := s.scrubServers(proxier.IPv4); err != nil {
		t.Fatal(err)
	}
	for _, key := range foreign {
		if s := k.servers[key]; s == nil || len(s.pool) != 1 {
			t.Errorf("%s was touched", key)
		}
	}
	if len(k.servers) != len(foreign) {
		t.Errorf("%d servers are left, %d of them foreign", len(k.servers), len(foreign))
	}
	for _, line := range k.log {
		for _, key := range foreign {
			if strings.Contains(line, key.String()) {
				t.Errorf("wrote %q", line)
			}
		}
	}
}

// TestExcluded does nothing in the excluded ranges, also not to what was ours.
func TestExcluded(t *testing.T) {
	k := newFake()
	web := clusterIP("web", "172.30.0.1:80", proxier.TCP, "10.180.0.2:8080")
	apply(t, k.backend(proxier.IPv4), stateOf(web))
	before := len(k.servers)
	b := k.backend(proxier.IPv4)
	b.config.Exclude = []netip.Prefix{netip.MustParsePrefix("172.30.0.0/16")}
	r := apply(t, b, stateOf(web))
	if len(k.servers) != before {
		t.Errorf("%d servers, there were %d", len(k.servers), before)
	}
	if len(r.Notes) != 1 || !strings.Contains(r.Notes[0].Text, "172.30.0.1 is in the excluded ranges") {
		t.Errorf("notes: %v", r.Notes)
	}
}

// TestScheduler takes the default where the wish cannot be met, and says so.
func TestScheduler(t *testing.T) {
	weighted := func(s *proxier.Service) *proxier.Service {
		s.Cluster[0].Weight = 3
		return s
	}
	for _, c := range []struct {
		name, wish string
		edit       func(*proxier.Service) *proxier.Service
		want       vs.Server
		note       string
	}{
		{name: "none", want: vs.Server{Scheduler: "rr"}},
		{name: "wlc", wish: "wlc", want: vs.Server{Scheduler: "wlc"}},
		{name: "unknown", wish: "fair", want: vs.Server{Scheduler: "rr"}, note: `scheduler "fair" is unknown`},
		{name: "not in the kernel", wish: "sed", want: vs.Server{Scheduler: "rr"}, note: "load the module ip_vs_sed"},
		{name: "maglev always falls back", wish: "mh,mh-port", want: vs.Server{Scheduler: "mh", Flags: vs.Port | vs.Fallback}},
		{name: "weights", edit: weighted, want: vs.Server{Scheduler: "wrr"}},
		{name: "weights and lc", wish: "lc", edit: weighted, want: vs.Server{Scheduler: "wlc"}},
		{name: "weights and sh", wish: "sh", edit: weighted, want: vs.Server{Scheduler: "sh", Flags: vs.Fallback}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newFake()
			k.noScheduler["sed"] = true
			s := clusterIP("web", "172.30.0.1:80", proxier.TCP, "10.180.0.2:8080", "10.180.0.3:8080")
			s.Scheduler = c.wish
			if c.edit != nil {
				s = c.edit(s)
			}
			b := k.backend(proxier.IPv4)
			r := apply(t, b, stateOf(s))
			if got := k.servers[key(s)].Server; got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
			if (len(r.Notes) > 0) != (c.note != "") || c.note != "" && !strings.Contains(r.Notes[0].Text, c.note) {
				t.Errorf("notes: %v, want %q", r.Notes, c.note)
			}
			if again := apply(t, b, b.mem.state); again.Operations != 0 || len(again.Notes) != len(r.Notes) {
				t.Errorf("again: %d operations, notes %v", again.Operations, again.Notes)
			}
		})
	}
}

// TestSchedulerLive changes the scheduler of a server that stays.
func TestSchedulerLive(t *testing.T) {
	k := newFake()
	b := k.backend(proxier.IPv4)
	s := clusterIP("web", "172.30.0.1:80", proxier.TCP, "10.180.0.2:8080")
	apply(t, b, stateOf(s))
	next := *s
	next.Scheduler = "lc"
	k.log = nil
	apply(t, b, stateOf(&next))
	if want := []string{"update server TCP 172.30.0.1:80 lc"}; !slices.Equal(k.log, want) {
		t.Errorf("wrote %q, want %q", k.log, want)
	}
}

// TestFailsForOne sets one service aside, and all others go in.
func TestFailsForOne(t *testing.T) {
	k := newFake()
	b := k.backend(proxier.IPv4)
	want := stateOf(many(5)...)
	bad := want.Services[2]
	k.fault = func(op string) error {
		if strings.HasPrefix(op, "add server "+key(bad).String()) {
			return errInjected
		}
		return nil
	}
	r := apply(t, b, want)
	if len(r.SetAside) != 1 || r.SetAside[0].Service != bad.Name {
		t.Fatalf("set aside: %v", r.SetAside)
	}
	for _, a := range []netip.Addr{bad.Frontends[0].Addr.Addr(), bad.Frontends[1].Addr.Addr(), alternate(bad.Frontends[1].Addr.Addr())} {
		if k.addrs[a] {
			t.Errorf("its address %s is there, without its server", a)
		}
	}
	if len(k.addrs) != 4*3 {
		t.Errorf("%d addresses, want those of four services", len(k.addrs))
	}
	k.fault = nil
	if r := apply(t, b, want); len(r.SetAside) != 0 || k.String() != fresh(t, want) {
		t.Errorf("once it can be had: set aside %v\n%s", r.SetAside, difference(k.String(), fresh(t, want)))
	}
}

// TestClaims settles who has an address that two want.
func TestClaims(t *testing.T) {
	nodePort := func(name string, port uint16) *proxier.Service {
		s := clusterIP(name, "172.30.0.9:80", proxier.TCP, "10.180.0.2:8080")
		s.Frontends[0] = proxier.Frontend{Kind: proxier.NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, port),
			Routes: []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToCluster, Masq: true}}}
		return s
	}
	external := clusterIP("external", "192.168.0.2:30001", proxier.TCP, "10.180.0.3:8080")
	external.Frontends[0].Kind = proxier.ExternalIP
	external.Frontends[0].Routes = []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToCluster, Masq: true}}
	k := newFake()
	b := k.backend(proxier.IPv4)
	if r := apply(t, b, stateOf(nodePort("port", 30001), external)); len(r.SetAside) != 0 {
		t.Errorf("set aside: %v", r.SetAside)
	}
	pool := poolOf(k.servers[key(external)])
	if len(pool) != 1 || pool[0].Addr != addrPort("10.180.0.3:8080") {
		t.Errorf("the external IP's address leads to %v", pool)
	}
	if k.addrs[addr("192.168.0.2")] || k.sets["KUBE-IPVS-IPS"].entries[inSet(held, records(key(external))[0].entry)] {
		t.Error("the node's own address is on kube-ipvs0, or its other ports are refused")
	}
	apply(t, b, stateOf(nodePort("port", 30001)))
	if pool := poolOf(k.servers[key(external)]); len(pool) != 1 || pool[0].Addr != addrPort("10.180.0.2:8080") {
		t.Errorf("with the external IP gone the node port leads to %v", pool)
	}

	one := balanced(clusterIP("one", "172.30.0.1:80", proxier.TCP, "10.180.0.2:8080"), "10.0.0.5:80")
	two := balanced(clusterIP("two", "172.30.0.2:80", proxier.TCP, "10.180.0.3:8080"), "26.0.0.5:80")
	r := apply(t, b, stateOf(one, two))
	if len(r.SetAside) != 1 || r.SetAside[0].Service != two.Name || !strings.Contains(r.SetAside[0].Reason.Error(), "taken by default/one") {
		t.Errorf("two addresses with one alternate: set aside %v", r.SetAside)
	}
}

// TestNotExpressible names what the rules cannot say.
func TestNotExpressible(t *testing.T) {
	s := balanced(clusterIP("web", "172.30.0.1:80", proxier.TCP, "10.180.0.2:8080"), "245.0.0.1:80")
	k := newFake()
	r := apply(t, k.backend(proxier.IPv4), stateOf(s, clusterIP("other", "172.30.0.2:80", proxier.TCP, "10.180.0.2:8080")))
	if len(r.SetAside) != 1 || !strings.Contains(r.SetAside[0].Reason.Error(), "245.0.0.1 is in 240.0.0.0/4") {
		t.Errorf("set aside: %v", r.SetAside)
	}
	if len(k.servers) != 1 {
		t.Errorf("%d servers, want the other service's", len(k.servers))
	}
}

// TestDrift notices what others do, and puts it right.
func TestDrift(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*fakeKernel)
		want string
	}{
		{"server deleted", func(k *fakeKernel) { delete(k.servers, vs.At(proxier.TCP, addrPort("172.30.0.1:80"))) }, "virtual server TCP 172.30.0.1:80 was deleted"},
		{"server changed", func(k *fakeKernel) { k.servers[vs.At(proxier.TCP, addrPort("172.30.0.1:80"))].Scheduler = "lc" }, "was changed"},
		{"destinations", func(k *fakeKernel) { clear(k.servers[vs.At(proxier.TCP, addrPort("172.30.0.1:80"))].pool) }, "the destinations of virtual server"},
		{"set flushed", func(k *fakeKernel) { clear(k.sets["KUBE-CLUSTER-IP"].entries) }, "set KUBE-CLUSTER-IP was changed"},
		{"device deleted", func(k *fakeKernel) { k.device = false; clear(k.addrs) }, "the device is gone"},
		{"chain flushed", func(k *fakeKernel) { k.chains[chainID{"nat", servicesChain}] = nil; k.stamp++ }, "chain nat KUBE-SERVICES"},
		{"way deleted", func(k *fakeKernel) { k.chains[chainID{"mangle", "OUTPUT"}] = nil; k.stamp++ }, "the way to our chains from mangle OUTPUT"},
		{"others' rules", func(k *fakeKernel) { k.chains[chainID{"nat", "DOCKER"}] = []string{"-j RETURN"}; k.stamp++ }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newFake()
			b := k.backend(proxier.IPv4)
			want := stateOf(many(3)...)
			apply(t, b, want)
			before := k.String()
			if what, err := b.Drifted(t.Context()); what != "" || err != nil {
				t.Fatalf("untouched: %q, %v", what, err)
			}
			b.watch.next = b.watch.next.AddDate(-1, 0, 0)
			c.do(k)
			what, err := b.Drifted(t.Context())
			if err != nil || !strings.Contains(what, c.want) || (what == "") != (c.want == "") {
				t.Fatalf("%q, %v, want %q", what, err, c.want)
			}
			if r := apply(t, b, want); r.Repaired != what {
				t.Errorf("repaired %q", r.Repaired)
			}
			if lost := difference(before, k.String()); strings.Contains(lost, "has ") && !strings.Contains(lost, "dport 22") {
				t.Errorf("not put right:\n%s", lost)
			}
		})
	}
}

// key is the server of a service's first address.
func key(s *proxier.Service) vs.Key { return vs.At(s.Protocol, s.Frontends[0].Addr) }
