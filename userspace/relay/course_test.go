package relay

import (
	"slices"
	"testing"
	"time"
)

// TestCourse holds what becomes of a connection, event by event.
func TestCourse(t *testing.T) {
	type step struct {
		what func(*course) deed
		want deed
	}
	connected, fail := (*course).connected, (*course).fail
	refused := func(another bool) func(*course) deed { return func(c *course) deed { return c.refused(another) } }
	end := func(w which) func(*course) deed { return func(c *course) deed { return c.end(w) } }
	for _, test := range []struct {
		name  string
		steps []step
		phase phase
	}{
		{"both end, the client first", []step{{connected, join}, {end(ofClient), tellEndpoint}, {end(ofEndpoint), finish}}, over},
		{"both end, the endpoint first", []step{{connected, join}, {end(ofEndpoint), tellClient}, {end(ofClient), finish}}, over},
		{"half closed it goes on", []step{{connected, join}, {end(ofClient), tellEndpoint}, {end(ofClient), goOn}}, carrying},
		{"a reset", []step{{connected, join}, {fail, breakOff}}, over},
		{"a reset after one end", []step{{connected, join}, {end(ofClient), tellEndpoint}, {fail, breakOff}}, over},
		{"a second endpoint takes it", []step{{refused(true), tryNext}, {connected, join}}, carrying},
		{"no endpoint takes it", []step{{refused(true), tryNext}, {refused(false), breakOff}}, over},
		{"the client goes before an endpoint is found", []step{{fail, breakOff}, {connected, goOn}, {refused(true), goOn}}, over},
		{"what is over stays over", []step{{connected, join}, {fail, breakOff}, {fail, goOn}, {end(ofClient), goOn}, {connected, goOn}}, over},
	} {
		t.Run(test.name, func(t *testing.T) {
			var c course
			for i, s := range test.steps {
				if got := s.what(&c); got != s.want {
					t.Errorf("step %d: deed %d, want %d", i, got, s.want)
				}
			}
			if c.phase != test.phase {
				t.Errorf("phase %d, want %d", c.phase, test.phase)
			}
		})
	}
}

// TestWheel holds that links are found when they are due, at most a tick late, also
// those that are due after more than a turn, and none that was dropped.
func TestWheel(t *testing.T) {
	start := time.Unix(1000, 0)
	var w wheel
	w.prepare(start)
	dues := []time.Duration{0, tick / 2, tick, 5 * time.Second, slots * tick, slots*tick + time.Second, time.Hour}
	links := make([]link, len(dues)+1)
	at := map[*link]time.Duration{}
	for i := range links {
		links[i].timer.link = &links[i]
		w.set(&links[i].timer, start.Add(dues[min(i, len(dues)-1)]))
	}
	w.drop(&links[len(dues)].timer)
	for now := start; now.Before(start.Add(2 * time.Hour)); now = now.Add(tick) {
		w.expired(now, func(l *link) { at[l] = now.Sub(start) })
	}
	for i, due := range dues {
		if late := at[&links[i]] - due; late < 0 || late > tick {
			t.Errorf("due after %s, found after %s", due, at[&links[i]])
		}
	}
	if len(at) != len(dues) || w.held != 0 {
		t.Errorf("%d found, %d held", len(at), w.held)
	}
}

// TestVigil holds what a look each minute makes of a link.
func TestVigil(t *testing.T) {
	type state = func(at time.Duration) sight
	steady := func(s sight) state { return func(time.Duration) sight { return s } }
	toClient := func(s standing) sight { return sight{bytes: 1 << 20, sides: [2]standing{ofClient: s}} }
	for _, test := range []struct {
		name string
		see  state
		want outcome
		when time.Duration // about, in minutes
	}{
		{"used once, then silent for days: a database's", steady(sight{bytes: 10}), stay, 0},
		{"never a byte", steady(sight{}), isSilent, time.Hour},
		{"a byte every half hour", func(at time.Duration) sight { return sight{bytes: 1 + int64(at/(30*time.Minute))} }, stay, 0},
		{"half closed, and silent", steady(sight{bytes: 10, halfClosed: true}), isHalfOpen, time.Hour},
		{"half closed, a byte every half hour", func(at time.Duration) sight {
			return sight{bytes: 1 + int64(at/(30*time.Minute)), halfClosed: true}
		}, stay, 0},
		{"a client that takes nothing", steady(toClient(standing{waiting: true, taken: 5})), isStuck, 10 * time.Minute},
		{"a client that takes a drop a minute", func(at time.Duration) sight {
			return toClient(standing{waiting: true, taken: uint64(100 * at / time.Minute)})
		}, isStuck, 10 * time.Minute},
		{"a slow client", func(at time.Duration) sight {
			return toClient(standing{waiting: true, taken: uint64(10_000 * at / time.Minute)})
		}, stay, 0},
		{"a client that pauses for eight minutes", func(at time.Duration) sight {
			return toClient(standing{waiting: at%(9*time.Minute) > time.Minute, taken: 5})
		}, stay, 0},
		{"a peer that vanished", func(at time.Duration) sight { return toClient(standing{flying: true, quiet: at}) }, isVanished, 3 * time.Minute},
		{"a peer that answers probes", steady(toClient(standing{flying: true, quiet: time.Second})), stay, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			var v vigil
			start := time.Unix(1000, 0)
			got, when := stay, time.Duration(0)
			for at := time.Duration(0); at < 72*time.Hour && got == stay; at += time.Minute {
				got, when = v.look(test.see(at), start.Add(at), usual()), at
			}
			if got != test.want || got != stay && (when < test.when || when > test.when+time.Minute) {
				t.Errorf("outcome %d after %s, want %d after %s", got, when, test.want, test.when)
			}
		})
	}
}

// TestList holds the order of suspects.
func TestList(t *testing.T) {
	var l list
	l.prepare()
	links := make([]link, 4)
	for i := range links {
		links[i].suspect.link = &links[i]
		l.append(&links[i].suspect)
	}
	l.append(&links[0].suspect)
	links[2].suspect.leave()
	var got []*link
	for n := l.first(); n != nil; n = l.next(n) {
		got = append(got, n.link)
	}
	if !slices.Equal(got, []*link{&links[1], &links[3], &links[0]}) {
		t.Error("the order is wrong")
	}
}
