package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/proxiertest"
)

// sender is a UDP client that keeps its socket whatever happens, as resolvers do.
type sender struct {
	conn    net.Conn
	client  proxiertest.Host
	packet  proxier.Packet
	figures *figures
	pace    pace

	mu      sync.Mutex
	from    string // who answered last
	heard   time.Time
	refused time.Time // when an error came back last
}

// newSender makes the socket: its port is its own for good.
func (st *stage) newSender(c proxiertest.Host, dst netip.AddrPort, port uint16) (*sender, error) {
	src, in, err := proxiertest.Source(string(c), dst.Addr())
	if err != nil {
		return nil, err
	}
	conn, err := st.client(c).Dial(context.Background(), "udp", netip.AddrPortFrom(src, port), dst)
	if err != nil {
		return nil, err
	}
	return &sender{conn: conn, client: c, pace: st.pace, packet: proxier.Packet{Protocol: proxier.UDP, Src: src, Dst: dst, In: in}}, nil
}

// senders are one for each slot and kind of address, of either family.
func (st *stage) senders() (all []*sender, err error) {
	for i := range slots {
		f := families[(i+1)%2]
		node := proxiertest.LabOf(f).Node
		for n, at := range []struct {
			client proxiertest.Host
			dst    netip.AddrPort
		}{
			{clients[1], netip.AddrPortFrom(clusterIP(f, i), 80)},
			{clients[0], netip.AddrPortFrom(node, uint16(firstNodePort+slots+i))},
			{clients[0], netip.AddrPortFrom(loadBalancerIP(f, i), 80)},
			{clients[0], netip.AddrPortFrom(externalIP(f, i), 80)},
		} {
			s, err := st.newSender(at.client, at.dst, uint16(5000+100*n+i))
			if err != nil {
				return all, err
			}
			all = append(all, s)
		}
	}
	return all, nil
}

// run sends and listens until the context ends.
func (s *sender) run(ctx context.Context) {
	var wait sync.WaitGroup
	wait.Go(func() { s.listen(ctx) })
	for ctx.Err() == nil {
		if _, err := s.conn.Write([]byte("who\n")); err != nil {
			s.failed(err)
		}
		s.figures.with(func() { s.figures.datagrams++ })
		sleep(ctx, s.pace.sendEvery)
	}
	s.conn.Close()
	wait.Wait()
}

func (s *sender) listen(ctx context.Context) {
	buf := make([]byte, 512)
	for ctx.Err() == nil {
		n, err := s.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.failed(err)
			continue
		}
		who, _, _ := strings.Cut(string(buf[:n]), " ")
		s.mu.Lock()
		s.from, s.heard = who, time.Now()
		s.mu.Unlock()
		s.figures.with(func() { s.figures.answered++ })
	}
}

func (s *sender) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(err, syscall.ECONNREFUSED) {
		s.refused = time.Now()
	}
}

// wrong says what of what was heard since a time is not as a state has it, "" if all
// is well.
func (s *sender) wrong(state *proxier.State, since time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	fate := state.Decide(s.packet)
	answered := s.heard.After(since) && time.Since(s.heard) < s.pace.silence
	got := "silence"
	switch {
	case answered && allowed(state, s.packet, outcome{proxier.Forward, s.from}, true):
		return ""
	case answered:
		got = "answers of " + s.from
	case fate.Verdict == proxier.Reject && s.refused.After(since):
		return ""
	case (fate.Verdict == proxier.Drop || fate.Verdict == proxier.Pass) && time.Since(since) > s.pace.silence:
		return ""
	case s.refused.After(since):
		got = "errors"
	}
	return fmt.Sprintf("UDP from %s port %d to %s: %s, and it should be: %s", s.client, localPort(s.conn), s.packet.Dst, got, fate)
}

func localPort(c net.Conn) int {
	if a, ok := c.LocalAddr().(*net.UDPAddr); ok {
		return a.Port
	}
	return 0
}
