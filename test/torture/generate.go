package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// generator draws scripts.
type generator struct {
	rng     *rand.Rand
	steps   []Step
	damages []string
	api     bool
}

// flushes is how often the bounds have somebody flush the rules, and a Service refused.
const flushes = 4

// bounds is a script of what must not harm anybody: the delay of an endpoint's end, rolling
// replacements, what others break, and restarts.
func bounds(s Script, rolls, kills, terms int) Script {
	all := []string{"quiet", fmt.Sprintf("measure 0 %d", min(40, max(12, rolls))), "quiet"}
	s.Steps = nil
	for _, l := range all {
		s.Steps = append(s.Steps, step(0, "%s", l))
	}
	const together = 9
	for range (rolls + together - 1) / together {
		line := "roll"
		for i := range together {
			line += fmt.Sprintf(" %d", i)
		}
		s.Steps = append(s.Steps, step(0, "%s", line))
	}
	s.Steps = append(s.Steps, step(0, "quiet"))
	for i := range flushes {
		s.Steps = append(s.Steps, step(0, "damage flush-nat %d wait", i), step(0, "curse %d %d", 2*i, 2*i+1), step(0, "quiet"))
	}
	for i := range max(kills, terms) {
		if i < kills {
			s.Steps = append(s.Steps, step(0, "slot %d pod %d %s", i%9, 2+i%2*3, phases[i%2]), step(250*time.Millisecond, "proxy restart-kill"))
		}
		if i < terms {
			s.Steps = append(s.Steps, step(0, "slot %d pod %d %s", (i+3)%9, 2+i%2*3, phases[i%2]), step(250*time.Millisecond, "proxy restart-term"))
		}
	}
	s.Steps = append(s.Steps, step(0, "quiet"))
	return s
}

// random is a script of everything, that lasts so long.
func random(s Script, d time.Duration, k kernel) Script {
	g := &generator{rng: rand.New(rand.NewPCG(s.Seed, 2)), api: s.API}
	for name := range k.damages() {
		g.damages = append(g.damages, name)
	}
	slices.Sort(g.damages)
	g.add(0, "quiet")
	kth := 0
	for left := d; left > 0; left -= 4 * time.Second { // what a round takes at least
		kth++
		g.round(kth)
	}
	g.add(0, "quiet")
	s.Steps, s.Lasts = g.steps, d
	return s
}

func (g *generator) add(after time.Duration, format string, args ...any) {
	g.steps = append(g.steps, step(after, format, args...))
}

func (g *generator) wait() time.Duration { return time.Duration(g.rng.IntN(300)) * time.Millisecond }

// round is a while of changes with a fault in it, and then quiet.
func (g *generator) round(n int) {
	switch g.rng.IntN(8) {
	case 0: // the n-th write fails, of those that a change takes
		tickets := append(slices.Repeat([]string{"ok"}, n%4), pick(g, verdicts))
		g.add(g.wait(), "fail %s", strings.Join(tickets, " "))
	case 1: // the n-th write fails, of those that a first start takes
		g.cold(g.rng.IntN(firstWrites), pick(g, verdicts))
	case 2: // one in ten fails
		g.add(g.wait(), "fail %s", strings.Join(g.oneInTen(), " "))
	case 3:
		g.add(g.wait(), "lock %s", time.Duration(1+g.rng.IntN(6))*time.Second)
	case 4:
		g.add(g.wait(), "curse %d %d", g.rng.IntN(slots), g.rng.IntN(slots))
	}
	if g.api && g.rng.IntN(2) == 0 {
		g.add(g.wait(), "api %s %dms", pick(g, errancies), 100+g.rng.IntN(1500))
	}
	for range 5 + g.rng.IntN(15) {
		g.change()
		if g.rng.IntN(6) == 0 {
			g.fault()
		}
	}
	g.add(g.wait(), "quiet")
	g.add(0, "damage %s %d wait", pick(g, g.damages), g.rng.IntN(64))
}

// firstWrites is about how many writing calls a first start makes.
const firstWrites = 40

