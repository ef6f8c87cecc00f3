package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/proxiertest"
	"switchyard/test/netlab"
)

const (
	// startup is how long a new endpoint is ready before an old one terminates.
	startup = 200 * time.Millisecond
	// shutdown is how long an old endpoint terminates before it is gone, and what a
	// preStop hook gives the proxies in a cluster.
	shutdown = 600 * time.Millisecond
)

// rollAll replaces every ready endpoint of some slots, one after the other in each,
// all slots at once: a new one is ready, an old one terminates, and then is gone.
func (p *player) rollAll(ctx context.Context, s Step) error {
	var wait sync.WaitGroup
	errs := make([]error, len(s.Args))
	for n := range s.Args {
		i := s.index(n, slots)
		wait.Go(func() { errs[n] = p.roll(ctx, i) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

func (p *player) roll(ctx context.Context, i int) error {
	p.changing.Lock()
	pods := append([]phase(nil), p.world.slots[i].pods...)
	p.changing.Unlock()
	for old, was := range pods {
		fresh := indexOf(pods, absent)
		if was != ready || fresh < 0 {
			continue
		}
		pods[old], pods[fresh] = absent, ready
		for _, to := range []struct {
			pod  int
			ph   phase
			wait time.Duration
		}{{fresh, ready, startup}, {old, terminating, shutdown}, {old, absent, 0}} {
			if err := p.change(step(0, "slot %d pod %d %s", i, to.pod, to.ph)); err != nil {
				return err
			}
			sleep(ctx, to.wait)
		}
	}
	p.figures.with(func() { p.figures.events["rolled services"]++ })
	return ctx.Err()
}

func indexOf(pods []phase, is phase) int {
	for i, p := range pods {
		if p == is {
			return i
		}
	}
	return -1
}

// measure moves a slot's only endpoint to and fro while nothing else happens, and
// takes the time from the event, and from when the proxy says that it has taken it
// from its source, to the last connection that the old endpoint got.
func (p *player) measure(ctx context.Context, i, times int) error {
	p.load.focus(i)
	defer p.load.focus(-1)
	var late []time.Duration
	for n := range times {
		from, to := n%2*3, (n+1)%2*3
		phases := []phase{absent, absent, absent, absent, absent, absent}
		phases[to] = ready
		line := fmt.Sprintf("slot %d pods", i)
		for _, ph := range phases {
			line += " " + string(ph)
		}
		at := time.Now()
		if err := p.change(step(0, "%s", line)); err != nil {
			return err
		}
		sleep(ctx, p.pace.settles)
		if d, idle := p.moved(i, from, at); n > 0 && idle {
			late = append(late, d)
		}
	}
	p.figures.with(func() { p.figures.idle = late })
	if p99 := percentile(late, 99); len(late) >= enoughIdle && p99 > p.pace.moved {
		p.fail(fmt.Sprintf("p99 of the time from the receipt of an endpoint's end to its last new connection: %s", p99))
	}
	return ctx.Err()
}

// enoughIdle is how many times the machine must have been idle for a judgement.
const enoughIdle = 10

// isBusy is for how long the generator stands still on a machine that is not idle.
const isBusy = 20 * time.Millisecond

// moved notes how long after an event an endpoint still got connections. It returns how
// long after its receipt, and whether the machine was idle.
func (p *player) moved(i, pod int, event time.Time) (late time.Duration, idle bool) {
	var last time.Time
	for _, addr := range netlab.StandardPods()[pod].Addrs {
		last = later(last, p.load.served(netip.AddrPortFrom(addr, uint16(firstTarget+i))))
	}
	received := event
	for _, l := range p.proxy.lines() {
		if l.at.After(event) && l.has("manifests applied") {
			received = l.at
			break
		}
	}
	stalled := p.load.stalled(event, later(last, received.Add(p.pace.moved)))
	p.figures.with(func() {
		p.figures.moved = append(p.figures.moved, max(0, last.Sub(event)))
		p.figures.settled = append(p.figures.settled, max(0, last.Sub(received)))
		p.figures.stalled = append(p.figures.stalled, stalled)
	})
	return max(0, last.Sub(received)), stalled < isBusy
}

// curses are the ends of the rules that lead to a slot's endpoints. What stands of them
// is not written again, so it is only what is new that is refused.
func (x *xtables) curses(slot int, _ string) (texts []string) {
	for _, pod := range netlab.StandardPods() {
		for _, addr := range pod.Addrs {
			texts = append(texts, "--to-destination "+netip.AddrPortFrom(addr, uint16(firstTarget+slot)).String())
		}
	}
	return texts
}

// curse has the kernel refuse one slot's new endpoints for a while, changes it and
// another, and waits until the other's change is in.
func (p *player) curse(ctx context.Context, bad, good int) error {
	if p.world.slots[bad].name == "" || p.world.slots[good].name == "" || bad == good || len(p.ending) > 0 || !p.proxy.running() {
		return nil
	}
	texts := p.kernel.curses(bad, p.world.slots[bad].name)
	if len(texts) == 0 {
		return nil
	}
	p.figures.with(func() { p.figures.faults["refused service"]++ })
	p.hinder()
	if err := p.wrap.curse(texts...); err != nil {
		return err
	}
	to := p.change
	set := func(i int, value string) Step { return step(0, "slot %d %s", i, value) }
	pods := "pods ready absent ready absent ready absent"
	if p.kernel.traits().relayed { // whose rules are about having any
		pods = "pods absent absent absent absent absent absent"
	}
	err := to(set(bad, pods), set(good, "affinity off"), set(good, "internal Cluster"),
		set(good, "pods absent absent absent absent ready absent"))
	if err != nil {
		return err
	}
	want := netip.AddrPortFrom(netlab.StandardPods()[4].Addrs[0], uint16(firstTarget+good)).String()
	dst := netip.AddrPortFrom(clusterIP(proxier.IPv4, good), uint16(p.world.slots[good].port))
	t := target{clients[1], proxier.Packet{Protocol: proxier.TCP, Dst: dst}}
	t.packet.Src, t.packet.In, _ = proxiertest.Source(string(t.client), dst.Addr())
	start, inRow := time.Now(), 0
	for inRow < 5 && time.Since(start) < p.pace.sync && ctx.Err() == nil {
		r := p.client(t.client).Probe(ctx, netlab.Probe{Protocol: proxier.TCP, Src: p.load.source(t), Dst: dst})
		if inRow++; r.Endpoint != want {
			inRow = 0
		}
	}
	took := time.Since(start)
	p.figures.with(func() { p.figures.beside = append(p.figures.beside, took) })
	if took > p.pace.beside {
		p.fail(fmt.Sprintf("slot %d is refused by the kernel, and a change of slot %d took %s; the proxy said:%s",
			bad, good, took, p.proxy.tail()))
	}
	return p.wrap.curse()
}
