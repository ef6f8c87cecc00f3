package iptables

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// walk is a way through States.
type walk struct {
	name   string
	states []*proxier.State
	last   *proxier.State
}

// walks are a cluster's States in sequence, reversed, and squashed to a few.
func walks(seed uint64, family proxier.Family, length int) []walk {
	e := evolve(seed, family)
	var forth []*proxier.State
	for range length {
		forth = append(forth, e.next())
	}
	back := slices.Clone(forth)
	slices.Reverse(back)
	var squashed []*proxier.State
	for i := 0; i < length; i += 1 + e.rng.IntN(4) {
		squashed = append(squashed, forth[i])
	}
	return []walk{
		{"in sequence", forth, forth[length-1]},
		{"reversed", back, forth[0]},
		{"squashed", squashed, forth[length-1]},
	}
}

// faults makes one kernel call in ten fail: with the lock held, killed, or refused
// for no reason; before or between the COMMITs of an input.
func faults(rng *rand.Rand) func(int) error {
	return func(int) error {
		if rng.IntN(10) > 0 {
			return nil
		}
		switch rng.IntN(3) {
		case 0:
			return lockHeld()
		case 1:
			return errors.New("run iptables-restore: signal: killed")
		}
		return &ruleset.RestoreError{Table: "nat", Line: 1, Lines: []int{1}, Text: "*nat", Status: 1, Stderr: "line 1 failed"}
	}
}

// However the way was, with failures on it and forgetting in between: what stands
// at the end is what the last State makes of an empty kernel, and what others keep
// there stands as it did.
func TestWalksEndWhereTheyShould(t *testing.T) {
	failed, applied := 0, 0
	for seed := range uint64(40) {
		family := []proxier.Family{proxier.IPv4, proxier.IPv6}[seed%2]
		for _, w := range walks(seed, family, 10) {
			t.Run(fmt.Sprintf("seed %d %s", seed, w.name), func(t *testing.T) {
				f, a := checkWalk(t, w, seed)
				failed, applied = failed+f, applied+a
			})
		}
	}
	t.Logf("%d of %d applies failed on the way", failed, applied)
	if failed == 0 {
		t.Error("no fault was injected")
	}
}

func checkWalk(t *testing.T, w walk, seed uint64) (failed, applied int) {
	rng := rand.New(rand.NewPCG(seed, 0xfa))
	k := newFake(seed%4 < 2)
	b := k.backend()
	for _, s := range w.states {
		switch rng.IntN(8) {
		case 0:
			b.Forget()
		case 1:
			b = k.backend() // killed and started again
		}
		k.fault = faults(rng)
		_, err := b.Apply(t.Context(), s)
		if applied++; err != nil {
			failed++
		}
	}
	k.fault = nil
	noneAside(t, mustApply(t, b, w.last))
	checkEnd(t, k, w.last)
	checkQuiet(t, k, b, w.last)
	return failed, applied
}

// checkEnd compares the kernel with a fresh one that holds the State.
func checkEnd(t *testing.T, k *fakeKernel, s *proxier.State) {
	t.Helper()
	fresh := newFake(k.nft)
	mustApply(t, fresh.backend(), s)
	got, want := comparable(k.dumps()), comparable(fresh.dumps())
	if got != want {
		t.Errorf("ends with other tables: %s", firstDifference(got, want))
	}
	for line := range strings.Lines(foreignDump) {
		if !strings.Contains(k.dumps(), line) {
			t.Errorf("of others, lost: %s", line)
		}
	}
}

// comparable is a dump with the rules of base chains in order, since those of ours
// stand in the order in which they were missing; and without the guard of loopback,
// which stays when localhost no longer has node ports: the sysctl that it makes up
// for stays as well.
func comparable(dump string) string {
	lines := strings.SplitAfter(dump, "\n")
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, "block incoming localnet") })
	slices.SortStableFunc(lines, func(a, b string) int {
		if !strings.HasPrefix(a, "-A KUBE") && !strings.HasPrefix(b, "-A KUBE") {
			return strings.Compare(a, b)
		}
		return strings.Compare(chainOfLine(a), chainOfLine(b))
	})
	return strings.Join(lines, "")
}

func chainOfLine(line string) string {
	fields := strings.Fields(line)
	return strings.Join(fields[:min(2, len(fields))], " ")
}

// checkQuiet applies the same State again, and after a restart: neither writes.
func checkQuiet(t *testing.T, k *fakeKernel, b *Backend, s *proxier.State) {
	t.Helper()
	before, restores, writes := k.dumps(), len(k.restores), k.writes
	for name, b := range map[string]*Backend{"again": b, "after a restart": k.backend()} {
		report := mustApply(t, b, s)
		if report.Operations != 0 || len(report.Written)+len(report.Deleted) > 0 {
			t.Errorf("%s: %d operations, wrote %v, deleted %v", name, report.Operations, report.Written, report.Deleted)
		}
		if what, err := b.Drifted(t.Context()); what != "" || err != nil {
			t.Errorf("%s: drifted: %q, %v", name, what, err)
		}
	}
	if k.dumps() != before || len(k.restores) != restores || k.writes != writes {
		t.Errorf("unchanged State, but %d restores, %d writes", len(k.restores)-restores, k.writes-writes)
	}
}

// An Apply that was cancelled says so, and the next one carries on.
func TestCancelledApply(t *testing.T) {
	k := newFake(true)
	b := k.backend()
	ctx, cancel := context.WithCancel(t.Context())
	k.fault = func(commit int) error {
		if commit == 1 {
			cancel()
			return fmt.Errorf("run iptables-restore: %w", context.Canceled)
		}
		return nil
	}
	s := plainState(20, 2)
	if _, err := b.Apply(ctx, s); !errors.Is(err, context.Canceled) {
		t.Fatalf("apply: %v, want the context's error", err)
	}
	k.fault = nil
	noneAside(t, mustApply(t, b, s))
	checkEnd(t, k, s)
}

// What the reports say.
func TestReport(t *testing.T) {
	k := newFake(true)
	b := k.backend()
	first := mustApply(t, b, plainState(5, 2))
	if !first.Full || first.Operations == 0 || first.Written["chains"] == 0 || first.Written["rules"] == 0 {
		t.Errorf("first: %+v", first)
	}
	was := b.accepted
	second := mustApply(t, b, edited(was, 2, lessOne))
	if second.Full || second.Operations != 1 || second.Written["chains"] != 1 || second.Written["rules"] != 2 || second.Deleted["chains"] != 0 {
		t.Errorf("one endpoint less: %+v", second)
	}
	chains, rules := 0, map[string]int{}
	for table := range k.tables {
		for name, stands := range k.tables[table] {
			if owns(table, name) {
				chains++
				rules[table] += len(stands)
			}
		}
	}
	if got := second.Total["chains"]; got != chains || second.Total["rules"] != rules["nat"]+rules["filter"] {
		t.Errorf("reports %v; %d chains stand, rules %v", second.Total, chains, rules)
	}
	if got, want := second.Rules["nat"], (proxier.RuleCount{Written: 2, Total: rules["nat"]}); got != want {
		t.Errorf("nat: %+v, want %+v", got, want)
	}
	if got, want := second.Rules["filter"], (proxier.RuleCount{Total: rules["filter"]}); got != want {
		t.Errorf("filter: %+v, want %+v", got, want)
	}
	b.Forget()
	if again := mustApply(t, b, b.accepted); !again.Full || again.Operations != 0 {
		t.Errorf("after forgetting: %+v", again)
	}
}
