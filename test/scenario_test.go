package test

import (
	"flag"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"switchyard/cmd/backends"
	"switchyard/proxier"
	"switchyard/proxier/cluster"
	"switchyard/proxier/compile"
	"switchyard/proxier/config"
	"switchyard/proxier/node"
	"switchyard/proxier/proxiertest"
)

var update = flag.Bool("update", false, "rewrite the printed States in the scenarios")

var families = []proxier.Family{proxier.IPv4, proxier.IPv6}

// stage is a scenario, or a random cluster, ready to be asked.
type stage struct {
	states  map[proxier.Family]*proxier.State
	options config.Options
}

// options turns a scenario's flags into what the program makes of them.
func options(t testing.TB, f proxiertest.Flags) config.Options {
	t.Helper()
	var flags config.Flags
	fs := pflag.NewFlagSet("scenario", pflag.ContinueOnError)
	flags.BindRender(fs)
	if err := fs.Parse(arguments(f)); err != nil {
		t.Fatalf("flags: %v", err)
	}
	o, err := flags.Options(backends.Names())
	if err != nil {
		t.Fatalf("flags: %v", err)
	}
	return o
}

// arguments are a scenario's flags as they are given to the program.
func arguments(f proxiertest.Flags) []string {
	var cidrs []string
	for _, p := range f.ClusterCIDRs {
		cidrs = append(cidrs, p.String())
	}
	return []string{
		"--hostname-override=" + proxiertest.NodeName,
		"--detect-local-mode=" + f.DetectLocalMode,
		"--pod-bridge-interface=" + f.PodBridgeInterface,
		"--pod-interface-name-prefix=" + f.PodInterfaceNamePrefix,
		"--nodeport-addresses=" + strings.Join(f.NodePortAddresses, ","),
		"--cluster-cidr=" + strings.Join(cidrs, ","),
		fmt.Sprintf("--iptables-localhost-nodeports=%t", f.LocalhostNodePorts),
		fmt.Sprintf("--masquerade-all=%t", f.MasqueradeAll),
		fmt.Sprintf("--iptables-masquerade-bit=%d", f.MasqueradeBit),
		"--service-external-ips=" + f.ServiceExternalIPs,
	}
}

// stageOf compiles objects as the program does, on the laboratory's node, which may hold
// more addresses.
func stageOf(t testing.TB, objects proxiertest.Objects, f proxiertest.Flags, more ...netip.Addr) stage {
	t.Helper()
	store := cluster.NewStore(proxiertest.NodeName)
	for _, n := range objects.Nodes {
		store.SetNode(n)
	}
	for _, s := range objects.Services {
		store.SetService(s)
	}
	for _, s := range objects.Slices {
		store.SetSlice(s)
	}
	st := stage{states: map[proxier.Family]*proxier.State{}, options: options(t, f)}
	snap, holds := store.Snapshot(), append(labAddresses(), more...)
	for _, family := range families {
		n := node.Describe(family, snap.Node, holds, st.options.Node)
		st.states[family] = compile.New(family, st.options.Compile).Compile(snap, n)
	}
	return st
}

// labAddresses are all addresses of the node under test, as netlink lists them.
func labAddresses() []netip.Addr {
	var out []netip.Addr
	for _, f := range families {
		lab := proxiertest.LabOf(f)
		out = append(append(out, lab.Local()...), lab.Loopback)
	}
	return out
}

func (s *stage) print() string {
	return s.states[proxier.IPv4].String() + "\n" + s.states[proxier.IPv6].String()
}

func (s *stage) decide(p proxier.Packet) proxiertest.Fate {
	fate := s.states[proxier.FamilyOf(p.Dst.Addr())].Decide(p)
	return proxiertest.FateOf(p, fate)
}

// scenarios loads the suite.
func scenarios(t testing.TB) []proxiertest.Scenario {
	t.Helper()
	all, err := proxiertest.Load(proxiertest.Suite())
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 60 {
		t.Fatalf("%d scenarios: the suite has at least 60", len(all))
	}
	return all
}

func stageScenario(t testing.TB, s proxiertest.Scenario) stage {
	t.Helper()
	return stageOf(t, objectsOf(t, s), s.Flags)
}

