package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
)

const (
	ms = time.Millisecond
	s  = time.Second
)

func TestNothingBeforeFirstChange(t *testing.T) {
	o := Options{Resync: s, DriftEvery: s}
	both := func(b *fake) proxier.Backend {
		return struct {
			*fake
			proxier.Watcher
			proxier.Resyncer
		}{b, watched{b}, resynced{b}}
	}
	trial{options: o, backend: both}.run(t, &fake{}, func(e *bench) {
		e.after(time.Hour)
		e.begun()
		if n := e.snapshots.n + len(e.fakes[0].asked) + len(e.fakes[0].forgot); n != 0 {
			t.Errorf("%d snapshots, questions and forgets before the first change, want none", n)
		}
		if got := e.Status()[0]; got.LastSuccess != (time.Time{}) || !got.PendingSince.IsZero() {
			t.Errorf("status %+v before the first change", got)
		}
	})
}

// A change comes at each of the times; the applies begin at the wanted ones.
func TestWhen(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i) * 10 * ms
	}
	for _, c := range []struct {
		name    string
		minSync time.Duration
		took    time.Duration
		changes []time.Duration
		want    []time.Duration
	}{
		{"first at once", s, 0, []time.Duration{5 * s}, []time.Duration{5 * s}},
		{"after quiet at once", s, 0, []time.Duration{0, 5 * s}, []time.Duration{0, 5 * s}},
		{"second waits for the minimum", s, 0, []time.Duration{0, 300 * ms}, []time.Duration{0, s}},
		{"minimum counts from the end", s, 2 * s, []time.Duration{0, 100 * ms}, []time.Duration{0, 3 * s}},
		{"a hundred in a second", s, 0, hundred, []time.Duration{0, s}},
		{"a hundred in a second, slow", s, 400 * ms, hundred, []time.Duration{0, 1400 * ms}},
		{"no minimum: at once", 0, 0, []time.Duration{0, 1 * ms, 2 * ms}, []time.Duration{0, 1 * ms, 2 * ms}},
		{"no minimum: coalesced while applying", 0, 50 * ms, hundred[:10], []time.Duration{0, 50 * ms, 100 * ms}},
	} {
		t.Run(c.name, func(t *testing.T) {
			trial{options: Options{MinSync: c.minSync}}.run(t, &fake{took: c.took}, func(e *bench) {
				for _, at := range c.changes {
					e.after(time.Until(e.fakes[0].start.Add(at)))
					e.Changed()
				}
				e.after(time.Minute)
				e.begun(c.want...)
				if e.snapshots.n != len(c.want) {
					t.Errorf("%d snapshots for %d applies", e.snapshots.n, len(c.want))
				}
			})
		})
	}
}

func TestChangeBeforeRunCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fake{start: time.Now()}
		e := New(func() cluster.Snapshot { return cluster.Snapshot{} },
			[]Target{{Family: proxier.IPv4, Compile: changing, Backend: b}}, nil, Options{}, nil)
		for range 5 {
			e.Changed()
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { time.Sleep(s); cancel() }()
		if err := e.Run(ctx); err != nil {
			t.Fatal(err)
		}
		same(t, "applies began at", b.begun, []time.Duration{0})
	})
}

func TestFamiliesHaveTheirOwnFate(t *testing.T) {
	six := map[string]*fake{
		"fails":  {answer: func(int) (proxier.Report, error) { return proxier.Report{}, errors.New("no IPv6") }},
		"hangs":  {hook: func(ctx context.Context, _ int) { <-ctx.Done() }},
		"panics": {hook: func(context.Context, int) { panic("no IPv6") }},
		"slow":   {took: time.Hour},
	}
	for name, b6 := range six {
		t.Run("IPv6 "+name, func(t *testing.T) {
			trial{options: Options{MinSync: s}, ipv6: b6}.run(t, &fake{}, func(e *bench) {
				for range 3 {
					e.Changed()
					e.after(2 * s)
				}
				e.begun(0, 2*s, 4*s)
				status := e.Status()
				if got := status[0]; !got.PendingSince.IsZero() || got.Error != nil {
					t.Errorf("IPv4: %+v", got)
				}
				if got := status[1]; !got.LastSuccess.IsZero() || got.PendingSince != b6.start {
					t.Errorf("IPv6: %+v, want it pending since the start", got)
				}
			})
		})
	}
}

