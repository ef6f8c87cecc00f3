package iptables

import (
	"fmt"
	"testing"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// The first start on a node whose rules have a chain for each endpoint (upstream's,
// an older version's, or a kernel without xt_bpf): after each COMMIT every packet
// fares as before, hairpin too, and at the end no such chain is left over.
func TestRulesWithAndWithoutBPFTakeOver(t *testing.T) {
	followed := 0
	for seed := range uint64(24) {
		family := []proxier.Family{proxier.IPv4, proxier.IPv6}[seed%2]
		e := evolve(seed, family)
		e.steady = true
		followed += checkTakeOver(t, seed%4 < 2, e.next())
		if t.Failed() {
			t.Fatalf("seed %d, %s", seed, family)
		}
	}
	if t.Logf("%d packets followed", followed); followed == 0 {
		t.Error("no packet was followed")
	}
}

func checkTakeOver(t *testing.T, nft bool, s *proxier.State) (followed int) {
	t.Helper()
	k := newFake(nft)
	old := k.backend()
	old.config.Itself = 0
	noneAside(t, mustApply(t, old, s))

	packets := append(probes(s), toThemselves(s)...)
	before := map[proxier.Packet]string{}
	for _, p := range packets {
		before[p] = waysOf(k.traced(t), p)
	}
	k.onCommit = func(string, fakeTable) {
		tables := k.traced(t)
		for _, p := range packets {
			if now := waysOf(tables, p); now != before[p] {
				t.Errorf("%v: fared %s, now %s", p, before[p], now)
			}
			followed++
		}
	}
	b := k.backend()
	if nft {
		b.perCommit = 8
	}
	noneAside(t, mustApply(t, b, s))
	k.onCommit = nil
	checkEnd(t, k, s)
	checkQuiet(t, k, b, s)
	return followed
}

// toThemselves are packets of endpoints to their own services.
func toThemselves(s *proxier.State) (out []proxier.Packet) {
	for _, svc := range s.Services {
		for _, dst := range destinations(s, svc) {
			for _, ep := range svc.Cluster[:min(2, len(svc.Cluster))] {
				out = append(out, proxier.Packet{Protocol: svc.Protocol, Src: ep.Addr.Addr(), Dst: dst, In: "eth0"})
			}
		}
	}
	return out
}

// waysOf tells every way in which a packet can end.
func waysOf(tables ruleset.Tables, p proxier.Packet) string {
	odds := map[string]float64{}
	for _, o := range tables.Trace(p, ruleset.World{Local: isLabLocal}) {
		odds[fmt.Sprintf("%d %s masq %v %q", o.Verdict, o.To, o.Masq, o.Remember)] += o.Probability
	}
	text := map[string]string{}
	for way, chance := range odds {
		text[way] = fmt.Sprintf("%.6f", chance)
	}
	return fmt.Sprint(text) // sorted by key
}
