package ipvs

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"switchyard/ipvs/dummy"
	"switchyard/ipvs/ipset"
	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

var errInjected = errors.New("injected")

// failuresOf are what calls can fail with: for one thing, or for want of an answer,
// after which nothing is known.
var failuresOf = []error{errInjected, vs.ErrNoAnswer, ipset.ErrNoAnswer, vs.ErrNoServer, ipset.ErrNoSet, dummy.ErrNoDevice}

// TestFaults has one call in ten fail, or go without an answer: with patience, what is
// wanted gets in.
func TestFaults(t *testing.T) {
	faults := 0
	for seed := range uint64(40) {
		e, k := evolve(seed, proxier.IPv4), newFake()
		b := k.backend(proxier.IPv4)
		rng := rand.New(rand.NewPCG(seed, 1))
		for range 5 {
			want := e.next()
			k.fault = func(op string) error {
				if rng.IntN(10) != 0 {
					return nil
				}
				faults++
				if oneWrite := strings.Contains(op, "server TCP") || strings.Contains(op, "server UDP"); oneWrite {
					return errInjected // a whole batch has one answer, or none
				}
				return failuresOf[rng.IntN(len(failuresOf))]
			}
			for try := 0; ; try++ {
				r, err := b.Apply(t.Context(), want)
				if err == nil && len(r.SetAside) == 0 {
					break
				}
				if try > 300 {
					t.Fatalf("seed %d: does not converge: %v, set aside %v", seed, err, r.SetAside)
				}
			}
			k.fault = nil
			b.watch.sweep = time.Time{} // what could not be counted was left to drain
			if err := b.sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got, want := k.String(), fresh(t, want); got != want {
				t.Fatalf("seed %d:\n%s", seed, difference(got, want))
			}
		}
	}
	if faults < 100 {
		t.Errorf("only %d faults", faults)
	}
}

// TestKilled ends the process after each of its writes. At no such moment does an
// address answer without what guards it, and the next start puts all right.
func TestKilled(t *testing.T) {
	e := evolve(3, proxier.IPv4)
	first, second := e.next(), e.next()
	for n := 0; ; n++ {
		k := newFake()
		apply(t, k.backend(proxier.IPv4), first)
		left := n
		dead := false
		k.fault = func(op string) error {
			writes := isWrite(op)
			if dead = dead || writes && left == 0; dead {
				return vs.ErrNoAnswer
			}
			if writes {
				left--
			}
			return nil
		}
		_, err := k.backend(proxier.IPv4).Apply(t.Context(), second)
		if err == nil {
			t.Logf("%d writes", n)
			return
		}
		k.fault = nil
		guarded(t, k, second)
		apply(t, k.backend(proxier.IPv4), second)
		if got, want := k.String(), fresh(t, second); got != want {
			t.Fatalf("killed after %d writes:\n%s", n, difference(got, want))
		}
	}
}

// guarded fails if some address is served that a set should close first.
func guarded(t *testing.T, k *fakeKernel, want *proxier.State) {
	t.Helper()
	m := newMemory(want.Family, &Config{Scheduler: "rr"})
	m.move(want)
	for _, r := range m.services {
		for _, p := range r.portals {
			s := k.servers[p.servers[0].key]
			if s == nil || len(s.pool) == 0 || !slices.EqualFunc(p.servers[0].pool, poolOf(s), sameDestination) {
				continue // as it was before
			}
			for _, e := range p.entries {
				closes := e.set == firewalled || e.set == dropped || e.set == noLocal
				if closes && !k.sets[e.set.name(want.Family)].entries[e.entry] {
					t.Errorf("%s is served, and is not yet in %s", p.servers[0].key, e.set.name(want.Family))
				}
			}
		}
	}
	for addr := range k.addrs {
		if !alternateRange(want.Family).Contains(addr) && !k.sets[held.name(want.Family)].entries[ipset.Entry{Addr: addr}] {
			t.Errorf("the node's programs are reached at %s", addr)
		}
	}
	for _, e := range []set{shortExternal, shortBalancer} {
		if k.sets[e.name(want.Family)] == nil {
			continue
		}
		for entry := range k.sets[e.name(want.Family)].entries {
			at := netip.AddrPortFrom(alternate(entry.Addr), entry.Port)
			if k.servers[vs.At(entry.Protocol, at)] == nil || !k.addrs[at.Addr()] {
				t.Errorf("%s sends packets to %s, where nobody is", e.name(want.Family), at)
			}
		}
	}
}

func poolOf(s *fakeServer) []vs.Destination {
	var out []vs.Destination
	for _, d := range s.pool {
		out = append(out, d.Destination)
	}
	slices.SortFunc(out, func(a, b vs.Destination) int { return a.Addr.Compare(b.Addr) })
	return out
}

