package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/proxiertest"
	"switchyard/test/netlab"
)

const (
	// convergeBound is how long after everything that hindered it the proxy may take: an
	// apply that failed is tried again after 30 s at the latest.
	convergeBound = 45 * time.Second
	// perFrontend is how many probes a frontend gets from each client.
	perFrontend = 1
)

// quiet lets everything come to rest and compares: the kernel with what a fresh one
// would hold, others' objects with what they were, packets with Decide.
func (p *player) quiet(ctx context.Context) error {
	if err := errors.Join(p.wrap.relent(), p.wrap.curse()); err != nil {
		return err
	}
	if a, ok := p.source.(*api); ok {
		if err := a.relay.err("heal", 0); err != nil {
			return err
		}
	}
	p.waiting.Wait()
	if !p.proxy.running() {
		if p.proxy.ends > 0 {
			p.fail("the proxy ended by itself; it said:" + p.proxy.tail())
		}
		if err := p.signal(ctx, "start"); err != nil {
			return err
		}
	}
	took, err := p.converge(ctx, max(convergeBound, 3*p.pace.repair))
	if err != nil {
		return err
	}
	p.figures.with(func() { p.figures.quiet++; p.figures.converged = append(p.figures.converged, took) })
	p.settle()
	if err := p.checkOthers(); err != nil {
		return err
	}
	p.checkFlows(ctx)
	p.probe()
	if len(p.failed()) > 0 {
		return nil
	}
	return p.restartIdle(ctx)
}

// settle notes that nothing hinders any more and the latest state is in the kernel.
func (p *player) settle() {
	for _, end := range p.ending {
		end()
	}
	p.ending = nil
	p.history.confirm(time.Now())
}

// converge waits until the kernel holds what a fresh one would; it tells how long
// that took. What is different in the end is a failure of the run, not an error.
func (p *player) converge(ctx context.Context, within time.Duration) (time.Duration, error) {
	start := time.Now()
	want, err := p.freshDump(ctx, p.history.latest())
	if err != nil {
		return 0, err
	}
	for {
		looked := time.Now()
		ours, _, err := p.kernel.dump(p.proxy.host)
		switch {
		case err != nil || ctx.Err() != nil:
			return 0, errors.Join(err, ctx.Err())
		case same(p.kernel, ours, want):
			return looked.Sub(start), nil
		case time.Since(start) > within:
			p.fail(fmt.Sprintf("after %s the kernel is not as a fresh one would be:%s\n  the proxy said:%s", within, difference(p.kernel.settled(ours, want), want), p.proxy.tail()))
			return within, nil
		}
		sleep(ctx, 50*time.Millisecond)
	}
}

// checkFlows waits until each UDP flow goes where it should.
func (p *player) checkFlows(ctx context.Context) {
	start := time.Now()
	state := func(s *sender) *proxier.State { return p.history.latest()[proxier.FamilyOf(s.packet.Dst.Addr())] }
	left := p.flows
	for {
		left = slices.DeleteFunc(slices.Clone(left), func(s *sender) bool { return s.wrong(state(s), start) == "" })
		if len(left) == 0 || time.Since(start) > p.pace.resumes {
			break
		}
		sleep(ctx, 20*time.Millisecond)
	}
	took := time.Since(start)
	p.figures.with(func() { p.figures.udpResumed = append(p.figures.udpResumed, took) })
	for _, s := range left {
		p.fail(s.wrong(state(s), start) + fmt.Sprintf(" (%s after the rules were in)%s", took.Round(time.Millisecond), p.flowsOf(ctx, s)))
	}
}

// flowsOf is what the kernel remembers of a sender's flow, for people.
func (p *player) flowsOf(ctx context.Context, s *sender) (text string) {
	port := fmt.Sprint(localPort(s.conn))
	for _, words := range [][]string{
		{"conntrack", "-L", "-f", strings.ToLower(proxier.FamilyOf(s.packet.Src).String()), "-p", "udp", "--orig-port-src", port},
		{"ipvsadm", "-Lnc"},
	} {
		out, err := p.proxy.host.Output(ctx, words[0], words[1:]...)
		for line := range strings.Lines(out) {
			if err == nil && (strings.Contains(line, "sport="+port+" ") || strings.Contains(line, ":"+port+" ")) {
				text += "\n    " + strings.TrimSpace(line)
			}
		}
	}
	return text
}

