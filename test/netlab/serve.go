package netlab

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"switchyard/proxier"
)

// patience bounds how long a server waits for its client to hang up.
const patience = 2 * time.Second

// Serve starts a server that answers everyone with one line: its identity, a
// space, and the address and port that the client has in its eyes. It runs
// until the lab is closed. The address must be one of the host's, so that a
// UDP answer comes from the address that was asked. SCTP only if HasSCTP.
func (l *Lab) Serve(host *Host, proto proxier.Protocol, addr netip.AddrPort, id string) error {
	if !addr.IsValid() || addr.Addr().IsUnspecified() {
		return fmt.Errorf("serve %s: %s is not one address", id, addr)
	}
	if proto == proxier.UDP {
		pc, err := host.ListenPacket("udp", addr.String())
		if err != nil {
			return fmt.Errorf("serve %s: %w", id, err)
		}
		return l.start(pc, func() { serveUDP(pc, id) })
	}
	ln, err := host.listen(proto, addr)
	if err != nil {
		return fmt.Errorf("serve %s: %w", id, err)
	}
	return l.start(ln, func() { serveStream(ln, id) })
}

func (h *Host) listen(proto proxier.Protocol, addr netip.AddrPort) (net.Listener, error) {
	switch proto {
	case proxier.TCP:
		return h.Listen("tcp", addr.String())
	case proxier.SCTP:
		return h.listenSCTP(addr)
	}
	return nil, fmt.Errorf("no server for %s", proto)
}

// start runs a server until Close.
func (l *Lab) start(server io.Closer, run func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		server.Close()
		return fmt.Errorf("serve: the lab is closed")
	}
	l.servers = append(l.servers, server)
	l.serving.Go(run)
	return nil
}

func serveStream(ln net.Listener, id string) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return // closed: nothing else ends a listener
		}
		go answer(conn, id)
	}
}

// answer lets the client hang up first: probes do so by a reset, and no end of
// the connection lingers in TIME_WAIT, however many are made.
func answer(conn net.Conn, id string) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return
	}
	if _, err := fmt.Fprintf(conn, "%s %s\n", id, conn.RemoteAddr()); err != nil {
		return
	}
	_, _ = conn.Read(make([]byte, 1))
}

func serveUDP(pc net.PacketConn, id string) {
	buf := make([]byte, 1500)
	for {
		_, client, err := pc.ReadFrom(buf)
		if client == nil {
			return
		}
		if err == nil {
			// A client that is gone is no matter of the server's.
			_, _ = fmt.Fprintf(packetWriter{pc, client}, "%s %s\n", id, client)
		}
	}
}

type packetWriter struct {
	pc net.PacketConn
	to net.Addr
}

func (w packetWriter) Write(b []byte) (int, error) { return w.pc.WriteTo(b, w.to) }
