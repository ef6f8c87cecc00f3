package metrics

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/conntrack"
	"switchyard/proxier/engine"
)

func TestApplied(t *testing.T) {
	m := New(Options{Mode: "iptables", Families: []proxier.Family{proxier.IPv4}})
	state := &proxier.State{}
	m.Applied(proxier.IPv4, nil, state, proxier.Report{
		Full: true, Operations: 5, Took: 2 * time.Second,
		Written: map[string]int{"chains": 7, "rules": 20}, Total: map[string]int{"nat": 7, "filter": 3},
	})
	m.Applied(proxier.IPv4, state, state, proxier.Report{
		Operations: 1, Took: time.Second, Repaired: "chain gone",
		Written: map[string]int{"rules": 2}, Deleted: map[string]int{"chains": 1}, Total: map[string]int{"nat": 6},
	})
	for name, want := range map[string][]string{
		"kubeproxy_sync_proxy_rules_duration_seconds":         {"ip_family=IPv4 2 3"},
		"kubeproxy_sync_full_proxy_rules_duration_seconds":    {"ip_family=IPv4 1 2"},
		"kubeproxy_sync_partial_proxy_rules_duration_seconds": {"ip_family=IPv4 1 1"},
		"switchyard_sync_duration_seconds":                    {"ip_family=IPv4 2 3"},
		"switchyard_kernel_operations_per_sync":               {"ip_family=IPv4 2 6"},
		"switchyard_kernel_operations_total":                  {"ip_family=IPv4 6"},
		"switchyard_drift_repairs_total":                      {"ip_family=IPv4 1"},
		"switchyard_sync_failures_total":                      {"ip_family=IPv4 0"},
		"switchyard_kernel_objects":                           {"ip_family=IPv4 kind=nat 6"}, // of the last apply only
		"switchyard_kernel_objects_written_total":             {"ip_family=IPv4 kind=chains 7", "ip_family=IPv4 kind=rules 22"},
		"switchyard_kernel_objects_deleted_total":             {"ip_family=IPv4 kind=chains 1"},
	} {
		expect(t, m, name, want...)
	}
}

// A failure is partial if the sync before succeeded: then it did not start from a
// reading of the kernel.
func TestFailures(t *testing.T) {
	m := New(Options{Mode: "iptables", Families: []proxier.Family{proxier.IPv4, proxier.IPv6}})
	no := errors.New("no")
	m.Failed(proxier.IPv4, no)
	expect(t, m, "kubeproxy_sync_proxy_rules_iptables_restore_failures_total", "ip_family=IPv4 1")
	expect(t, m, "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total")
	m.Applied(proxier.IPv4, nil, &proxier.State{}, proxier.Report{Full: true})
	m.Failed(proxier.IPv4, no)
	m.Failed(proxier.IPv4, no)
	expect(t, m, "kubeproxy_sync_proxy_rules_iptables_restore_failures_total", "ip_family=IPv4 3")
	expect(t, m, "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total", "ip_family=IPv4 1")
	expect(t, m, "switchyard_sync_failures_total", "ip_family=IPv4 3", "ip_family=IPv6 0")
	m.Applied(proxier.IPv6, nil, &proxier.State{}, proxier.Report{Refused: 1}) // and went on without
	expect(t, m, "kubeproxy_sync_proxy_rules_iptables_restore_failures_total", "ip_family=IPv4 3", "ip_family=IPv6 1")
	expect(t, m, "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total", "ip_family=IPv4 1", "ip_family=IPv6 1")
	expect(t, m, "switchyard_sync_failures_total", "ip_family=IPv4 3", "ip_family=IPv6 0")
}

func TestRules(t *testing.T) {
	m := New(Options{Mode: "iptables"})
	for _, nat := range []proxier.RuleCount{{Written: 30, Total: 80}, {Written: 1, Total: 81}} {
		m.Applied(proxier.IPv4, nil, &proxier.State{}, proxier.Report{
			Rules: map[string]proxier.RuleCount{"nat": nat, "filter": {Total: 12}},
		})
	}
	expect(t, m, "kubeproxy_sync_proxy_rules_iptables_last", "ip_family=IPv4 table=filter 0", "ip_family=IPv4 table=nat 1")
	expect(t, m, "kubeproxy_sync_proxy_rules_iptables_total", "ip_family=IPv4 table=filter 12", "ip_family=IPv4 table=nat 81")
}

