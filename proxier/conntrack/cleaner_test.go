package conntrack

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/proxier"
)

const (
	deletedFlow = "udp client:4000 vip:53 pod1:53"
	movedFlow   = "udp client:4000 vip2:53 pod1:53"
)

// table is a kernel of one flow a name, of which passes delete the stale ones.
type table struct {
	flows  []string
	calls  []time.Time
	broken int           // so many passes fail first
	slow   time.Duration // a pass takes
}

func (k *table) clean(ctx context.Context, family proxier.Family, p *Policy) (int, error) {
	k.calls = append(k.calls, time.Now())
	time.Sleep(k.slow)
	if k.broken > 0 {
		k.broken--
		return 0, errors.New("dump interrupted")
	}
	before := len(k.flows)
	k.flows = slices.DeleteFunc(k.flows, func(s string) bool { return p.Stale(flow(family, s)) })
	return before - len(k.flows), nil
}

// run runs f with a Cleaner at work.
func run(t *testing.T, k *table, f func(c *Cleaner, passes *[]Pass)) {
	synctest.Test(t, func(t *testing.T) {
		var passes []Pass
		c := New(k.clean, slog.New(slog.DiscardHandler))
		c.Observe(func(p Pass) { passes = append(passes, p) })
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			c.Run(ctx)
			close(ended)
		}()
		synctest.Wait()
		f(c, &passes)
		cancel()
		<-ended
	})
}

// rest lets time pass until the Cleaner has nothing to do at that moment.
func rest(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func udp(lines ...string) *proxier.State { return state(proxier.IPv4, lines, "any") }

func TestCleanerDeletesAfterApply(t *testing.T) {
	k := &table{flows: []string{deletedFlow, movedFlow}, slow: time.Second}
	run(t, k, func(c *Cleaner, passes *[]Pass) {
		start := time.Now()
		c.Applied(udp("udp dns vip:53 > pod1:53"), udp("udp dns vip:53 > pod2:53"))
		if d := time.Since(start); d != 0 {
			t.Errorf("Applied took %s", d)
		}
		rest(2 * time.Second)
		want := Pass{Family: proxier.IPv4, Deleted: 1, Duration: time.Second}
		if len(*passes) != 1 || (*passes)[0] != want {
			t.Errorf("passes %+v, want %+v", *passes, want)
		}
		if !slices.Equal(k.flows, []string{movedFlow}) {
			t.Errorf("left are %q", k.flows)
		}
	})
}

func TestCleanerReadsNothingWithoutNeed(t *testing.T) {
	k := &table{}
	run(t, k, func(c *Cleaner, passes *[]Pass) {
		same := udp("udp dns vip:53 > pod1:53")
		c.Applied(same, same)
		c.Applied(same, udp("udp dns vip:53 > pod1:53", "tcp web vip:80 > pod1:80"))
		c.Applied(nil, nil)
		rest(time.Minute)
		if len(k.calls) != 0 {
			t.Errorf("%d passes", len(k.calls))
		}
	})
}

func TestCleanerForgetsNothing(t *testing.T) {
	one, two := "udp one vip:53 > pod1:53", "udp two vip2:53 > pod1:53"
	states := []*proxier.State{udp(one, two), udp(two), udp()}
	for name, c := range map[string]struct {
		broken int
		apply  func(c *Cleaner)
		passes int // at most
	}{
		"several changes, one pass": {0, func(c *Cleaner) {
			c.Applied(states[0], states[1])
			c.Applied(states[1], states[2])
		}, 1},
		"a change while a pass runs": {0, func(c *Cleaner) {
			c.Applied(states[0], states[1])
			time.Sleep(time.Second / 2)
			c.Applied(states[1], states[2])
		}, 2},
		"failed passes": {3, func(c *Cleaner) {
			c.Applied(states[0], states[1])
			c.Applied(states[1], states[2])
		}, 4},
		"a change while passes fail": {2, func(c *Cleaner) {
			c.Applied(states[0], states[1])
			time.Sleep(1200 * time.Millisecond)
			c.Applied(states[1], states[2])
		}, 3},
		"a change that matters to nobody, in between": {1, func(c *Cleaner) {
			c.Applied(states[0], states[2])
			c.Applied(states[2], udp("tcp web vip:80 > pod1:80"))
		}, 2},
		"applying failed in between, so last is not known": {0, func(c *Cleaner) {
			c.Applied(states[0], states[0])
			c.Applied(nil, states[2])
		}, 1},
		"it vanished and came back": {1, func(c *Cleaner) {
			c.Applied(states[0], states[2])
			c.Applied(states[2], udp("udp one vip:53 > pod2:53", "udp two vip2:53 > pod2:53"))
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			k := &table{flows: []string{deletedFlow, movedFlow}, broken: c.broken, slow: time.Second}
			run(t, k, func(cleaner *Cleaner, passes *[]Pass) {
				c.apply(cleaner)
				rest(time.Minute)
				if len(k.flows) > 0 {
					t.Errorf("left are %q", k.flows)
				}
				if len(*passes) > c.passes {
					t.Errorf("%d passes, want %d at most: %+v", len(*passes), c.passes, *passes)
				}
			})
		})
	}
}

func TestCleanerSparesWhatCameBack(t *testing.T) {
	k := &table{flows: []string{deletedFlow}, broken: 1}
	run(t, k, func(c *Cleaner, passes *[]Pass) {
		one := udp("udp one vip:53 > pod1:53")
		c.Applied(one, udp())
		c.Applied(udp(), one)
		rest(time.Minute)
		if len(k.flows) != 1 {
			t.Error("the flow of a Service that is there again was deleted")
		}
	})
}

func TestCleanerBacksOff(t *testing.T) {
	k := &table{broken: 8}
	run(t, k, func(c *Cleaner, passes *[]Pass) {
		start := time.Now()
		c.Applied(nil, udp("udp one vip:53 > pod1:53"))
		rest(time.Hour)
		var after []time.Duration
		for _, call := range k.calls {
			after = append(after, call.Sub(start))
		}
		want := []time.Duration{0, 500, 1500, 3500, 7500, 15500, 25500, 35500, 45500}
		for i := range want {
			want[i] *= time.Millisecond
		}
		if !slices.Equal(after, want) {
			t.Errorf("passes after %v, want %v", after, want)
		}
		if last := (*passes)[7]; last.Err == nil {
			t.Errorf("observer was not told of the failure: %+v", last)
		}
	})
}

func TestCleanerKeepsFamiliesApart(t *testing.T) {
	k := &table{flows: []string{deletedFlow}}
	run(t, k, func(c *Cleaner, passes *[]Pass) {
		c.Applied(nil, state(proxier.IPv4, []string{"udp dns vip:53 > pod1:53"}))
		c.Applied(nil, state(proxier.IPv6, []string{"udp dns vip:53 > pod1:53"}))
		rest(time.Second)
		if len(*passes) != 2 || (*passes)[0].Family == (*passes)[1].Family {
			t.Errorf("passes %+v, want one a family", *passes)
		}
	})
}

func TestCleanerBoundsWhatItRemembers(t *testing.T) {
	c := New(nil, slog.New(slog.DiscardHandler))
	many := make([]former, maxFormer)
	w := c.merge(work{former: many}, work{former: []former{{svc: &proxier.Service{}}}})
	if len(w.former) != maxFormer || w.former[maxFormer-1].svc == nil {
		t.Errorf("%d remembered, the newest among them: %v", len(w.former), w.former[maxFormer-1].svc != nil)
	}
}
