package userspace

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/test/netlab"
)

// rulesOf is a dump without what counts packets or time.
func plain(dump string) string {
	dump = regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(dump, "")
	return regexp.MustCompile(`\[\d+:\d+\]`).ReplaceAllString(dump, "")
}

// TestRestartWritesNothing holds that a process that finds the rules as it wants them
// leaves them, and that cleanup takes out ours and nothing else.
func TestRestartWritesNothing(t *testing.T) {
	l := newLab(t)
	foreign := "iptables-nft -t nat -N FOREIGN; iptables-nft -t nat -A FOREIGN -d 192.0.2.1 -j RETURN; " +
		"iptables-nft -t nat -A PREROUTING -j FOREIGN; iptables-nft -A INPUT -s 192.0.2.2 -j DROP"
	if _, err := l.Host(netlab.NodeA).Output(context.Background(), "sh", "-ec", foreign); err != nil {
		t.Fatal(err)
	}
	before := plain(l.save())
	state := stateOf(web(proxier.TCP, endpointsOn(8080, "pod-a1")...), nodePort(30080), guarded())
	slices.SortFunc(state.Services, (*proxier.Service).Compare)
	b := l.open(proxier.Settings{MasqueradeBit: 14})
	if r := l.apply(b, state); r.Operations == 0 {
		t.Errorf("the first apply wrote nothing: %+v", r)
	}
	if r := l.apply(b, state); r.Operations != 0 {
		t.Errorf("an apply without a change wrote: %+v", r)
	}
	standing := l.save()
	next := l.open(proxier.Settings{MasqueradeBit: 14})
	if r := l.apply(next, state); r.Operations != 0 || len(r.Written)+len(r.Deleted) != 0 || !r.Full {
		t.Errorf("a restart wrote: %+v", r)
	}
	if got := l.save(); plain(got) != plain(standing) {
		t.Errorf("a restart changed the rules to\n%s", got)
	}
	l.on(func() error {
		_, err := cleanup(context.Background())
		return err
	})
	if got := plain(l.save()); got != before {
		t.Errorf("after cleanup there is\n%s\nbefore there was\n%s", got, before)
	}
}

func nodePort(port uint16) *proxier.Service {
	s := web(proxier.TCP, endpointsOn(8080, "pod-a1")...)
	s.Name.Service = "port"
	s.Frontends = []proxier.Frontend{{Kind: proxier.NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, port), Routes: s.Frontends[0].Routes}}
	return s
}

// guarded has more source ranges than a chain may have rules.
func guarded() *proxier.Service {
	s := web(proxier.TCP, endpointsOn(8080, "pod-a1")...)
	s.Name.Service = "guarded"
	f := &s.Frontends[0]
	f.Kind, f.Addr = proxier.LoadBalancer, netip.MustParseAddrPort("198.51.100.7:80")
	for i := range 600 {
		f.Allow = append(f.Allow, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i / 250), byte(i % 250), 0}), 24))
	}
	return s
}

// TestDrift holds that what others do to our rules is noticed and repaired, and what
// they do elsewhere is not taken for it.
func TestDrift(t *testing.T) {
	l := newLab(t)
	b := l.open(proxier.Settings{MasqueradeBit: 14})
	state := stateOf(web(proxier.TCP, endpointsOn(8080, "pod-a1")...))
	l.apply(b, state)
	drifted := func() (what string) {
		l.on(func() (err error) {
			what, err = b.Drifted(context.Background())
			return err
		})
		return what
	}
	sh := func(command string) {
		if _, err := l.Host(netlab.NodeA).Output(context.Background(), "sh", "-ec", command); err != nil {
			t.Fatal(err)
		}
	}
	if what := drifted(); what != "" {
		t.Errorf("drifted at once: %s", what)
	}
	sh("iptables-nft -t nat -N ELSEWHERE")
	if what := drifted(); what != "" {
		t.Errorf("drifted by a chain of others: %s", what)
	}
	for command, want := range map[string]string{
		"iptables-nft -t nat -F KUBE-PORTALS": "nat KUBE-PORTALS",
		"iptables-nft -t nat -F PREROUTING":   "PREROUTING",
	} {
		sh(command)
		what := drifted()
		for end := time.Now().Add(5 * time.Second); what == "" && time.Now().Before(end); what = drifted() {
			time.Sleep(50 * time.Millisecond) // a slow comparison is not made again at once
		}
		if !strings.Contains(what, want) {
			t.Errorf("after %q: %q", command, what)
		}
		if r := l.apply(b, state); r.Operations == 0 || r.Repaired == "" {
			t.Errorf("after %q nothing was repaired: %+v", command, r)
		}
	}
}

// many is a State with n services at scattered addresses.
func many(n int) *proxier.State {
	s := stateOf()
	for i := range n {
		svc := web(proxier.TCP, endpointsOn(8080, "pod-a1")...)
		svc.Name.Service = fmt.Sprintf("s%05d", i)
		h := i * 2654435761
		svc.Frontends[0].Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(96 + h>>16&15), byte(h >> 8), byte(h)}), 80)
		if i%10 == 0 {
			svc.Frontends[0].Routes = []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToReject}}
		}
		s.Services = append(s.Services, svc)
	}
	return s
}

// TestChainsAreShort holds the limit of 256 rules, and that each change ends where a
// fresh start would, with few chains written.
func TestChainsAreShort(t *testing.T) {
	config := configOf(proxier.Settings{MasqueradeBit: 14})
	h := ruleset.NewHasher()
	for _, n := range []int{0, 10, 200, 201, 5000} {
		base := many(n)
		m := newPlan(emptyMemory(), base, config, h).learn()
		for round := range 5 {
			next := stateOf(slices.Clone(base.Services)...)
			extra := many(n + 1).Services[n]
			extra.Name.Service = fmt.Sprintf("extra%d", round)
			next.Services = append(next.Services, extra)
			if n > 0 {
				next.Services = slices.Delete(next.Services, round*n/5, round*n/5+1)
			}
			slices.SortFunc(next.Services, (*proxier.Service).Compare)
			p := newPlan(m, next, config, h)
			if writes := shortWrites(t, p); writes > 20 && n != 200 && n != 201 {
				t.Errorf("%d services: one that comes and one that goes write %d chains", n, writes)
			}
			m = p.learn()
			fresh := newPlan(emptyMemory(), next, config, h).learn()
			if diff := m.held.difference(fresh.held); diff != "" {
				t.Fatalf("%d services, round %d: %s differs from a fresh start", n, round, diff)
			}
			base = next
		}
	}
}

// shortWrites counts the chains that a plan writes. None may be long.
func shortWrites(t *testing.T, p *plan) (n int) {
	for _, c := range p.changes() {
		for _, w := range c.Writes {
			if n++; w.Rules > 256 {
				t.Errorf("chain %s has %d rules", w.Name, w.Rules)
			}
		}
	}
	return n
}
