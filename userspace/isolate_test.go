package userspace

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/test/netlab"
)

// poisoned is a State in which some services ask for port 6667, which the kernels of
// these tests refuse.
func poisoned(s *proxier.State, which ...int) *proxier.State {
	p := &proxier.State{Family: s.Family, Node: s.Node, Services: slices.Clone(s.Services)}
	for _, i := range which {
		svc := *p.Services[i]
		svc.Frontends = slices.Clone(svc.Frontends)
		svc.Frontends[0].Addr = netip.AddrPortFrom(svc.Frontends[0].Addr.Addr(), 6667)
		p.Services[i] = &svc
	}
	return p
}

func omitting(s *proxier.State, which ...int) *proxier.State {
	p := &proxier.State{Family: s.Family, Node: s.Node}
	for i, svc := range s.Services {
		if !slices.Contains(which, i) {
			p.Services = append(p.Services, svc)
		}
	}
	return p
}

func is6667(_, line string) bool { return strings.Contains(line, "--dport 6667") }

func asideNames(r proxier.Report) (names []string) {
	for _, x := range r.SetAside {
		names = append(names, x.Service.Service)
	}
	return names
}

// TestPoison holds that services which the kernel refuses never stop the others,
// whether it names lines or not; that their older version stays, in the rules and in the
// relay; and that one that is mended goes in.
func TestPoison(t *testing.T) {
	good := many(300)
	for _, nft := range []bool{false, true} {
		for _, bad := range [][]int{{0}, {42}, {10, 299}, {3, 4, 5, 6, 7, 100, 200}} {
			t.Run(fmt.Sprintf("nft %t %v", nft, bad), func(t *testing.T) {
				k := newFake()
				k.nft, k.refuse = nft, is6667
				b := k.backend()
				var names []string
				for _, i := range bad {
					names = append(names, good.Services[i].Name.Service)
				}
				apply := func(s *proxier.State) proxier.Report {
					t.Helper()
					r, err := b.Apply(context.Background(), s)
					if err != nil {
						t.Fatal(err)
					}
					return r
				}
				spoilt := poisoned(good, bad...)
				if r := apply(spoilt); !slices.Equal(asideNames(r), names) {
					t.Fatalf("set aside %v, want %v", asideNames(r), names)
				}
				t.Logf("found in %d restores", k.restores)
				sameRules(t, k, omitting(good, bad...))
				before := k.restores
				more := &proxier.State{Family: spoilt.Family, Node: spoilt.Node,
					Services: append(slices.Clone(spoilt.Services), many(301).Services[300])}
				if r := apply(more); len(r.SetAside) != len(bad) || k.restores != before+1 {
					t.Errorf("another service took %d restores, set aside %v", k.restores-before, asideNames(r))
				}
				if r := apply(good); len(r.SetAside) != 0 {
					t.Errorf("mended, and set aside %v", asideNames(r))
				}
				k.lost = map[string]bool{}
				apply(spoilt)
				sameRules(t, k, good) // the older versions
				if known := b.relay.(*fakeRelay).knows; !slices.Equal(known.Services, good.Services) {
					t.Error("the relay does not know what the rules lead to")
				}
				for rule, lost := range k.lost {
					if lost {
						t.Errorf("was missing for a while: %s", rule)
					}
				}
			})
		}
	}
}

// TestPoisonAtStart holds that a process that finds rules, and a service that it cannot
// add to them, leaves what stands in place at every moment.
func TestPoisonAtStart(t *testing.T) {
	good := many(300)
	k := newFake()
	if _, err := k.backend().Apply(context.Background(), omitting(good, 42)); err != nil {
		t.Fatal(err)
	}
	k.refuse, k.lost = is6667, map[string]bool{}
	r, err := k.backend().Apply(context.Background(), poisoned(good, 42))
	if err != nil || len(r.SetAside) != 1 {
		t.Fatalf("%v, set aside %v", err, r.SetAside)
	}
	for rule, lost := range k.lost {
		if lost {
			t.Errorf("was missing for a while: %s", rule)
		}
	}
	sameRules(t, k, omitting(good, 42))
}

