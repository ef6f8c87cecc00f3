package iptables

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/proxier/proxiertest"
)

var update = flag.Bool("update", false, "rewrite testdata/golden")

// withoutBPF is a golden file for a node that lacks xt_bpf.
const withoutBPF = "without-xt-bpf"

// goldens are States of one service each (a node port needs no more), one for
// every kind of frontend and policy.
var goldens = []struct {
	name string
	edit func(*proxier.State, *proxier.Service)
}{
	{"clusterip", nil},
	{"clusterip-local", func(_ *proxier.State, s *proxier.Service) {
		s.Frontends[0].Routes = []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToLocal}}
		s.Cluster = nil
	}},
	{"clusterip-local-none-here", func(_ *proxier.State, s *proxier.Service) {
		s.Frontends[0].Routes = []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToDrop}}
		s.Cluster, s.Local = nil, nil
	}},
	{"no-endpoints", func(st *proxier.State, s *proxier.Service) {
		addFrontends(st, s, proxier.Route{From: proxier.FromAnyone, To: proxier.ToReject})
		s.Frontends[0].Routes = []proxier.Route{rejected}
		s.Cluster, s.Local = nil, nil
	}},
	{"external-cluster", func(st *proxier.State, s *proxier.Service) { addFrontends(st, s, anyone) }},
	{"external-local", func(st *proxier.State, s *proxier.Service) {
		addFrontends(st, s, externalLocal(proxier.ToLocal)...)
		s.HealthPort = 32100
	}},
	{"external-local-none-here", func(st *proxier.State, s *proxier.Service) {
		addFrontends(st, s, externalLocal(proxier.ToDrop)...)
		s.Local, s.HealthPort = nil, 32100
	}},
	{"source-ranges", func(st *proxier.State, s *proxier.Service) {
		addFrontends(st, s, anyone)
		allow(st, s)
	}},
	{"source-ranges-no-endpoints", func(st *proxier.State, s *proxier.Service) {
		addFrontends(st, s, rejected)
		allow(st, s)
		s.Frontends[0].Routes = []proxier.Route{rejected}
		s.Cluster, s.Local = nil, nil
	}},
	{"affinity", func(_ *proxier.State, s *proxier.Service) { s.Affinity = 3 * time.Hour }},
	{"masquerade-all-udp", func(_ *proxier.State, s *proxier.Service) {
		s.Protocol = proxier.UDP
		s.Frontends[0].Routes = []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToCluster, Masq: true}}
	}},
	{"pods-by-interface", func(st *proxier.State, s *proxier.Service) {
		st.Node.PodRanges, st.Node.PodInterfaces = nil, []string{"cali+"}
		addFrontends(st, s, externalLocal(proxier.ToLocal)...)
	}},
	{"node-port-addresses", func(st *proxier.State, s *proxier.Service) {
		st.Node.NodePorts = proxier.NodePorts{Addrs: st.Node.Local[:1]}
		addFrontends(st, s, anyone)
	}},
	{withoutBPF, func(st *proxier.State, s *proxier.Service) { addFrontends(st, s, anyone) }},
	{"many-endpoints", func(st *proxier.State, s *proxier.Service) {
		s.Cluster = many(st.Family, flatEndpoints+5)
		s.Local = nil
	}},
}

// addFrontends gives a service an external IP, a load balancer and a node port.
func addFrontends(st *proxier.State, s *proxier.Service, routes ...proxier.Route) {
	lab := proxiertest.LabOf(st.Family)
	for _, f := range []proxier.Frontend{
		{Kind: proxier.ExternalIP, Addr: netip.AddrPortFrom(lab.Externals.Addr().Next(), 80)},
		{Kind: proxier.LoadBalancer, Addr: netip.AddrPortFrom(lab.VIPs.Addr().Next(), 80)},
		{Kind: proxier.NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, 30080)},
	} {
		f.Routes = routes
		s.Frontends = append(s.Frontends, f)
	}
}

func externalLocal(last proxier.To) []proxier.Route {
	return []proxier.Route{
		{From: proxier.FromPods, To: proxier.ToCluster},
		{From: proxier.FromNode, To: proxier.ToCluster, Masq: true},
		{From: proxier.FromAnyone, To: last},
	}
}

func allow(st *proxier.State, s *proxier.Service) {
	lab := proxiertest.LabOf(st.Family)
	host := netip.PrefixFrom(lab.Outside, lab.Outside.BitLen())
	for i := range s.Frontends {
		if s.Frontends[i].Kind == proxier.LoadBalancer {
			s.Frontends[i].Allow = []netip.Prefix{lab.NodePods, host}
		}
	}
}