// A change is pending until every family has it in the kernel, and is counted
// once, however many families there are.
func TestPendingChanges(t *testing.T) {
	m := New(Options{Families: []proxier.Family{proxier.IPv4, proxier.IPv6}})
	applied := func(f proxier.Family) func() {
		return func() { m.Applied(f, nil, &proxier.State{Family: f}, proxier.Report{}) }
	}
	look := func(f proxier.Family) func() { return func() { m.Look(f) } }
	changes := func(services, slices int) func() { return func() { countChanges(m, services, slices) } }
	for _, step := range []struct {
		name             string
		do               func()
		services, slices string
	}{
		{"two services, three slices", changes(2, 3), "2", "3"},
		{"IPv4 looks", look(proxier.IPv4), "2", "3"},
		{"another slice", changes(0, 1), "2", "4"},
		{"IPv4 has what it saw, IPv6 nothing", applied(proxier.IPv4), "2", "4"},
		{"IPv6 looks", look(proxier.IPv6), "2", "4"},
		{"IPv6 has all, IPv4 lacks the last slice", applied(proxier.IPv6), "0", "1"},
		{"IPv4 looks again", look(proxier.IPv4), "0", "1"},
		{"and fails", func() { m.Failed(proxier.IPv4, errors.New("no")) }, "0", "1"},
		{"and succeeds", applied(proxier.IPv4), "0", "0"},
		{"a sync without a change", applied(proxier.IPv4), "0", "0"},
	} {
		t.Run(step.name, func(t *testing.T) {
			step.do()
			expect(t, m, "kubeproxy_sync_proxy_rules_service_changes_pending", step.services)
			expect(t, m, "kubeproxy_sync_proxy_rules_endpoint_changes_pending", step.slices)
		})
	}
	expect(t, m, "kubeproxy_sync_proxy_rules_service_changes_total", "2")
	expect(t, m, "kubeproxy_sync_proxy_rules_endpoint_changes_total", "4")
}

func TestConntrackPass(t *testing.T) {
	m := New(Options{Mode: "iptables"})
	m.ConntrackPass(conntrack.Pass{Family: proxier.IPv4, Duration: time.Second})
	expect(t, m, "kubeproxy_conntrack_reconciler_deleted_entries_total", "ip_family=IPv4 0")
	m.ConntrackPass(conntrack.Pass{Family: proxier.IPv4, Deleted: 5, Duration: 2 * time.Second, Err: errors.New("interrupted")})
	expect(t, m, "kubeproxy_conntrack_reconciler_deleted_entries_total", "ip_family=IPv4 5")
	expect(t, m, "kubeproxy_conntrack_reconciler_sync_duration_seconds", "ip_family=IPv4 2 3")
}

// The gauge on which to alert.
func TestServicesDiffering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var status engine.Status
		m := New(Options{Status: func() []engine.Status { return []engine.Status{status} }})
		aside := make([]proxier.SetAside, 2)
		time.Sleep(59 * time.Second)
		three := &proxier.State{Services: []*proxier.Service{service("a"), service("b"), service("c")}}
		for _, c := range []struct {
			name             string
			state            *proxier.State // applied before
			status           engine.Status
			wait             time.Duration
			want, aside, age string
		}{
			{"nothing happened", nil, engine.Status{}, 0, "0", "0", "0"},
			{"the first sync is under way", nil, engine.Status{PendingSince: start}, 0, "0", "0", "59"},
			{"and hangs", nil, engine.Status{PendingSince: start}, time.Second, "1", "0", "60"},
			{"the first sync failed", nil, engine.Status{Failures: 1}, 0, "1", "0", "0"},
			{"all is well", three, engine.Status{}, 0, "0", "0", "0"},
			{"two are set aside", three, engine.Status{SetAside: aside}, 0, "2", "2", "0"},
			{"a sync failed: nothing is known", three, engine.Status{Failures: 3, SetAside: aside}, 0, "3", "2", "0"},
			{"a sync hangs", three, engine.Status{PendingSince: start}, 0, "3", "0", "60"},
			{"all is well again", three, engine.Status{}, 0, "0", "0", "0"},
		} {
			time.Sleep(c.wait)
			if c.state != nil {
				m.Applied(proxier.IPv4, nil, c.state, proxier.Report{})
			}
			status = c.status
			status.Family = proxier.IPv4
			t.Log(c.name)
			expect(t, m, "switchyard_services_differing", "ip_family=IPv4 "+c.want)
			expect(t, m, "switchyard_services_set_aside", "ip_family=IPv4 "+c.aside)
			expect(t, m, "switchyard_oldest_change_age_seconds", "ip_family=IPv4 "+c.age)
		}
	})
}

func TestAPISilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var alive time.Time
		m := New(Options{APIAlive: func() time.Time { return alive }})
		time.Sleep(5 * time.Second)
		expect(t, m, "switchyard_api_silence_seconds", "5") // since the start
		alive = time.Now()
		time.Sleep(2 * time.Second)
		expect(t, m, "switchyard_api_silence_seconds", "2")
		alive = time.Now().Add(time.Hour) // never less than nothing
		expect(t, m, "switchyard_api_silence_seconds", "0")
	})
}

func service(name string, fronts ...proxier.Frontend) *proxier.Service {
	return &proxier.Service{Name: proxier.ServicePort{Namespace: "default", Service: name}, Protocol: proxier.TCP, Frontends: fronts}
}

// table is a decision table with these targets, for the node itself and for
// anyone if there are two.
func table(targets ...proxier.To) (routes []proxier.Route) {
	for _, to := range targets {
		routes = append(routes, proxier.Route{From: proxier.FromNode, To: to})
	}
	routes[len(routes)-1].From = proxier.FromAnyone
	return routes
}

func front(kind proxier.Kind, targets ...proxier.To) proxier.Frontend {
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(kind)}), 80)
	return proxier.Frontend{Kind: kind, Addr: addr, Routes: table(targets...)}
}

var (
	insideNone  = front(proxier.ClusterIP, proxier.ToDrop)
	insideSome  = front(proxier.ClusterIP, proxier.ToLocal)
	noEndpoints = front(proxier.ClusterIP, proxier.ToReject)
	outsideNone = front(proxier.LoadBalancer, proxier.ToCluster, proxier.ToDrop)
	outsideSome = front(proxier.LoadBalancer, proxier.ToCluster, proxier.ToLocal)
	closed      = front(proxier.LoadBalancer, proxier.ToDrop)
	nodePort    = front(proxier.NodePort, proxier.ToCluster, proxier.ToDrop)
)

func TestNoLocalEndpoints(t *testing.T) {
	m := New(Options{Families: []proxier.Family{proxier.IPv4}})
	for _, c := range []struct {
		name               string
		services           []*proxier.Service
		internal, external string
	}{
		{"no services", nil, "0", "0"},
		{"endpoints here", []*proxier.Service{service("a", insideSome, outsideSome)}, "0", "0"},
		{"no endpoints anywhere is another matter", []*proxier.Service{service("a", noEndpoints)}, "0", "0"},
		{"internal", []*proxier.Service{service("a", insideNone, outsideSome)}, "1", "0"},
		{"external, counted once a port", []*proxier.Service{service("a", insideSome, outsideNone, nodePort)}, "0", "1"},
		{"source ranges that admit nobody are another matter", []*proxier.Service{service("a", insideSome, closed)}, "0", "0"},
		{"both, and others", []*proxier.Service{
			service("a", insideNone, outsideNone), service("b", insideSome), service("c", insideNone),
		}, "2", "1"},
		{"gone", nil, "0", "0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.Applied(proxier.IPv4, nil, &proxier.State{Services: c.services}, proxier.Report{})
			expect(t, m, "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
				"ip_family=IPv4 traffic_policy=external "+c.external, "ip_family=IPv4 traffic_policy=internal "+c.internal)
		})
	}
}

// Following from State to State counts the same as counting the last one.
func TestNoLocalEndpointsFollowsChanges(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	kinds := [][]proxier.Frontend{{insideNone}, {insideSome, outsideNone}, {insideNone, nodePort}, {insideSome}}
	var followed noLocal
	var last *proxier.State
	seen := map[noLocal]bool{}
	for range 500 {
		next := &proxier.State{}
		var old map[string]*proxier.Service
		if last != nil {
			old = map[string]*proxier.Service{}
			for _, s := range last.Services {
				old[s.Name.Service] = s
			}
		}
		for name := 'a'; name < 'k'; name++ {
			s := old[string(name)]
			if s == nil || rng.IntN(4) == 0 {
				s = service(string(name), kinds[rng.IntN(len(kinds))]...)
			}
			if rng.IntN(4) > 0 {
				next.Services = append(next.Services, s)
			}
		}
		followed.follow(last, next)
		var fresh noLocal
		fresh.follow(nil, next)
		if followed != fresh {
			t.Fatalf("followed %+v, counted afresh %+v", followed, fresh)
		}
		seen[fresh] = true
		last = next
	}
	if len(seen) < 10 {
		t.Errorf("only %d different counts: the walk shows little", len(seen))
	}
}