func TestFailureIsRetriedWithBackoff(t *testing.T) {
	fail := func(n int) func(int) (proxier.Report, error) {
		return func(call int) (proxier.Report, error) {
			if call < n {
				return proxier.Report{}, errors.New("exit status 4")
			}
			return proxier.Report{Operations: 1}, nil
		}
	}
	for _, c := range []struct {
		name    string
		options Options
		fails   int
		want    []time.Duration
	}{
		{"also the first apply", Options{Retry: 30 * s}, 1, []time.Duration{0, s}},
		{"doubling to the bound", Options{Retry: 5 * s}, 5, []time.Duration{0, s, 3 * s, 7 * s, 12 * s, 17 * s}},
		{"bound below a second", Options{Retry: 100 * ms}, 2, []time.Duration{0, 100 * ms, 200 * ms}},
		{"not before the minimum", Options{Retry: 5 * s, MinSync: 3 * s}, 3, []time.Duration{0, 3 * s, 6 * s, 10 * s}},
		{"default bound", Options{}, 7, []time.Duration{0, s, 3 * s, 7 * s, 15 * s, 31 * s, 61 * s, 91 * s}},
	} {
		t.Run(c.name, func(t *testing.T) {
			trial{options: c.options}.run(t, &fake{answer: fail(c.fails)}, func(e *bench) {
				e.Changed()
				e.after(0)
				if st := e.Status()[0]; st.Failures != 1 || st.Error == nil || st.PendingSince != e.fakes[0].start {
					t.Errorf("after the first failure: %+v", st)
				}
				e.after(time.Hour)
				e.begun(c.want...)
				e.logged(1, "level=ERROR", "exit status 4", "count=1", "family=IPv4")
				e.logged(1, "apply works again", fmt.Sprint("failures=", c.fails))
				last := e.fakes[0].start.Add(c.want[c.fails])
				if st := e.Status()[0]; st.Failures != 0 || st.Error != nil || !st.PendingSince.IsZero() || st.LastSuccess != last {
					t.Errorf("at the end: %+v", st)
				}
				if len(e.seen.failed) != c.fails {
					t.Errorf("observer saw %d failures, want %d", len(e.seen.failed), c.fails)
				}
			})
		})
	}
}

// A change during a backoff is tried at once, and its failure leaves the planned
// retry where it was: neither sooner nor later.
func TestChangeDuringBackoff(t *testing.T) {
	b := &fake{answer: func(int) (proxier.Report, error) { return proxier.Report{}, errors.New("no") }}
	trial{options: Options{MinSync: 500 * ms}}.run(t, b, func(e *bench) {
		e.Changed() // fails at 0, 1, 3
		e.after(3 * s)
		e.begun(0, s, 3*s)
		e.after(200 * ms)
		e.Changed() // due at 3.5
		e.after(10 * s)
		e.begun(0, s, 3*s, 3500*ms, 7*s)
		b.answer = nil
		e.after(time.Minute)
		e.begun(0, s, 3*s, 3500*ms, 7*s, 15*s)
		b.answer = func(int) (proxier.Report, error) { return proxier.Report{}, errors.New("no") }
		e.Changed() // at 73.2, and a fresh backoff
		e.after(1500 * ms)
		same(t, "after success", e.fakes[0].begun[6:], []time.Duration{73200 * ms, 74200 * ms})
	})
}

// Changes that come while the kernel refuses everything for a moment do not put off
// the time at which all is well again.
func TestManyChangesInAShortTrouble(t *testing.T) {
	b := &fake{}
	trial{options: Options{Retry: 30 * s}}.run(t, b, func(e *bench) {
		e.Changed()
		e.after(10 * s)
		b.answer = func(int) (proxier.Report, error) { return proxier.Report{}, errors.New("no") }
		for range 8 { // from 10.0 to 10.7
			e.Changed()
			e.after(100 * ms)
		}
		b.answer = nil
		e.after(30 * s)
		if got := e.fakes[0].begun; got[len(got)-1] != 11*s {
			t.Errorf("applies began at %v, and the last should have at 11 s", got)
		}
	})
}

