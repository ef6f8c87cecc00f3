package iptables

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/proxier/proxiertest"
)

func TestOneChangeAmongManyIsSmall(t *testing.T) {
	was := plainState(10_000, 5)
	h := ruleset.NewHasher()
	mem := newPlan(emptyMemory(), was, testConfig, h).learn()
	for _, c := range []struct {
		name  string
		is    *proxier.State
		lines int // fewer than
	}{
		{"nothing", &proxier.State{Family: was.Family, Node: was.Node, Services: was.Services}, 1},
		{"an equal copy of a service", edited(was, 77, func(*proxier.Service) {}), 1},
		{"one endpoint less", edited(was, 5000, lessOne), 300},
		{"one endpoint more", edited(was, 5000, func(s *proxier.Service) { s.Cluster = plainEndpoints(25000, 6) }), 300},
		{"no endpoint left", edited(was, 5000, func(s *proxier.Service) {
			s.Cluster, s.Frontends = nil, []proxier.Frontend{{Kind: proxier.ClusterIP, Addr: plainVIP(5000), Routes: clusterIPRoutes(0)}}
		}), 300},
		{"a service less", &proxier.State{Family: was.Family, Node: was.Node, Services: slices.Delete(slices.Clone(was.Services), 123, 124)}, 300},
		{"a service more", &proxier.State{Family: was.Family, Node: was.Node, Services: append(slices.Clone(was.Services), plainService(10_000, 5))}, 300},
		{"another address", edited(was, 9, func(s *proxier.Service) {
			s.Frontends = []proxier.Frontend{{Kind: proxier.ClusterIP, Addr: plainVIP(20_000), Routes: clusterIPRoutes(5)}}
		}), 300},
	} {
		p := newPlan(mem, c.is, testConfig, h)
		input := ruleset.Print(p.changes(), nftCommit)
		mem = newPlan(p.learn(), was, testConfig, h).learn()
		t.Logf("10,000 services, %s: %d lines, %d COMMITs, %d bytes", c.name, input.Lines, input.Commits, len(input.Text))
		if input.Lines >= c.lines {
			t.Errorf("%s: %d lines of input, want under %d", c.name, input.Lines, c.lines)
		}
		if input.Commits > 3 || c.name[:3] == "one" && input.Commits > 2 {
			t.Errorf("%s: %d COMMITs", c.name, input.Commits)
		}
	}
}

// external gives a service an external IP and a node port with its routes.
func external(vip string, nodePort uint16, routes ...proxier.Route) func(*proxier.Service) {
	return func(s *proxier.Service) {
		if vip != "" {
			s.Frontends = append(slices.Clip(s.Frontends), proxier.Frontend{
				Kind: proxier.LoadBalancer, Addr: netip.MustParseAddrPort(vip), Routes: routes})
		}
		if nodePort != 0 {
			s.Frontends = append(slices.Clip(s.Frontends), proxier.Frontend{
				Kind: proxier.NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, nodePort), Routes: routes})
		}
	}
}

var (
	anyone   = proxier.Route{From: proxier.FromAnyone, To: proxier.ToCluster, Masq: true}
	rejected = proxier.Route{From: proxier.FromAnyone, To: proxier.ToReject}
)

// without endpoints, all of a service's addresses reject.
func withoutEndpoints(s *proxier.Service) {
	s.Cluster, s.Local = nil, nil
	s.Frontends = slices.Clone(s.Frontends)
	for i := range s.Frontends {
		s.Frontends[i].Routes = []proxier.Route{rejected}
	}
}

func onlyFrom(prefix string) func(*proxier.Service) {
	return func(s *proxier.Service) {
		s.Frontends = slices.Clone(s.Frontends)
		for i := range s.Frontends {
			if s.Frontends[i].Kind == proxier.LoadBalancer {
				s.Frontends[i].Allow = []netip.Prefix{netip.MustParsePrefix(prefix)}
			}
		}
	}
}

// numbered makes state of the services with these numbers, each with its edits.
func stateOf(services map[int][]func(*proxier.Service)) *proxier.State {
	s := &proxier.State{Family: proxier.IPv4, Node: plainNode()}
	for i, edits := range services {
		svc := plainService(i, 3)
		for _, edit := range edits {
			edit(svc)
		}
		s.Services = append(s.Services, svc)
	}
	slices.SortFunc(s.Services, (*proxier.Service).Compare)
	return s
}