func sameDestination(a, b vs.Destination) bool { return a == b }

// TestEveryWrite has each write of a change fail in turn, in a process that lives on:
// for one thing only, each time that it is tried, or without an answer. What belongs to
// other services is in place all the same; the next Apply puts the rest in, and the one
// after that finds nothing to do.
func TestEveryWrite(t *testing.T) {
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		for _, cause := range []error{errInjected, vs.ErrNoAnswer} {
			writes := 0
			for seed := range uint64(4) {
				e := evolve(seed, family)
				first, second := e.next(), e.next()
				n := 0
				for everyWrite(t, first, second, n, cause) {
					n++
				}
				writes += n
			}
			if writes < 200 {
				t.Errorf("%s, %v: only %d writes", family, cause, writes)
			}
		}
	}
}

// everyWrite has write n of the way from one State to the next fail, and reports
// whether there is one.
func everyWrite(t *testing.T, first, second *proxier.State, n int, cause error) bool {
	t.Helper()
	k := newFake()
	b := k.backend(first.Family)
	apply(t, b, first)
	bad, left := "", n
	k.fault = func(op string) error {
		if isWrite(op) {
			if left == 0 {
				bad = op
			}
			left--
		}
		if bad != "" && op == bad {
			return cause
		}
		return nil
	}
	r, err := b.Apply(t.Context(), second)
	k.fault = nil
	if bad == "" {
		if err != nil || len(r.SetAside) > 0 {
			t.Errorf("without a fault: %v, set aside %v", err, r.SetAside)
		}
		return false
	}
	if err == nil && len(r.SetAside) == 0 && strings.HasPrefix(bad, "add ") {
		t.Errorf("write %d, %q, failed each time, and nothing is said of it", n, bad)
	}
	guarded(t, k, second)
	if err == nil {
		othersStand(t, k, second, r.SetAside)
	}
	if t.Failed() {
		t.Fatalf("while write %d, %.300q, failed with %v: %v, set aside %v", n, bad, cause, err, r.SetAside)
	}
	if r := apply(t, b, second); len(r.SetAside) > 0 || k.String() != fresh(t, second) {
		t.Fatalf("after write %d, %q, failed with %v: set aside %v\n%s", n, bad, cause, r.SetAside, difference(k.String(), fresh(t, second)))
	}
	if r := apply(t, b, second); r.Operations != 0 {
		t.Errorf("after write %d, %q: %d operations where nothing changed", n, bad, r.Operations)
	}
	return true
}

// isWrite tells a fault's question about a write from those about listings, and about
// many writes at once.
func isWrite(op string) bool {
	return !strings.HasPrefix(op, "list") && !strings.HasPrefix(op, "save") && !strings.HasPrefix(op, "ensure device") && op != "batch"
}

// othersStand fails if something that belongs to a service which is not set aside is
// not in the kernel.
func othersStand(t *testing.T, k *fakeKernel, want *proxier.State, aside []proxier.SetAside) {
	t.Helper()
	m := newMemory(want.Family, &Config{Scheduler: "rr"})
	m.move(want)
	isAside := func(s *proxier.Service) bool {
		return s != nil && slices.ContainsFunc(aside, func(a proxier.SetAside) bool { return a.Service == s.Name && a.Protocol == s.Protocol })
	}
	for _, r := range m.services {
		if isAside(r.service) {
			continue
		}
		for _, p := range r.portals {
			if m.servers[p.servers[0].key].service == r.service { // no other has won it
				portalStands(t, k, p, want.Family)
			}
		}
		for _, e := range r.entries {
			if !k.sets[e.set.name(want.Family)].entries[e.entry] {
				t.Errorf("%s: set %s lacks %s", r.service.Name, e.set.name(want.Family), e.entry)
			}
		}
	}
}

func portalStands(t *testing.T, k *fakeKernel, p *portal, family proxier.Family) {
	t.Helper()
	for _, s := range p.servers {
		if is := k.servers[s.key]; is == nil || !slices.EqualFunc(s.pool, poolOf(is), sameDestination) {
			t.Errorf("%s: %s is not as wanted", p.service.Name, s.key)
		}
	}
	for _, addr := range p.addrs {
		if !k.addrs[addr] {
			t.Errorf("%s: address %s is missing", p.service.Name, addr)
		}
	}
	for _, e := range p.entries {
		if !k.sets[e.set.name(family)].entries[e.entry] {
			t.Errorf("%s: set %s lacks %s", p.service.Name, e.set.name(family), e.entry)
		}
	}
}