func TestErrorLogIsBounded(t *testing.T) {
	for _, c := range []struct {
		name    string
		message func(call int) string
		want    int // error lines in 1000 attempts
	}{
		{"the same", func(int) string { return "no" }, 4}, // 1, 10, 100, 1000
		{"two in turn", func(call int) string { return fmt.Sprint("no ", call%2) }, 6},
		{"always another", func(call int) string { return fmt.Sprint("line ", call) }, 19}, // 16, then 1, 10, 100 of the rest
		{"huge", func(int) string { return strings.Repeat("x", 1<<14) }, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &fake{answer: func(call int) (proxier.Report, error) {
				return proxier.Report{}, errors.New(c.message(call))
			}}
			trial{options: Options{Retry: s}}.run(t, b, func(e *bench) {
				e.Changed()
				e.after(999*s + 500*ms)
				if len(b.begun) != 1000 {
					t.Fatalf("%d attempts, want 1000", len(b.begun))
				}
				e.logged(c.want, "level=ERROR")
				for line := range strings.Lines(e.log.String()) {
					if len(line) > 4096 {
						t.Fatalf("a log line of %d bytes", len(line))
					}
				}
			})
		})
	}
}

func TestSetAsideIsRetriedWithTheSameState(t *testing.T) {
	aside := []proxier.SetAside{poisoned("bad")}
	b := &fake{answer: func(call int) (proxier.Report, error) {
		if call < 3 {
			return proxier.Report{SetAside: aside}, nil
		}
		return proxier.Report{Operations: 1}, nil
	}}
	trial{}.run(t, b, func(e *bench) {
		e.Changed()
		e.after(2 * s)
		if st := e.Status()[0]; len(st.SetAside) != 1 || !st.PendingSince.IsZero() || st.Error != nil {
			t.Errorf("status %+v, want one set aside and nothing else", st)
		}
		e.logged(1, "level=WARN", "set aside", "service=default/bad", "refused by the kernel")
		e.after(time.Hour)
		e.begun(0, s, 3*s, 7*s)
		for _, state := range b.states {
			if state != b.states[0] {
				t.Error("retried with another State")
			}
		}
		if e.compiles.n != 1 {
			t.Errorf("%d compiles, want 1: nothing changed", e.compiles.n)
		}
		e.logged(1, "level=WARN")
		e.logged(1, "no longer set aside", "service=default/bad", "refused by the kernel")
		if st := e.Status()[0]; len(st.SetAside) != 0 {
			t.Errorf("status %+v at the end", st)
		}
		if got := e.seen.applied; got[1].last != got[0].next || got[3].last != nil {
			t.Error("last must be known while nothing comes back, and unknown when a service does")
		}
	})
}

// Changes that never end neither put off the retry of what is set aside, nor
// does an event that changes nothing here bring it forward.
func TestSetAsideAmongChanges(t *testing.T) {
	always := func(int) (proxier.Report, error) {
		return proxier.Report{SetAside: []proxier.SetAside{poisoned("bad")}}, nil
	}
	retries := func(b *fake) (at []time.Duration) {
		for i := 1; i < len(b.states); i++ {
			if b.states[i] == b.states[i-1] {
				at = append(at, b.begun[i])
			}
		}
		return at
	}
	for name, compile := range map[string]func(cluster.Snapshot) *proxier.State{
		"other services change": changing, "nothing changes": constant(),
	} {
		t.Run(name, func(t *testing.T) {
			trial{compile: compile}.run(t, &fake{answer: always}, func(e *bench) {
				for range 33 {
					e.Changed()
					e.after(300 * ms)
				}
				same(t, "retries", retries(e.fakes[0]), []time.Duration{s, 3 * s, 7 * s})
			})
		})
	}
}

func TestNewlySetAsideIsRetriedSoon(t *testing.T) {
	b := &fake{answer: func(call int) (proxier.Report, error) {
		aside := []proxier.SetAside{poisoned("bad")}
		if call >= 4 {
			aside = append(aside, poisoned("worse"))
		}
		return proxier.Report{SetAside: aside}, nil
	}}
	trial{}.run(t, b, func(e *bench) {
		e.Changed() // 0, 1, 3, 7, then 15
		e.after(8 * s)
		e.Changed()
		e.after(4 * s)
		e.begun(0, s, 3*s, 7*s, 8*s, 9*s, 11*s)
		e.logged(1, "level=WARN", "default/bad")
		e.logged(1, "level=WARN", "default/worse")
	})
}

func TestManySetAsideAreFewLines(t *testing.T) {
	var many []proxier.SetAside
	for i := range 1000 {
		many = append(many, poisoned(fmt.Sprint("bad-", i)))
	}
	b := &fake{answer: func(call int) (proxier.Report, error) { return proxier.Report{SetAside: many}, nil }}
	trial{}.run(t, b, func(e *bench) {
		e.Changed()
		e.after(time.Minute)
		e.logged(9, "set aside")
		e.logged(1, "set aside", "more=992")
	})
}