func objectsOf(t testing.TB, s proxiertest.Scenario) proxiertest.Objects {
	t.Helper()
	objects, err := proxiertest.DecodeObjects(s.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	for _, slice := range objects.Slices {
		for i := range slice.Ports {
			if slice.Ports[i].Name == nil {
				slice.Ports[i].Name = new(string) // as the API server fills it in
			}
		}
	}
	return objects
}

// TestScenarioState holds what every scenario's cluster compiles to.
func TestScenarioState(t *testing.T) {
	for _, s := range scenarios(t) {
		t.Run(s.Name, func(t *testing.T) {
			st := stageScenario(t, s)
			got := st.print()
			if *update {
				if err := proxiertest.WriteState("../proxier/proxiertest/scenarios/"+s.Name+".txtar", got); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != s.State {
				t.Errorf("the cluster compiles to\n%s\nwant\n%s", got, s.State)
			}
		})
	}
}

// TestScenarioMeaning holds the fate that State.Decide gives to every packet.
func TestScenarioMeaning(t *testing.T) {
	for _, s := range scenarios(t) {
		t.Run(s.Name, func(t *testing.T) {
			st := stageScenario(t, s)
			for _, p := range s.Packets {
				if got := st.decide(p.Packet); !got.Equal(p.Want) {
					t.Errorf("line %d: %s %s -> %s: %s, want %s", p.Line, p.Protocol, p.From, p.Dst, got, p.Want)
				}
			}
		})
	}
}

// TestScenarioTranslation holds that the rules of every backend that has rules,
// followed by hand, give the same.
func TestScenarioTranslation(t *testing.T) {
	for _, s := range scenarios(t) {
		t.Run(s.Name, func(t *testing.T) {
			st := stageScenario(t, s)
			tr := newTranslation(t, &st)
			for _, p := range s.Packets {
				tr.compare(t, p.Packet, fmt.Sprintf("line %d: %s", p.Line, p.From))
			}
		})
	}
}

// TestScenariosCoverDecisions counts that every row that a State can have is in
// some scenario.
func TestScenariosCoverDecisions(t *testing.T) {
	type row struct {
		kind proxier.Kind
		proxier.Route
	}
	seen := map[row]int{}
	for _, s := range scenarios(t) {
		st := stageScenario(t, s)
		st.eachFrontend(func(f proxier.Frontend) {
			for _, r := range f.Routes {
				seen[row{f.Kind, r}]++
			}
		})
	}
	for _, kind := range proxier.Kinds {
		for _, r := range possible(kind) {
			if seen[row{kind, r}] == 0 {
				t.Errorf("no scenario has %s %s", kind, r)
			}
			delete(seen, row{kind, r})
		}
	}
	for r := range seen {
		t.Errorf("%s %s occurs, but is not in the table of what can be", r.kind, r.Route)
	}
}

func (s *stage) eachFrontend(do func(proxier.Frontend)) {
	for _, state := range s.states {
		for _, svc := range state.Services {
			for _, f := range svc.Frontends {
				do(f)
			}
		}
	}
}

// possible lists the rows that a frontend of a kind can have.
func possible(kind proxier.Kind) []proxier.Route {
	ends := []proxier.Route{
		{From: proxier.FromAnyone, To: proxier.ToReject},
		{From: proxier.FromAnyone, To: proxier.ToDrop},
	}
	if kind == proxier.ClusterIP {
		for _, to := range []proxier.To{proxier.ToCluster, proxier.ToLocal} {
			ends = append(ends,
				proxier.Route{From: proxier.FromNotPods, To: to, Masq: true},
				proxier.Route{From: proxier.FromAnyone, To: to},
				proxier.Route{From: proxier.FromAnyone, To: to, Masq: true})
		}
		return ends
	}
	return append(ends,
		proxier.Route{From: proxier.FromAnyone, To: proxier.ToCluster, Masq: true},
		proxier.Route{From: proxier.FromPods, To: proxier.ToCluster},
		proxier.Route{From: proxier.FromNode, To: proxier.ToCluster, Masq: true},
		proxier.Route{From: proxier.FromAnyone, To: proxier.ToLocal})
}