// cold has a first start fail at its k-th write.
func (g *generator) cold(k int, verdict string) {
	g.add(0, "fail %s", strings.Join(append(slices.Repeat([]string{"ok"}, k), verdict), " "))
	g.add(0, "proxy cold")
}

// everyWrite is a script of first starts of which each fails at another write, in every
// way.
func everyWrite(s Script) Script {
	g := &generator{}
	for k := range firstWrites {
		g.cold(k, verdicts[k%len(verdicts)])
		g.add(700*time.Millisecond, "slot %d pod %d %s", k%9, 2+k%2*3, phases[k/9%2])
		g.add(0, "quiet")
	}
	s.Steps = g.steps
	return s
}

// errant is a script in which the API server fails in every way, while Services and
// endpoints change and the proxy is started again.
func errant(s Script) Script {
	g := &generator{rng: rand.New(rand.NewPCG(s.Seed, 3))}
	g.add(0, "quiet")
	for i, how := range errancies {
		g.add(0, "api %s 700ms", how)
		for n := range 3 {
			slot := (3*i + n) % 9
			g.add(100*time.Millisecond, "slot %d pod %d %s", slot, g.rng.IntN(6), pick(g, []phase{ready, terminating, absent}))
			g.add(100*time.Millisecond, "slot %d %s", slot, []string{"rename", "affinity on", "kind NodePort"}[n])
		}
		g.add(time.Second, "slot %d vanish", i)
		if i%2 == 0 { // it starts with what it can get
			g.add(0, "proxy kill")
			g.add(100*time.Millisecond, "slot %d appear", i)
			g.add(0, "api heal")
			g.add(0, "proxy start")
		}
		g.add(0, "quiet")
	}
	s.Steps, s.API = g.steps, true
	return s
}

func (g *generator) oneInTen() []string {
	tickets := slices.Repeat([]string{"ok"}, 100)
	for i := range tickets {
		if g.rng.IntN(10) == 0 {
			tickets[i] = pick(g, verdicts)
		}
	}
	return tickets
}

func pick[T any](g *generator, list []T) T { return list[g.rng.IntN(len(list))] }

func (g *generator) onOff() string { return pick(g, []string{"on", "off"}) }

// change changes the world.
func (g *generator) change() {
	slot := func(format string, args ...any) {
		g.add(g.wait(), "slot %d %s", g.rng.IntN(slots), fmt.Sprintf(format, args...))
	}
	switch g.rng.IntN(20) {
	case 0, 1:
		slot("vanish")
	case 2, 3, 4:
		slot("appear")
	case 5, 6:
		slot("rename")
	case 7:
		slot("kind %s", pick(g, kinds))
	case 8:
		slot("port %d", pick(g, []int{80, 80, 81}))
	case 9:
		slot("%s %s", pick(g, []string{"external", "internal"}), pick(g, policies))
	case 10:
		slot("%s %s", pick(g, []string{"affinity", "ranges", "eip", "single"}), g.onOff())
	case 11:
		if g.rng.IntN(2) == 0 {
			g.add(g.wait(), "node zone %s", pick(g, []string{"zone-a", "zone-b"}))
		} else {
			g.add(g.wait(), "node far %s", g.onOff())
		}
	case 12:
		slot("pods absent absent absent absent absent absent")
	default:
		slot("pod %d %s", g.rng.IntN(6), pick(g, []phase{absent, ready, ready, ready, unready, terminating, ending}))
	}
}

// fault is what happens beside changes.
func (g *generator) fault() {
	switch g.rng.IntN(8) {
	case 0, 1:
		g.add(g.wait(), "proxy %s", pick(g, []string{"kill", "term"}))
		g.change()
		g.add(g.wait(), "proxy start")
	case 2, 3:
		g.add(g.wait(), "proxy %s", pick(g, []string{"restart-kill", "restart-term"}))
	case 4, 5:
		g.add(g.wait(), "stranger %s %d", pick(g, []string{"add", "add", "remove"}), g.rng.IntN(4))
	default:
		g.add(g.wait(), "damage %s %d", pick(g, g.damages), g.rng.IntN(64))
	}
}