// probe asks every frontend from every client, and as every endpoint of its own.
func (p *player) probe() {
	var wait sync.WaitGroup
	limit := make(chan struct{}, 32)
	for _, a := range p.asks() {
		wait.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			p.ask(a)
		})
	}
	wait.Wait()
}

// asks are the packets to probe with: to each address that a slot has or had.
func (p *player) asks() (all []target) {
	for _, f := range families {
		lab := proxiertest.LabOf(f)
		for i := range slots {
			port := uint16(p.world.slots[i].port)
			for _, dst := range []proxier.Packet{
				{Protocol: proxier.TCP, Dst: addrPort(clusterIP(f, i), port)},
				{Protocol: proxier.UDP, Dst: addrPort(clusterIP(f, i), port)},
				{Protocol: proxier.TCP, Dst: addrPort(lab.Node, uint16(firstNodePort+i))},
				{Protocol: proxier.TCP, Dst: addrPort(loadBalancerIP(f, i), port)},
				{Protocol: proxier.TCP, Dst: addrPort(externalIP(f, i), port)},
			} {
				c := clients[(i+int(f))%len(clients)]
				src, in, err := proxiertest.Source(string(c), dst.Dst.Addr())
				if err == nil {
					dst.Src, dst.In = src, in
					all = append(all, target{c, dst})
				}
			}
		}
	}
	return all
}

func (p *player) ask(t target) {
	state := p.history.latest()[proxier.FamilyOf(t.packet.Dst.Addr())]
	fate := state.Decide(t.packet)
	for range perFrontend {
		probe := netlab.Probe{Protocol: t.packet.Protocol, Dst: t.packet.Dst, Timeout: p.pace.patience}
		switch fate.Verdict {
		case proxier.Drop, proxier.Pass:
			probe.Timeout = p.pace.silence
		}
		if t.packet.Protocol == proxier.TCP {
			probe.Src = p.load.source(t)
		}
		r := p.client(t.client).Probe(context.Background(), probe)
		p.figures.with(func() { p.figures.probes++ })
		o := outcomeOf(r)
		if errors.Is(r.Err, syscall.EPERM) { // how the node's own sender learns that a datagram was dropped
			o.verdict = proxier.Drop
		}
		if r.Verdict == netlab.Failed || allowed(state, t.packet, o, false) && p.seen(fate, t.packet, r) {
			continue
		}
		p.fail(fmt.Sprintf("probe: %s from %s to %s: %s seen as %s, and it should be: %s",
			t.packet.Protocol, t.client, t.packet.Dst, said(r), r.ClientSeen, fate))
	}
}

// seen reports whether the endpoint saw whom it should.
func (p *player) seen(fate proxier.Fate, packet proxier.Packet, r netlab.Result) bool {
	if r.Verdict != netlab.Answered {
		return true
	}
	i := slices.IndexFunc(fate.Endpoints, func(e proxier.Endpoint) bool { return e.Addr.String() == r.Endpoint })
	if i < 0 {
		return false
	}
	client := r.ClientSeen.Addr().Unmap()
	traits := p.kernel.traits()
	if traits.relayed || traits.hidesNode && packet.In == "" {
		return true
	}
	if fate.Masquerades(fate.Endpoints[i]) {
		return client != packet.Src || packet.In == ""
	}
	return client == packet.Src
}

// restartIdle kills the proxy and starts it again with nothing changed: it must have
// nothing to write.
func (p *player) restartIdle(ctx context.Context) error {
	before, _ := p.wrap.calls()
	if err := p.signal(ctx, "restart-kill"); err != nil {
		return err
	}
	told, _ := p.proxy.synced()
	sleep(ctx, 100*time.Millisecond)
	after, _ := p.wrap.calls()
	p.figures.with(func() { p.figures.idleRestarts++; p.figures.idleWrites += after - before })
	if after != before || told != 0 {
		p.fail(fmt.Sprintf("a restart with nothing changed made %d writing calls, and told of %d", after-before, told))
	}
	return nil
}
