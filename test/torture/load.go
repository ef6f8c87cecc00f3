package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/proxiertest"
	"switchyard/test/netlab"
)

const (
	// retransmitted is what a connection takes at least whose first SYN was lost.
	retransmitted = 950 * time.Millisecond
	// maxOpen bounds the connections under way; the ticks beyond it are counted.
	maxOpen = 200
	// firstPort is below those that the kernel chooses from. Ports are taken in turn, so
	// that a connection never meets what conntrack remembers of one from the same port.
	firstPort, lastPort = 10300, 29999
)

// target is somewhere to connect to.
type target struct {
	client proxiertest.Host
	packet proxier.Packet
}

// targetsOf are the TCP frontends at which a connection succeeds, for each client.
func targetsOf(all states, protocol proxier.Protocol) (found []target) {
	for _, f := range families {
		for _, svc := range all[f].Services {
			if svc.Protocol != protocol || svc.Name.Service == "kubernetes" { // whose endpoint does not tell who it is
				continue
			}
			for _, front := range svc.Frontends {
				found = append(found, forwarding(all[f], front, protocol)...)
			}
		}
	}
	return found
}

func forwarding(s *proxier.State, front proxier.Frontend, protocol proxier.Protocol) (found []target) {
	dst := front.Addr
	if front.Kind == proxier.NodePort {
		dst = netip.AddrPortFrom(proxiertest.LabOf(s.Family).Node, dst.Port())
	}
	for _, c := range clients {
		src, in, err := proxiertest.Source(string(c), dst.Addr())
		p := proxier.Packet{Protocol: protocol, Src: src, Dst: dst, In: in}
		if err == nil && s.Decide(p).Verdict == proxier.Forward {
			found = append(found, target{c, p})
		}
	}
	return found
}

// load connects all the time, wherever a connection should succeed.
type load struct {
	*stage
	rng     *rand.Rand
	figures *figures
	fail    func(string)

	mu    sync.Mutex
	port  map[proxiertest.Host]uint16
	known states // of targets
	list  []target
	open  int
	slot  int                          // to which half of the connections go; -1: none
	last  map[netip.AddrPort]time.Time // when an endpoint last got a connection
	// stalls are when the generator was late.
	stalls []span
}

func newLoad(st *stage, seed uint64, f *figures, fail func(string)) *load {
	return &load{stage: st, rng: rand.New(rand.NewPCG(seed, 1)), figures: f, fail: fail,
		slot: -1, port: map[proxiertest.Host]uint16{}, last: map[netip.AddrPort]time.Time{}}
}

// run connects until the context ends, and waits for what is under way.
func (l *load) run(ctx context.Context) {
	var wait sync.WaitGroup
	defer wait.Wait()
	tick := time.NewTicker(l.pace.every)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		l.noteLag(now, max(0, now.Sub(last)-l.pace.every)) // what came too late is not made up for
		last = now
		if t, ok := l.next(); ok {
			wait.Go(func() { l.connect(t) })
		}
	}
}

// noteLag remembers how late the generator was: for as long the whole machine may have
// stood still.
func (l *load) noteLag(at time.Time, lag time.Duration) {
	l.figures.with(func() { l.figures.lags = append(l.figures.lags, lag) })
	if lag < 2*l.pace.every {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stalls = append(l.stalls, span{at.Add(-lag), at})
}

// stalled is how much of a time the generator was late.
func (l *load) stalled(from, until time.Time) (sum time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.stalls {
		if s.overlaps(from, until) {
			sum += s.until.Sub(s.from)
		}
	}
	return sum
}

func (l *load) next() (target, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.history.latest(); l.known == nil || now[proxier.IPv4] != l.known[proxier.IPv4] {
		l.known, l.list = now, targetsOf(now, proxier.TCP)
	}
	if len(l.list) == 0 || l.open >= maxOpen {
		l.figures.skip()
		return target{}, false
	}
	l.open++
	if mine := l.focused(); len(mine) > 0 && l.rng.IntN(2) == 0 {
		return mine[l.rng.IntN(len(mine))], true
	}
	return l.list[l.rng.IntN(len(l.list))], true
}

// focus has half of the connections go to one slot's ClusterIP; -1: to none.
func (l *load) focus(slot int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slot = slot
}

func (l *load) focused() (mine []target) {
	for _, t := range l.list {
		if l.slot >= 0 && t.packet.Dst.Addr() == clusterIP(proxier.FamilyOf(t.packet.Src), l.slot) {
			mine = append(mine, t)
		}
	}
	return mine
}

func (l *load) connect(t target) {
	from := time.Now()
	r := l.client(t.client).Probe(context.Background(), netlab.Probe{
		Protocol: proxier.TCP, Src: l.source(t), Dst: t.packet.Dst, Timeout: l.pace.patience,
	})
	until := time.Now()
	l.mu.Lock()
	l.open--
	if at, err := netip.ParseAddrPort(r.Endpoint); err == nil {
		l.last[at] = later(l.last[at], from.Add(r.Took))
	}
	l.mu.Unlock()
	if r.Verdict == netlab.Failed && !r.Stood {
		l.figures.own(fmt.Sprint(r.Err))
		return
	}
	if r.Stood && r.Verdict != netlab.Answered && l.history.isCut(from, until) {
		l.figures.with(func() { l.figures.tried++; l.figures.cut++ })
		return
	}
	o := outcomeOf(r)
	damaged := l.history.isDamaged(from, until)
	right := damaged || l.history.allows(t.packet, o, from, until)
	l.figures.connect(r, damaged, right, until)
	if r.Verdict == netlab.Answered && r.Took > retransmitted && l.history.forwards(t.packet, from, until) {
		l.figures.with(func() { l.figures.resent++ })
	}
	if !right {
		l.fail(fmt.Sprintf("TCP from %s to %s: %s after %s, and it should be: %s", t.client, t.packet.Dst, said(r),
			until.Sub(from).Round(time.Millisecond), l.promised(t.packet)))
	}
}

// source is the client's address with the next port.
func (l *load) source(t target) netip.AddrPort {
	l.mu.Lock()
	defer l.mu.Unlock()
	port := max(l.port[t.client], firstPort)
	l.port[t.client] = port + 1
	if port == lastPort {
		l.port[t.client] = firstPort
	}
	return netip.AddrPortFrom(t.packet.Src, port)
}

// served is when an endpoint last got a connection.
func (l *load) served(at netip.AddrPort) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last[at]
}

// promised is what the latest state says of a packet.
func (st *stage) promised(p proxier.Packet) string {
	return st.history.latest()[proxier.FamilyOf(p.Dst.Addr())].Decide(p).String()
}

func outcomeOf(r netlab.Result) outcome {
	switch r.Verdict {
	case netlab.Answered:
		return outcome{proxier.Forward, r.Endpoint}
	case netlab.Refused:
		return outcome{verdict: proxier.Reject}
	}
	return outcome{verdict: proxier.Drop}
}

func said(r netlab.Result) string {
	if r.Verdict == netlab.Answered {
		return "answered by " + r.Endpoint
	}
	return fmt.Sprintf("%s (%v)", r.Verdict, r.Err)
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