// TestOlderVersionOutlivesARestart holds that a process which starts while the kernel
// refuses a service leaves what stands of it, and has the relay serve it.
func TestOlderVersionOutlivesARestart(t *testing.T) {
	good := many(300)
	for _, nft := range []bool{false, true} {
		k := newFake()
		if _, err := k.backend().Apply(context.Background(), good); err != nil {
			t.Fatal(err)
		}
		k.nft, k.refuse, k.lost = nft, is6667, map[string]bool{}
		b := k.backend()
		spoilt := poisoned(good, 42)
		for _, s := range []*proxier.State{spoilt, omitting(spoilt, 50), spoilt} {
			r, err := b.Apply(context.Background(), s)
			if err != nil || !slices.Equal(asideNames(r), []string{"s00042"}) {
				t.Fatalf("%v, set aside %v", err, asideNames(r))
			}
		}
		sameRules(t, k, good)
		for rule, lost := range k.lost {
			if lost && strings.Contains(rule, "s00042") {
				t.Errorf("was missing for a while: %s", rule)
			}
		}
		if known := b.relay.(*fakeRelay).knows; !slices.Equal(known.Services, spoilt.Services) {
			t.Error("the relay does not know the service")
		}
		k.refuse = nil
		if r, err := b.Apply(context.Background(), spoilt); err != nil || len(r.SetAside) > 0 {
			t.Errorf("mended: %v, set aside %v", err, asideNames(r))
		}
		sameRules(t, k, spoilt)
	}
}

// TestRefusedWhateverIsAsked holds that a refusal which is no service's fault is an error.
func TestRefusedWhateverIsAsked(t *testing.T) {
	k := newFake()
	k.refuse = func(_, line string) bool { return strings.HasPrefix(line, "-A KUBE-PORTALS-HOST") }
	if r, err := k.backend().Apply(context.Background(), many(20)); err == nil {
		t.Errorf("no error: %+v", r)
	}
}

// sameRules compares a kernel with one that was given a State at once.
func sameRules(t *testing.T, k *fakeKernel, want *proxier.State) {
	t.Helper()
	fresh := newFake()
	if _, err := fresh.backend().Apply(context.Background(), want); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"nat", "filter"} {
		for name, rules := range fresh.tables[table] {
			if owns(table, name) && !slices.Equal(k.tables[table][name], rules) {
				t.Errorf("%s %s is\n%s\nwant\n%s", table, name, strings.Join(k.tables[table][name], "\n"), strings.Join(rules, "\n"))
			}
		}
		if len(k.tables[table]) != len(fresh.tables[table]) {
			t.Errorf("%s has %d chains, want %d", table, len(k.tables[table]), len(fresh.tables[table]))
		}
	}
}

// refusing stands before iptables-legacy-restore and refuses port 6667 as the legacy
// kernel refuses: naming the COMMIT.
const refusing = `#!/bin/sh
input=$(cat; echo .)
input=${input%%.}
line=$(printf '%%s' "$input" | awk '/--dport 6667/ { bad = 1 } /^COMMIT/ { if (bad) { print NR; exit } }')
if [ -n "$line" ]; then echo "iptables-restore: line $line failed" >&2; exit 1; fi
printf '%%s' "$input" | exec %s "$@"
`

// TestPoisonLegacy is the same by the legacy programs and the kernel's legacy tables.
func TestPoisonLegacy(t *testing.T) {
	const program = "iptables-legacy-restore"
	real, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("missing: %s; install the package iptables", program)
	}
	l := newLab(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, program), fmt.Appendf(nil, refusing, real), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	l.serve(proxier.TCP, 8080, "pod-a1")
	b := l.openLegacy()
	spoilt := many(50)
	spoilt.Services[7] = web(proxier.TCP, endpointsOn(8080, "pod-a1")...)
	spoilt.Services[7].Name.Service = "s00007"
	spoilt = poisoned(spoilt, 42)
	r := l.apply(b, spoilt)
	if names := asideNames(r); len(names) != 1 || names[0] != "s00042" {
		t.Fatalf("set aside %v", names)
	}
	t.Logf("%d restores, %d refused, in %s: %v", r.Operations, r.Refused, r.Took, r.SetAside[0])
	if got := l.probe(proxier.TCP); got.Verdict != netlab.Answered {
		t.Errorf("another service: %+v", got)
	}
	if r := l.apply(b, omitting(spoilt, 42)); r.Operations != 0 {
		t.Errorf("the others are not all in: %+v", r)
	}
}

// openLegacy starts a backend on node-a with the legacy programs.
func (l *lab) openLegacy() (b *Backend) {
	l.t.Helper()
	l.on(func() error {
		tool, err := ruleset.Find(context.Background(), proxier.IPv4, ruleset.Legacy)
		if err != nil {
			return err
		}
		r, _, err := relayOpen()
		b = New(tool, r, settings)
		return err
	})
	l.t.Cleanup(func() { _ = b.Close() })
	return b
}