// goldenState is the State of a golden file: default/web:http with two endpoints,
// one of them here.
func goldenState(family proxier.Family, edit func(*proxier.State, *proxier.Service)) *proxier.State {
	lab := proxiertest.LabOf(family)
	here := proxier.Endpoint{Addr: netip.AddrPortFrom(lab.PodAt(2), 8080), Local: true}
	there := proxier.Endpoint{Addr: netip.AddrPortFrom(lab.OtherPodAt(2), 8080)}
	svc := &proxier.Service{
		Name:     proxier.ServicePort{Namespace: "default", Service: "web", Port: "http"},
		Protocol: proxier.TCP,
		Frontends: []proxier.Frontend{{Kind: proxier.ClusterIP,
			Addr: netip.AddrPortFrom(lab.ClusterIPs.Addr().Next(), 80), Routes: clusterIPRoutes(2)}},
		Cluster: []proxier.Endpoint{here, there},
		Local:   []proxier.Endpoint{here},
	}
	state := &proxier.State{Family: family, Services: []*proxier.Service{svc}, Node: proxier.Node{
		Name: proxiertest.NodeName, PodRanges: []netip.Prefix{lab.Pods}, Local: lab.Local(),
		NodePorts: proxier.NodePorts{Any: true, Localhost: family == proxier.IPv4},
	}}
	if edit != nil {
		edit(state, svc)
	}
	return state
}

func familyName(f proxier.Family) string { return strings.ToLower(f.String()) }

func TestGoldens(t *testing.T) {
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		for _, g := range goldens {
			path := filepath.Join("testdata", "golden", g.name+"-"+familyName(family)+".rules")
			config := testConfig
			if config.Itself = family; g.name == withoutBPF {
				config.Itself = 0
			}
			text, err := renderIn(goldenState(family, g.edit), config, 0)
			got := string(text)
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s: %s\n(go test ./iptables -run Goldens -update)", path, firstDifference(got, string(want)))
			}
		}
	}
}

// Each golden file is what the programs take, and says in their own words what
// it says: what they give back is the same text.
func TestProgramsTakeGoldens(t *testing.T) {
	eachKernel(t, func(t *testing.T, k realKernel) {
		files, err := filepath.Glob(filepath.Join("testdata", "golden", "*-"+familyName(k.Family())+".rules"))
		if err != nil || len(files) != len(goldens) {
			t.Fatalf("%d golden files, want %d; %v", len(files), len(goldens), err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := k.restore(string(text), "--test"); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			if err := k.restore(string(text)); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			if got, want := rulesOf(k.save()), rulesOf(string(text)); !slices.Equal(got, want) {
				t.Errorf("%s: comes back as %s", file, firstDifference(strings.Join(got, "\n"), strings.Join(want, "\n")))
			}
		}
	})
}

// rulesOf are the sorted rules of a dump, less those that the dump of a table
// repeats.
func rulesOf(dump string) []string {
	var rules []string
	for line := range strings.Lines(dump) {
		if strings.HasPrefix(line, "-A ") {
			rules = append(rules, strings.TrimSpace(line))
		}
	}
	slices.Sort(rules)
	return rules
}

// A State with a service that cannot be rendered renders all others, and says so.
func TestRenderSaysWhatItLeavesOut(t *testing.T) {
	s := edited(plainState(3, 1), 1, func(s *proxier.Service) {
		s.Frontends = []proxier.Frontend{{Kind: proxier.ClusterIP, Addr: plainVIP(1), Routes: []proxier.Route{
			{From: proxier.FromPods, To: proxier.ToCluster}, rejected}}}
	})
	text, err := Render(s, proxier.Settings{MasqueradeBit: 14})
	if err == nil || !strings.Contains(err.Error(), "service default/service-00001:http") {
		t.Errorf("error: %v", err)
	}
	if !strings.Contains(text, "service-00000") || strings.Contains(text, "service-00001") || !strings.Contains(text, "service-00002") {
		t.Errorf("text:\n%s", text)
	}
}

// The masquerade bit, the sysctl and the tool's abilities show in the plumbing.
func TestPlumbingFollowsTheConfig(t *testing.T) {
	for _, c := range []struct {
		config    Config
		has, lack []string
	}{
		{Config{MasqueradeBit: 14, RandomFully: true}, []string{"0x4000/0x4000", "--random-fully", "INVALID"}, nil},
		{Config{MasqueradeBit: 0}, []string{"0x1/0x1"}, []string{"--random-fully", "0x4000"}},
		{Config{MasqueradeBit: 31, Liberal: true}, []string{"0x80000000/0x80000000"}, []string{"INVALID"}},
	} {
		p := newPlan(emptyMemory(), plainState(0, 0), c.config, ruleset.NewHasher())
		text := string(ruleset.Print(p.changes(), 0).Text)
		for _, want := range c.has {
			if !strings.Contains(text, want) {
				t.Errorf("%+v: lacks %s", c.config, want)
			}
		}
		for _, not := range c.lack {
			if strings.Contains(text, not) {
				t.Errorf("%+v: has %s", c.config, not)
			}
		}
	}
}