// Every kind of change keeps faith with packets while it is on its way.
func TestChangesKeepFaith(t *testing.T) {
	type edits = []func(*proxier.Service)
	type services = map[int][]func(*proxier.Service)
	both := external("198.51.100.1:80", 30080, anyone)
	for _, c := range []struct {
		name    string
		was, is services
	}{
		{"added", services{1: nil}, services{1: nil, 2: edits{both}}},
		{"removed", services{1: nil, 2: edits{both}}, services{1: nil}},
		{"changes kind", services{1: edits{external("", 30080, anyone)}}, services{1: edits{both}}},
		{"and back", services{1: edits{both}}, services{1: nil}},
		{"loses its endpoints", services{1: edits{both}}, services{1: edits{both, withoutEndpoints}}},
		{"gains endpoints", services{1: edits{both, withoutEndpoints}}, services{1: edits{both}}},
		{"gains endpoints, closed to strangers", services{1: edits{both, withoutEndpoints, onlyFrom("203.0.113.0/24")}},
			services{1: edits{both, onlyFrom("203.0.113.0/24")}}},
		{"loses endpoints, closed to strangers", services{1: edits{both, onlyFrom("203.0.113.8/32")}},
			services{1: edits{both, withoutEndpoints, onlyFrom("203.0.113.8/32")}}},
		{"closes to strangers", services{1: edits{both}}, services{1: edits{both, onlyFrom("203.0.113.8/32")}}},
		{"opens to strangers", services{1: edits{both, onlyFrom("203.0.113.8/32")}}, services{1: edits{both}}},
		{"lets others in", services{1: edits{both, onlyFrom("203.0.113.8/32")}}, services{1: edits{both, onlyFrom("10.0.0.0/8")}}},
		{"node port moves", services{1: edits{external("", 30080, anyone)}, 2: nil}, services{1: nil, 2: edits{external("", 30080, anyone)}}},
		{"node port moves to one without endpoints", services{1: edits{external("", 30080, anyone)}, 2: edits{withoutEndpoints}},
			services{1: nil, 2: edits{external("", 30080, anyone), withoutEndpoints}}},
		{"node port moves from one without endpoints", services{1: edits{external("", 30080, anyone), withoutEndpoints}, 2: nil},
			services{1: nil, 2: edits{external("", 30080, anyone)}}},
		{"address taken over", services{1: edits{both}, 2: nil}, services{1: nil, 2: edits{both}}},
		{"address taken over, closed to strangers", services{1: edits{both, onlyFrom("203.0.113.8/32")}, 2: nil},
			services{1: nil, 2: edits{both, onlyFrom("203.0.113.8/32")}}},
		{"addresses of two without endpoints change", services{1: edits{withoutEndpoints}, 2: edits{withoutEndpoints}},
			services{1: edits{both, withoutEndpoints}, 2: edits{external("198.51.100.2:80", 30081, anyone), withoutEndpoints}}},
		{"address leaves one without endpoints", services{1: edits{both, withoutEndpoints}, 2: edits{withoutEndpoints}},
			services{1: edits{withoutEndpoints}, 2: edits{both, withoutEndpoints}}},
	} {
		for _, nft := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s nft %v", c.name, nft), func(t *testing.T) {
				checkStep(t, nft, stateOf(c.was), stateOf(c.is))
			})
		}
	}
}

func TestRandomChangesKeepFaith(t *testing.T) {
	checked := 0
	for seed := range uint64(40) {
		for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
			e := evolve(seed, family)
			e.steady = true
			was := e.next()
			for range 3 {
				is := e.next()
				checked += checkStep(t, seed%2 == 0, was, is)
				if t.Failed() {
					t.Fatalf("seed %d, %s", seed, family)
				}
				was = is
			}
		}
	}
	t.Logf("%d packets followed through rulesets on their way", checked)
}

// checkStep applies two States to a fake kernel and follows packets through what
// stands after each COMMIT of the second. Returns how many it followed.
func checkStep(t *testing.T, nft bool, was, is *proxier.State) int {
	t.Helper()
	k := newFake(nft)
	b := k.backend()
	if nft {
		b.perCommit = 8 // small steps: every order that thousands of changes at once would show
	}
	noneAside(t, mustApply(t, b, was))
	packets := probes(was, is)
	checked := 0
	k.onCommit = func(table string, chains fakeTable) {
		for name, rules := range chains {
			for _, r := range rules {
				if _, there := chains[jumpOf(r)]; jumpOf(r) != "" && !there {
					t.Errorf("%s %s leads to %s, which is not there", table, name, jumpOf(r))
				}
			}
		}
		tables := k.traced(t)
		for _, p := range packets {
			before, after := was.Decide(p), is.Decide(p)
			if nft && changesHands(before, after) {
				continue
			}
			checkOnTheWay(t, p, tables, fates{before, after, !nft})
			checked++
		}
	}
	noneAside(t, mustApply(t, b, is))
	tables := k.traced(t)
	for _, p := range packets {
		want := is.Decide(p).Verdict
		for _, o := range tables.Trace(p, ruleset.World{Local: isLabLocal}) {
			if o.Verdict != want {
				t.Errorf("%v: at the end %v, want %v", p, o, want)
			}
		}
	}
	if t.Failed() {
		t.Logf("was %s\nis %s\ninput:\n%s", was, is, k.restores[len(k.restores)-1])
	}
	return checked
}

// changesHands reports whether a packet's address goes from one service to another.
// Such a step is whole only within one COMMIT: before the address moves, its old
// owner's chains may be what that one wants for the addresses that it keeps.
func changesHands(before, after proxier.Fate) bool {
	return before.Service != nil && after.Service != nil && before.Service.Compare(after.Service) != 0
}

func noneAside(t testing.TB, r proxier.Report) {
	t.Helper()
	if len(r.SetAside) > 0 {
		t.Fatalf("set aside: %v", r.SetAside)
	}
}

