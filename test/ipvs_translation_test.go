package test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"switchyard/iptables/ruleset"
	"switchyard/ipvs"
	"switchyard/proxier"
	"switchyard/proxier/proxiertest"
)

// ipvsTranslation follows packets through the rules, sets and virtual servers of a
// stage's States.
type ipvsTranslation struct {
	stage  *stage
	models map[proxier.Family]*ipvs.Model
	// named counts the packets whose fate is a named difference, docs/differences.md.
	named map[string]int
}

func newIPVSTranslation(t testing.TB, st *stage, named map[string]int) *ipvsTranslation {
	t.Helper()
	tr := &ipvsTranslation{st, map[proxier.Family]*ipvs.Model{}, named}
	for f, state := range st.states {
		m, err := ipvs.NewModel(state, st.options.Backend)
		if err != nil {
			t.Fatal(err)
		}
		tr.models[f] = m
	}
	return tr
}

// The named differences.
const (
	otherPort = "a port that no service has, at an address of one, is refused"
	localhost = "node ports do not answer at 127.0.0.0/8"
	ownSource = "a packet from an address of a service, which kube-ipvs0 has, is the node's own"
)

// difference names the difference that a packet falls under, "" if none.
func (tr *ipvsTranslation) difference(p proxier.Packet, want proxier.Fate, got []ruleset.Outcome) string {
	m := tr.models[proxier.FamilyOf(p.Dst.Addr())]
	only := func(v proxier.Verdict) bool { return len(got) == 1 && got[0].Verdict == v && !got[0].Masq }
	switch {
	case want.Verdict == proxier.Pass && m.Holds(p.Dst.Addr()) && only(proxier.Reject):
		return otherPort
	case want.Verdict != proxier.Pass && want.Frontend.Kind == proxier.NodePort && p.Dst.Addr().IsLoopback() && only(proxier.Pass):
		return localhost
	case want.Route.From != 0 && p.In == "" && m.Holds(p.Src) && tr.asNode(p, want, got):
		return ownSource
	}
	return ""
}

// asNode reports whether a packet fares as the node's own packets to the frontend do:
// as the node's row says, or masqueraded where nothing tells pods from others.
func (tr *ipvsTranslation) asNode(p proxier.Packet, want proxier.Fate, got []ruleset.Outcome) bool {
	node := tr.stage.states[proxier.FamilyOf(p.Src)].Node
	front := *want.Frontend
	front.Allow = nil // the source was found to be allowed
	if front.Kind == proxier.ClusterIP {
		front.Routes = []proxier.Route{{From: proxier.FromAnyone, To: want.Route.To, Masq: true}}
	}
	p.Src = node.Local[0]
	return disagreement(p, front.Decide(want.Service, &node, p), got) == ""
}

// compare fails if the kernel's way and State.Decide disagree about a packet.
func (tr *ipvsTranslation) compare(t testing.TB, p proxier.Packet, what string) {
	t.Helper()
	f := proxier.FamilyOf(p.Dst.Addr())
	want := tr.stage.states[f].Decide(p)
	got := tr.models[f].Trace(p)
	if diff := disagreement(p, want, got); diff != "" {
		if name := tr.difference(p, want, got); name != "" {
			tr.named[name]++
			return
		}
		t.Errorf("%s: %s %s -> %s (in %q): %s\nDecide: %s\ntraced: %v", what, p.Protocol, p.Src, p.Dst, p.In, diff, want, got)
		return
	}
	tr.named["same"]++
	if want.Verdict == proxier.Forward && tr.models[f].Sticky(p) != (want.Service.Affinity > 0) {
		t.Errorf("%s: %s %s -> %s: sticky is not as wanted", what, p.Protocol, p.Src, p.Dst)
	}
}

// TestScenarioTranslationIPVS holds that the IPVS backend gives every packet of every
// scenario the fate that State.Decide does.
func TestScenarioTranslationIPVS(t *testing.T) {
	named := map[string]int{}
	for _, s := range scenarios(t) {
		t.Run(s.Name, func(t *testing.T) {
			st := stageScenario(t, s)
			tr := newIPVSTranslation(t, &st, named)
			for _, p := range s.Packets {
				tr.compare(t, p.Packet, fmt.Sprintf("line %d: %s", p.Line, p.From))
			}
		})
	}
	t.Logf("packets by named difference: %v", named)
}

// TestSquareIPVS is TestSquare for the IPVS backend.
func TestSquareIPVS(t *testing.T) {
	const perCluster = 100
	first := seed(t)
	named := map[string]int{}
	for n := 0; n < squarePackets(); n += perCluster {
		s := first + uint64(n)
		rng := rand.New(rand.NewPCG(s, 0))
		objects := proxiertest.Random(s)
		st := stageOf(t, objects, proxiertest.RandomFlags(rng))
		tr, traffic := newIPVSTranslation(t, &st, named), proxiertest.TrafficTo(objects)
		for range perCluster {
			tr.compare(t, traffic.Packet(rng).Packet, fmt.Sprintf("SEED=%d", s))
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("packets by named difference: %v", named)
	if share := float64(named["same"]) / float64(squarePackets()); share < 0.8 {
		t.Errorf("only %.0f %% of the packets have the same fate", 100*share)
	}
}
