package iptables

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// maxShareError is how far an endpoint's share may be from 1/n. The kernel's
// chances are multiples of 2^-31: a service with one chain is far nearer.
const maxShareError = 1e-6

func choiceSizes() []int {
	sizes := []int{1000, 5000}
	for n := 1; n <= 300; n++ {
		sizes = append(sizes, n)
	}
	return sizes
}

func oneService(n int, affinity time.Duration) *proxier.State {
	s := plainState(1, n)
	return edited(s, 0, func(svc *proxier.Service) { svc.Affinity = affinity })
}

// outcomesOf traces a pod's packet to the State's only service.
func outcomesOf(t *testing.T, s *proxier.State, recent func(string, netip.Addr) bool) []ruleset.Outcome {
	t.Helper()
	tables, err := Tables(s, proxier.Settings{MasqueradeBit: 14})
	if err != nil {
		t.Fatal(err)
	}
	for table, chains := range tables {
		for name, rules := range chains {
			if len(rules) > maxChain {
				t.Errorf("%d endpoints: %s %s has %d rules", len(s.Services[0].Cluster), table, name, len(rules))
			}
		}
	}
	packet := proxier.Packet{Protocol: proxier.TCP, Src: netip.MustParseAddr("10.250.0.9"), Dst: plainVIP(0), In: "cni0"}
	return tables.Trace(packet, ruleset.World{Local: s.Node.IsLocal, Recent: recent})
}

func TestEveryEndpointHasItsShare(t *testing.T) {
	worst := 0.0
	for _, affinity := range []time.Duration{0, 3 * time.Hour} {
		for _, n := range choiceSizes() {
			s := oneService(n, affinity)
			shares := map[netip.AddrPort]float64{}
			for _, o := range outcomesOf(t, s, nil) {
				if o.Verdict != proxier.Forward || (o.Remember != "") != (affinity > 0) {
					t.Fatalf("%d endpoints: %+v", n, o)
				}
				shares[o.To] += o.Probability
			}
			for _, ep := range s.Services[0].Cluster {
				off := math.Abs(shares[ep.Addr] - 1/float64(n))
				if worst = max(worst, off); off > maxShareError {
					t.Errorf("%d endpoints: %s gets %.9f, want %.9f", n, ep, shares[ep.Addr], 1/float64(n))
				}
			}
			if len(shares) != n {
				t.Errorf("%d endpoints: %d get something", n, len(shares))
			}
		}
	}
	t.Logf("farthest from 1/n: %.2g", worst)
}

// Weights are shares: an endpoint of weight 3 gets three times as much as one
// without, in one chain and in groups.
func TestWeightsAreShares(t *testing.T) {
	for _, n := range []int{1, 2, 3, 75, 76, 300, 5000} {
		whole := 0
		s := edited(plainState(1, n), 0, func(svc *proxier.Service) {
			svc.Cluster = slices.Clone(svc.Cluster)
			for i := range svc.Cluster {
				svc.Cluster[i].Weight = []uint16{0, 3, 65535, 100}[i%4]
				whole += svc.Cluster[i].Share()
			}
		})
		shares := map[netip.AddrPort]float64{}
		for _, o := range outcomesOf(t, s, nil) {
			shares[o.To] += o.Probability
		}
		for _, ep := range s.Services[0].Cluster {
			want := float64(ep.Share()) / float64(whole)
			if got := shares[ep.Addr]; math.Abs(got-want) > maxShareError || got == 0 {
				t.Errorf("%d endpoints: %s gets %.9f, want %.9f", n, ep, got, want)
			}
		}
	}
}

// A client that was seen goes to the endpoint that saw it, however many there are;
// one that went to two endpoints, to either.
func TestRememberedClientKeepsItsEndpoint(t *testing.T) {
	for _, n := range []int{1, 2, 100, 101, 1000, 5000} {
		s := oneService(n, time.Hour)
		svc := s.Services[0]
		for _, i := range []int{0, n / 2, n - 1} {
			list := endpointChain(svc.Name.String()+"tcp", svc.Cluster[i])
			got := outcomesOf(t, s, func(name string, _ netip.Addr) bool { return name == list })
			if len(got) != 1 || got[0].To != svc.Cluster[i].Addr || got[0].Remember != list {
				t.Errorf("%d endpoints, client of %s: %d outcomes, first %+v", n, svc.Cluster[i], len(got), got[0])
			}
		}
	}
}

// A change of one endpoint of many rewrites a part of the choice only.
func TestOneEndpointOfManyRewritesLittle(t *testing.T) {
	for _, affinity := range []time.Duration{0, time.Hour} {
		for _, n := range []int{99, 100, 101, 102, 1000, 5000} {
			was := oneService(n, affinity)
			for name, is := range map[string]*proxier.State{
				"one less":     edited(was, 0, lessOne),
				"one more":     edited(was, 0, func(s *proxier.Service) { s.Cluster = plainEndpoints(0, n+1) }),
				"one replaced": edited(was, 0, func(s *proxier.Service) { s.Cluster = plainEndpoints(1, n) }),
			} {
				input := inputBetween(t, was, is)
				if input.Lines >= 300 || input.Lines == 0 {
					t.Errorf("%d endpoints, affinity %v, %s: %d lines", n, affinity, name, input.Lines)
				}
				if n == 5000 {
					t.Logf("%d endpoints, affinity %v, %s: %d lines", n, affinity, name, input.Lines)
				}
			}
		}
	}
}

// inputBetween is what gets a kernel that holds one State to another.
func inputBetween(t testing.TB, was, is *proxier.State) ruleset.Input {
	t.Helper()
	h := ruleset.NewHasher()
	first := newPlan(emptyMemory(), was, testConfig, h)
	second := newPlan(first.learn(), is, testConfig, h)
	if len(first.failed)+len(second.failed) > 0 {
		t.Fatalf("not rendered: %v", slices.Concat(first.failed, second.failed))
	}
	return ruleset.Print(second.changes(), nftCommit)
}

// The order of endpoints and the family do not matter to who is in which group.
func TestGroupsAreDisjointAndWhole(t *testing.T) {
	for _, n := range []int{100, 101, 3300, 5000} {
		var targets []target
		for i, ep := range many(proxier.IPv6, n) {
			targets = append(targets, target{endpointChain(fmt.Sprint("default/web", i%2), ep), ep})
		}
		g := grouped("", targets)
		seen := map[string]int{}
		var walk func(g *group)
		walk = func(g *group) {
			for i := range g.groups {
				walk(&g.groups[i])
			}
			if g.groups != nil {
				return
			}
			for _, target := range g.targets {
				seen[target.chain]++
			}
		}
		walk(&g)
		for _, target := range targets {
			if seen[target.chain] != 1 {
				t.Fatalf("%d endpoints: %s is in %d groups", n, target.chain, seen[target.chain])
			}
		}
	}
}
