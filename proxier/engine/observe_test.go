package engine

import (
	"errors"
	"strings"
	"testing"
	"time"

	"switchyard/proxier"
)

func TestOneLineForAnApplyThatWrote(t *testing.T) {
	b := &fake{answer: func(call int) (proxier.Report, error) {
		if call == 0 {
			return proxier.Report{Operations: 2, Took: 30 * ms, Written: map[string]int{"chains": 7}, Deleted: map[string]int{"chains": 1}}, nil
		}
		return proxier.Report{}, nil
	}}
	trial{}.run(t, b, func(e *bench) {
		for range 3 {
			e.Changed()
			e.after(s)
		}
		e.begun(0, s, 2*s)
		e.logged(1)
		e.logged(1, "level=INFO", "msg=applied", "family=IPv4", "services=0", "operations=2", "written=map[chains:7]", "deleted=map[chains:1]", "took=30ms")
	})
}

func TestObserversSeeWhatTheKernelHeld(t *testing.T) {
	b := &fake{answer: func(call int) (proxier.Report, error) {
		if call == 2 {
			return proxier.Report{}, errors.New("no")
		}
		return proxier.Report{Operations: call}, nil
	}}
	trial{}.run(t, b, func(e *bench) {
		for range 4 { // 0, 10, 20 fails, 21, 30
			e.Changed()
			e.after(10 * s)
		}
		e.begun(0, 10*s, 20*s, 21*s, 30*s)
		got, states := e.seen.applied, b.states
		want := []applied{
			{next: states[0]}, {last: states[0], next: states[1]},
			{next: states[3]}, {last: states[3], next: states[4]},
		}
		if len(got) != len(want) {
			t.Fatalf("%d applies seen, want %d", len(got), len(want))
		}
		for i := range want {
			if got[i].last != want[i].last || got[i].next != want[i].next || got[i].family != proxier.IPv4 {
				t.Errorf("apply %d: last %p next %p, want %p %p", i, got[i].last, got[i].next, want[i].last, want[i].next)
			}
		}
		if got[3].report.Operations != 4 {
			t.Errorf("report %+v is not that of the apply", got[3].report)
		}
		for i, at := range e.seen.queued {
			if want := b.start.Add(time.Duration(i) * 10 * s); at != want {
				t.Errorf("change %d queued at %v, want %v", i, at, want)
			}
		}
		if len(e.seen.queued) != 4 {
			t.Errorf("%d queued, want 4", len(e.seen.queued))
		}
	})
}

// What somebody else did to the kernel has let packets pass that no State would have:
// whoever cleans up after a change must not rely on the State before.
func TestObserversLearnOfRepairs(t *testing.T) {
	for name, report := range map[string]proxier.Report{
		"repaired":                    {Operations: 1, Repaired: "chain gone"},
		"found different by a resync": {Operations: 1, Full: true},
	} {
		b := &fake{answer: func(call int) (proxier.Report, error) {
			if call == 1 {
				return report, nil
			}
			return proxier.Report{}, nil
		}}
		trial{}.run(t, b, func(e *bench) {
			for range 3 {
				e.Changed()
				e.after(s)
			}
			seen := e.seen.applied
			if len(seen) != 3 || seen[1].last != nil || seen[2].last != b.states[1] {
				t.Errorf("%s: observer was told of %v before", name, seen)
			}
		})
	}
}

// PendingSince is the oldest change that is not in the kernel, through waiting,
// applying and failing.
func TestPendingSince(t *testing.T) {
	b := &fake{took: 4 * s}
	trial{options: Options{MinSync: 10 * s}}.run(t, b, func(e *bench) {
		at := func(d time.Duration) time.Time { return b.start.Add(d) }
		check := func(when string, want time.Time) {
			t.Helper()
			if got := e.Status()[0].PendingSince; got != want {
				t.Errorf("%s: pending since %v, want %v", when, got, want)
			}
		}
		e.after(s)
		e.Changed()
		e.after(s)
		check("applying", at(s))
		e.Changed() // at 2, during the apply
		e.after(s)
		check("applying, with another change", at(s))
		e.after(3 * s)
		check("waiting for the minimum", at(2*s))
		e.Changed() // at 6
		e.after(10 * s)
		check("applying the rest", at(2*s))
		e.after(4 * s)
		check("all applied", time.Time{})
		e.begun(s, 15*s)
	})
}

func TestPanicIsAnErrorWithItsStack(t *testing.T) {
	err := guard("compile", func() error { return []error{}[len(t.Name())] })
	var p *panicked
	if !errors.As(err, &p) || !strings.Contains(string(p.stack), "TestPanicIsAnErrorWithItsStack") {
		t.Errorf("got %v with the stack %s", err, p.stack)
	}
}

// A restart with nothing to write says once that it is in sync.
func TestOneLineForTheFirstApply(t *testing.T) {
	b := &fake{answer: func(int) (proxier.Report, error) { return proxier.Report{}, nil }}
	trial{}.run(t, b, func(e *bench) {
		for range 3 {
			e.Changed()
			e.after(s)
		}
		e.logged(1)
		e.logged(1, "level=INFO", "msg=applied", "operations=0")
	})
}
