package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/proxiertest"
)

// stream is one long-lived connection through a slot's ClusterIP, whose bytes come
// back. It lives on whatever becomes of its Service.
type stream struct {
	*stage
	slot    int
	figures *figures
	fail    func(string)

	mu      sync.Mutex
	excused time.Time // what it needs was broken then
	ending  int       // the process that carries it is about to end
	ports   uint16
}

// target is where it goes to: IPv4 and IPv6 in turn, from a pod and from outside.
func (s *stream) target() target {
	f, c := families[s.slot%2], clients[s.slot/2%2]
	dst := netip.AddrPortFrom(clusterIP(f, s.slot), 80)
	src, in, err := proxiertest.Source(string(c), dst.Addr())
	if err != nil {
		return target{}
	}
	return target{c, proxier.Packet{Protocol: proxier.TCP, Src: src, Dst: dst, In: in}}
}

// excuse allows for its end: conntrack was emptied, or the process that carries it
// ends.
func (s *stream) excuse() {
	s.with(func() { s.excused = time.Now() })
}

// excuseUntil allows for its end until the returned function is called, however young
// it is then: a process that drains accepts streams that its own end breaks.
func (s *stream) excuseUntil() (end func()) {
	s.excuse()
	s.with(func() { s.ending++ })
	return func() { s.excuse(); s.with(func() { s.ending-- }) }
}

func (s *stream) with(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

func (s *stream) isExcused(since time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ending > 0 || s.excused.After(since)
}

// run keeps a stream open until the context ends, once its Service can be reached.
func (s *stream) run(ctx context.Context) {
	for ctx.Err() == nil {
		since := time.Now()
		conn := s.open(ctx)
		if conn == nil {
			sleep(ctx, 200*time.Millisecond)
			continue
		}
		s.figures.with(func() { s.figures.streams++ })
		err := s.talk(ctx, conn)
		conn.Close()
		switch {
		case ctx.Err() != nil:
		case s.isExcused(since):
			s.figures.with(func() { s.figures.reopened++ })
		default:
			s.fail(fmt.Sprintf("the stream through slot %d, %s old, broke: %v", s.slot, time.Since(since).Round(time.Millisecond), err))
		}
	}
}

// open connects if the latest state has it so.
func (s *stream) open(ctx context.Context) net.Conn {
	t, now := s.target(), time.Now()
	if s.history.isDamaged(now, now) || s.history.latest()[proxier.FamilyOf(t.packet.Src)].Decide(t.packet).Verdict != proxier.Forward {
		return nil
	}
	s.ports++
	src := netip.AddrPortFrom(t.packet.Src, uint16(6000+100*s.slot)+s.ports%100)
	ctx, cancel := context.WithTimeout(ctx, s.pace.patience)
	defer cancel()
	conn, err := s.client(t.client).Dial(ctx, "tcp", src, t.packet.Dst)
	if err != nil {
		return nil // the load finds out whether it should have succeeded
	}
	return conn
}

// talk says something and waits until it comes back, until one of them fails.
func (s *stream) talk(ctx context.Context, conn net.Conn) error {
	back := bufio.NewReader(conn)
	if err := conn.SetDeadline(time.Now().Add(2 * s.pace.patience)); err != nil {
		return err
	}
	if _, err := back.ReadString('\n'); err != nil { // who it is
		return err
	}
	for n := 0; ctx.Err() == nil; n++ {
		word := bytes.Repeat([]byte{byte(n)}, 64)
		if err := conn.SetDeadline(time.Now().Add(2 * s.pace.patience)); err != nil {
			return err
		}
		if _, err := conn.Write(word); err != nil {
			return err
		}
		got := make([]byte, len(word))
		if _, err := io.ReadFull(back, got); err != nil {
			return err
		}
		if !bytes.Equal(got, word) {
			return fmt.Errorf("word %d came back as %x", n, got)
		}
		s.figures.with(func() { s.figures.streamBytes += len(word) })
		sleep(ctx, s.pace.streamEvery)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