// fates are what two States do with a packet. whole: the step takes one COMMIT of
// nat, so that no endpoint of a policy that is on its way is met.
type fates struct {
	before, after proxier.Fate
	whole         bool
}

// checkOnTheWay says what may happen to a packet between two States: what both
// forward is forwarded, what both refuse is refused, and what one of them refuses
// is never let through untranslated.
func checkOnTheWay(t *testing.T, p proxier.Packet, tables ruleset.Tables, f fates) {
	t.Helper()
	if f.before.Verdict == proxier.Pass || f.after.Verdict == proxier.Pass {
		return // an address that comes or goes
	}
	was, is := f.before.Verdict == proxier.Forward, f.after.Verdict == proxier.Forward
	for _, o := range tables.Trace(p, ruleset.World{Local: isLabLocal}) {
		forwards := o.Verdict == proxier.Forward
		switch {
		case o.Verdict == proxier.Pass:
			t.Errorf("%v: passes untranslated, between %v and %v", p, f.before, f.after)
		case !forwards && was && is:
			t.Errorf("%v: %v, between %v and %v", p, o.Verdict, f.before, f.after)
		case forwards && !was && !is:
			t.Errorf("%v: forwarded to %s, between %v and %v", p, o.To, f.before, f.after)
		case f.whole && forwards && !leadsTo(f.before, o.To) && !leadsTo(f.after, o.To):
			t.Errorf("%v: forwarded to %s, between %v and %v", p, o.To, f.before, f.after)
		}
	}
}

// isLabLocal knows the addresses of the node in the laboratory and in plainNode.
func isLabLocal(a netip.Addr) bool {
	node := proxier.Node{Local: proxiertest.LabOf(proxier.FamilyOf(a)).Local()}
	return node.IsLocal(a) || slices.Contains(plainNode().Local, a)
}

func leadsTo(f proxier.Fate, addr netip.AddrPort) bool {
	return slices.ContainsFunc(f.Endpoints, func(ep proxier.Endpoint) bool { return ep.Addr == addr })
}

// A chain that stands twice in one COMMIT would hold both contents, one after the
// other; one that is written and deleted in it is refused.
func TestNoChainTwiceInACommit(t *testing.T) {
	for seed := range uint64(100) {
		e := evolve(seed, proxier.IPv4)
		was, is := e.next(), e.next()
		if seed%2 == 0 { // addresses that come and go without nat being touched
			was, is = dead(e.rng, 300), dead(e.rng, 300)
		}
		for _, section := range strings.Split(string(inputBetween(t, was, is).Text), "COMMIT\n") {
			checkSection(t, section)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// dead are up to n services without endpoints, a random part of 2n.
func dead(rng *rand.Rand, n int) *proxier.State {
	s := plainState(2*n, 0)
	some := rng.IntN(101)
	s.Services = slices.DeleteFunc(s.Services, func(*proxier.Service) bool { return rng.IntN(100) < some })
	return s
}

func checkSection(t *testing.T, section string) {
	t.Helper()
	done, last := map[string]bool{}, ""
	seen := map[string]bool{}
	for line := range strings.Lines(section) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, _, _ := strings.Cut(rest, " ")
		if word != "-A" && word != "-X" {
			continue
		}
		if name != last && done[name] || word == "-X" && seen[name] {
			t.Errorf("chain %s has two parts in one COMMIT", name)
		}
		if word == "-A" && seen[line] && !strings.Contains(line, "MARK") {
			t.Errorf("rule twice in one COMMIT: %s", line)
		}
		done[last], last, seen[name], seen[line] = true, name, true, true
	}
}

// The pages of a long list of node addresses come and go with them.
func TestPagesOfAddressesFollowTheNode(t *testing.T) {
	at := func(n int) *proxier.State {
		s := plainState(3, 2)
		s.Node.NodePorts = proxier.NodePorts{}
		for i := range n {
			s.Node.NodePorts.Addrs = append(s.Node.NodePorts.Addrs, netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}))
		}
		return s
	}
	for _, nft := range []bool{true, false} {
		k := newFake(nft)
		b := k.backend()
		for _, n := range []int{3, 1000, 251, 250, 32, 33, 0, 600, 1} {
			mustApply(t, b, at(n))
			fresh := newFake(nft)
			mustApply(t, fresh.backend(), at(n))
			if k.dumps() != fresh.dumps() {
				t.Errorf("%d addresses: %s", n, firstDifference(k.dumps(), fresh.dumps()))
			}
			for _, chains := range k.tables {
				noneLong(t, chains)
			}
		}
	}
}

func noneLong(t *testing.T, chains fakeTable) {
	t.Helper()
	for name, rules := range chains {
		if len(rules) > maxChain {
			t.Errorf("%s has %d rules", name, len(rules))
		}
	}
}

// firstDifference shows where two dumps differ.
func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		a, b := "(nothing)", "(nothing)"
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			return fmt.Sprintf("line %d is\n\t%s\nwant\n\t%s", i+1, a, b)
		}
	}
	return "no difference"
}
