package test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"switchyard/iptables"
	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/proxier/proxiertest"
	"switchyard/userspace"
	"switchyard/userspace/relay"
)

// translator is a backend that makes rules.
type translator struct {
	name   string
	tables func(*proxier.State, proxier.Settings) (ruleset.Tables, error)
	// disagree says in what a trace differs from a fate, "" if in nothing.
	disagree func(p proxier.Packet, want proxier.Fate, got []ruleset.Outcome) string
	// pins: the rules hold a client's affinity.
	pins bool
}

var translators = []translator{
	{"iptables", iptables.Tables, disagreement, true},
	{"iptables without xt_bpf", iptables.TablesWithoutBPF, disagreement, true},
	{"userspace", userspace.Tables, relayDisagreement, false},
}

// translation follows packets through the rules of a stage's States, of each
// backend.
type translation struct {
	stage  *stage
	tables map[string]map[proxier.Family]ruleset.Tables
}

func newTranslation(t testing.TB, st *stage) *translation {
	t.Helper()
	tr := &translation{st, map[string]map[proxier.Family]ruleset.Tables{}}
	for _, by := range translators {
		tr.tables[by.name] = map[proxier.Family]ruleset.Tables{}
		for f, state := range st.states {
			tables, err := by.tables(state, st.options.Backend)
			if err != nil {
				t.Fatalf("%s: %v", by.name, err)
			}
			tr.tables[by.name][f] = tables
		}
	}
	return tr
}

// world is the laboratory's node, as rules see it. Loopback addresses are local
// in the kernel's table too.
func (tr *translation) world(f proxier.Family, remembered map[string]bool) ruleset.World {
	n := &tr.stage.states[f].Node
	return ruleset.World{
		Local:  n.IsLocal,
		Recent: func(list string, _ netip.Addr) bool { return remembered[list] },
	}
}

// compare fails if some backend's rules and State.Decide disagree about a packet.
func (tr *translation) compare(t testing.TB, p proxier.Packet, what string) {
	t.Helper()
	f := proxier.FamilyOf(p.Dst.Addr())
	want := tr.stage.states[f].Decide(p)
	for _, by := range translators {
		got := tr.tables[by.name][f].Trace(p, tr.world(f, nil))
		if diff := by.disagree(p, want, got); diff != "" {
			t.Errorf("%s: %s: %s %s -> %s (in %q): %s\nDecide: %s\ntraced: %v",
				by.name, what, p.Protocol, p.Src, p.Dst, p.In, diff, want, got)
			continue
		}
		if by.pins {
			tr.compareAffinity(t, tr.tables[by.name][f], p, want)
		}
	}
}

// compareAffinity asks iptables' rules again for a client that is remembered: it must
// get the same endpoint for certain.
func (tr *translation) compareAffinity(t testing.TB, tables ruleset.Tables, p proxier.Packet, want proxier.Fate) {
	t.Helper()
	if want.Verdict != proxier.Forward || want.Service.Affinity == 0 {
		return
	}
	f := proxier.FamilyOf(p.Dst.Addr())
	for _, first := range tables.Trace(p, tr.world(f, nil)) {
		if first.Remember == "" {
			t.Errorf("%s -> %s: nothing remembers the client of %s", p.Src, p.Dst, first.To)
			return
		}
		again := tables.Trace(p, tr.world(f, map[string]bool{first.Remember: true}))
		if len(again) != 1 || again[0].To != first.To {
			t.Errorf("%s -> %s: went to %s, then to %v", p.Src, p.Dst, first.To, again)
			return
		}
	}
}

// disagreement says in what a trace differs from a fate, "" if in nothing.
func disagreement(p proxier.Packet, want proxier.Fate, got []ruleset.Outcome) string {
	if want.Verdict != proxier.Forward {
		if len(got) != 1 || got[0].Verdict != want.Verdict || got[0].Masq {
			return "other verdict"
		}
		return ""
	}
	if len(got) != len(want.Endpoints) {
		return fmt.Sprintf("%d endpoints, not %d", len(got), len(want.Endpoints))
	}
	for _, ep := range want.Endpoints {
		i := slices.IndexFunc(got, func(o ruleset.Outcome) bool { return o.To == ep.Addr && o.Verdict == proxier.Forward })
		if i < 0 {
			return "never " + ep.Addr.String()
		}
		if got[i].Masq != want.Masquerades(ep) {
			return fmt.Sprintf("%s: masquerade %t", ep.Addr, got[i].Masq)
		}
		if share := shareOf(ep, want.Endpoints); math.Abs(got[i].Probability-share) > 1e-6 {
			return fmt.Sprintf("%s: share %g, not %g", ep.Addr, got[i].Probability, share)
		}
	}
	return ""
}

// shareOf is the part of new connections that is an endpoint's by its weight.
func shareOf(ep proxier.Endpoint, all []proxier.Endpoint) float64 {
	whole := 0
	for _, e := range all {
		whole += e.Share()
	}
	return float64(ep.Share()) / float64(whole)
}

// relayDisagreement is disagreement where the rules only lead packets to the relay,
// which chooses the endpoint by the same Decide.
func relayDisagreement(_ proxier.Packet, want proxier.Fate, got []ruleset.Outcome) string {
	switch {
	case len(got) != 1 || got[0].Verdict != want.Verdict:
		return "other verdict"
	case want.Verdict == proxier.Forward && got[0].To.Port() != relay.Port:
		return "not led to the relay"
	}
	return ""
}

// squarePackets is how many random packets the square is tested with.
func squarePackets() int {
	if os.Getenv("CI") != "" {
		return 200_000
	}
	return 40_000
}

// seed is the random seed: SEED in the environment, else the clock.
func seed(t testing.TB) uint64 {
	n, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		n = uint64(time.Now().UnixNano())
	}
	t.Logf("SEED=%d", n)
	return n
}

// TestSquare holds that the square commutes: trace(render(state), p) is
// state.Decide(p), for random clusters, flags and packets.
func TestSquare(t *testing.T) {
	const perCluster = 100
	first := seed(t)
	verdicts := map[proxier.Verdict]int{}
	for n := 0; n < squarePackets(); n += perCluster {
		s := first + uint64(n)
		rng := rand.New(rand.NewPCG(s, 0))
		objects := proxiertest.Random(s)
		st := stageOf(t, objects, proxiertest.RandomFlags(rng))
		tr, traffic := newTranslation(t, &st), proxiertest.TrafficTo(objects)
		for range perCluster {
			p := traffic.Packet(rng).Packet
			verdicts[st.states[proxier.FamilyOf(p.Dst.Addr())].Decide(p).Verdict]++
			tr.compare(t, p, fmt.Sprintf("SEED=%d", s))
		}
		if t.Failed() {
			return
		}
	}
	for _, v := range []proxier.Verdict{proxier.Pass, proxier.Reject, proxier.Drop, proxier.Forward} {
		if share := float64(verdicts[v]) / float64(squarePackets()); share < 0.02 {
			t.Errorf("only %.1f %% of the packets %s: the generator does not ask", 100*share, v)
		}
	}
	t.Logf("verdicts: %v", verdicts)
}