func TestResync(t *testing.T) {
	full := func(full bool) func(int) (proxier.Report, error) {
		return func(int) (proxier.Report, error) { return proxier.Report{Full: full}, nil }
	}
	for _, c := range []struct {
		name   string
		resync time.Duration
		full   bool
		plain  bool // not a Resyncer
		want   int  // forgets in 10 h 30 min, at least 9/10 and at most 11/9 of it
	}{
		{"every hour", time.Hour, true, false, 10},
		{"a backend that never says Full", time.Hour, false, false, 10},
		{"never", 0, true, false, 0},
		{"not a Resyncer", time.Hour, true, true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := trial{options: Options{Resync: c.resync}, backend: func(b *fake) proxier.Backend { return resynced{b} }}
			if c.plain {
				tr.backend = nil
			}
			tr.run(t, &fake{answer: full(c.full)}, func(e *bench) {
				e.Changed()
				e.after(10*time.Hour + 30*time.Minute)
				b := e.fakes[0]
				if n := len(b.forgot); n < c.want*9/10 || n > c.want*11/9 {
					t.Fatalf("%d forgets, want about %d", n, c.want)
				}
				same(t, "each forget is followed by an apply:", b.begun[1:], b.forgot)
				for i := range b.forgot {
					if wait := b.begun[i+1] - b.begun[i]; wait < 54*time.Minute || wait > 66*time.Minute {
						t.Errorf("a resync after %v, want an hour give or take a tenth", wait)
					}
				}
			})
		})
	}
}

// Any apply that read the kernel back counts as a resync.
func TestResyncCountsFromTheLastFullApply(t *testing.T) {
	b := &fake{answer: func(int) (proxier.Report, error) { return proxier.Report{Full: true}, nil }}
	tr := trial{options: Options{Resync: time.Hour}, backend: func(b *fake) proxier.Backend { return resynced{b} }}
	tr.run(t, b, func(e *bench) {
		for range 20 {
			e.Changed()
			e.after(50 * time.Minute)
		}
		if len(b.forgot) != 0 {
			t.Errorf("%d forgets, want none", len(b.forgot))
		}
	})
}

func TestDrift(t *testing.T) {
	// answers are those of the first questions; "" after.
	for _, c := range []struct {
		name    string
		answers []string
		err     error
		applies []time.Duration
		asked   []time.Duration // up to 5.5 s
		warned  int
	}{
		{"none", nil, nil, []time.Duration{0}, []time.Duration{s, 2 * s, 3 * s, 4 * s, 5 * s}, 0},
		{"once", []string{"", "chain gone"}, nil, []time.Duration{0, 2 * s}, []time.Duration{s, 2 * s, 3 * s, 4 * s, 5 * s}, 1},
		{"not cured", []string{"a", "a", "a", "a"}, nil, []time.Duration{0, s, 2 * s, 4 * s}, []time.Duration{s, 2 * s, 4 * s}, 1},
		{"again after a repair", []string{"a", "", "b"}, nil, []time.Duration{0, s, 3 * s}, []time.Duration{s, 2 * s, 3 * s, 4 * s, 5 * s}, 2},
		{"cannot be seen", nil, errors.New("no permission"), []time.Duration{0}, []time.Duration{s, 2 * s, 3 * s, 4 * s, 5 * s}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &fake{drift: func(asked int) (string, error) {
				if asked < len(c.answers) {
					return c.answers[asked], nil
				}
				return "", c.err
			}}
			tr := trial{options: Options{MinSync: time.Minute}, backend: func(b *fake) proxier.Backend { return watched{b} }}
			tr.run(t, b, func(e *bench) {
				e.Changed()
				e.after(5500 * ms)
				e.begun(c.applies...)
				same(t, "asked at", b.asked, c.asked)
				e.logged(c.warned, "level=WARN", "somebody else")
				errors := 0
				if c.err != nil {
					errors = 1
				}
				e.logged(errors, "level=ERROR", "no permission")
			})
		})
	}
}

// While the kernel is not known nobody asks what changed in it.
func TestNoDriftWhileFailing(t *testing.T) {
	b := &fake{answer: func(call int) (proxier.Report, error) {
		if call == 0 {
			return proxier.Report{}, nil
		}
		return proxier.Report{}, errors.New("no")
	}}
	tr := trial{options: Options{Retry: time.Hour}, backend: func(b *fake) proxier.Backend { return watched{b} }}
	tr.run(t, b, func(e *bench) {
		e.Changed()
		e.after(1500 * ms)
		e.Changed() // fails from here on
		e.after(time.Minute)
		same(t, "asked at", b.asked, []time.Duration{s})
	})
}

func TestPanicIsAFailure(t *testing.T) {
	calls := 0
	broken := func(cluster.Snapshot) *proxier.State {
		if calls++; calls == 1 {
			panic("nil map")
		}
		return &proxier.State{}
	}
	t.Run("in Compile", func(t *testing.T) {
		trial{compile: broken}.run(t, &fake{}, func(e *bench) {
			e.Changed()
			e.after(time.Minute)
			e.begun(s)
			e.logged(1, "level=ERROR", "compile: panic: nil map", "stack=", "goroutine")
		})
	})
	t.Run("in Apply", func(t *testing.T) {
		b := &fake{hook: func(_ context.Context, call int) {
			if call == 0 {
				panic("nil map")
			}
		}}
		tr := trial{backend: func(b *fake) proxier.Backend { return resynced{b} }}
		tr.run(t, b, func(e *bench) {
			e.Changed()
			e.after(time.Minute)
			e.begun(0, s)
			same(t, "forgot at", b.forgot, []time.Duration{0})
			e.logged(1, "level=ERROR", "apply: panic: nil map", "stack=", "goroutine")
			if len(e.seen.failed) != 1 {
				t.Errorf("observer saw %v", e.seen.failed)
			}
		})
	})
	t.Run("in Drifted", func(t *testing.T) {
		b := &fake{drift: func(int) (string, error) { panic("nil map") }}
		tr := trial{backend: func(b *fake) proxier.Backend { return watched{b} }}
		tr.run(t, b, func(e *bench) {
			e.Changed()
			e.after(5 * s)
			e.begun(0)
			e.logged(1, "level=ERROR", "look for drift: panic: nil map", "stack=")
		})
	})
	t.Run("in an observer", func(t *testing.T) {
		trial{observer: bad{}}.run(t, &fake{}, func(e *bench) {
			e.Changed()
			e.after(s)
			e.Changed()
			e.after(s)
			e.begun(0, s)
			e.logged(1, "level=ERROR", "observe: panic: nil map", "stack=")
			if len(e.seen.applied) != 2 {
				t.Errorf("the other observer saw %d applies, want 2", len(e.seen.applied))
			}
		})
	})
}

// bad is an Observer that panics.
type bad struct{}

func (bad) Queued(time.Time)                                                       {}
func (bad) Applied(proxier.Family, *proxier.State, *proxier.State, proxier.Report) { panic("nil map") }
func (bad) Failed(proxier.Family, error)                                           {}

func TestNoStateIsAFailure(t *testing.T) {
	none := func(cluster.Snapshot) *proxier.State { return nil }
	trial{compile: none}.run(t, &fake{}, func(e *bench) {
		e.Changed()
		e.after(time.Minute)
		e.begun()
		e.logged(1, "level=ERROR", "no state")
	})
}

// Run waits for the Apply that runs, which gets the context; what it returns
// then is no failure.
func TestEndWaitsForTheRunningApply(t *testing.T) {
	b := &fake{
		hook:   func(ctx context.Context, _ int) { <-ctx.Done() },
		took:   3 * s,
		answer: func(int) (proxier.Report, error) { return proxier.Report{}, context.Canceled },
	}
	synctest.Test(t, func(t *testing.T) {
		e := trial{}.start(t, b)
		e.Changed()
		e.after(s)
		e.Changed()
		e.stop()
		if err := <-e.done; err != nil {
			t.Error(err)
		}
		same(t, "applies ended at", b.ended, []time.Duration{4 * s})
		e.begun(0)
		e.logged(0, "level=ERROR")
		if len(e.seen.failed) != 0 {
			t.Errorf("observer saw %v", e.seen.failed)
		}
	})
}

// Target.First sees the kernel as the process before left it: once, before the first
// apply, and a panic in it hinders nothing.
func TestFirstLook(t *testing.T) {
	b, looks := &fake{}, 0
	look := func(_ context.Context, want *proxier.State) {
		looks++
		if want == nil || len(b.begun) > 0 {
			t.Errorf("a look at %v after %d applies", want, len(b.begun))
		}
		panic("no view")
	}
	trial{first: look}.run(t, b, func(e *bench) {
		for range 3 {
			e.Changed()
			e.after(2 * s)
		}
	})
	if looks != 1 || len(b.begun) != 3 {
		t.Errorf("%d looks, %d applies", looks, len(b.begun))
	}
}
