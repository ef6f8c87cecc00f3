package street

import (
	"io"
	"net"
	"net/netip"
	"sync"

	"switchyard/test/bench/load"
)

// server answers at every pod's address with that address, four bytes, and then
// swallows what comes until the client hangs up.
type server struct {
	listener net.Listener
	mu       sync.Mutex
	conns    map[net.Conn]bool
	wait     sync.WaitGroup
}

// acceptors is how many goroutines accept: one for each core of a small machine,
// and one that is on its way.
const acceptors = 3

func (s *Street) open() error {
	listener, err := s.Server.Listen("tcp4", netip.AddrPortFrom(netip.IPv4Unspecified(), load.PodPort).String())
	if err != nil {
		return err
	}
	s.server = &server{listener: listener, conns: map[net.Conn]bool{}}
	for range acceptors {
		s.server.wait.Go(s.server.accept)
	}
	return nil
}

func (s *server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return // closed
		}
		s.keep(conn, true)
		s.wait.Go(func() { s.answer(conn) })
	}
}

func (s *server) answer(conn net.Conn) {
	defer s.keep(conn, false)
	defer conn.Close()
	tcp := conn.(*net.TCPConn)
	addr := tcp.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().As4()
	if _, err := conn.Write(addr[:]); err != nil {
		return
	}
	var one [1]byte
	if n, err := conn.Read(one[:]); n == 0 || err != nil {
		return // a probe: it never says anything
	}
	buf := make([]byte, 256<<10)
	for {
		if _, err := conn.Read(buf); err != nil {
			return // io.EOF or a reset: how the client ended is its matter
		}
	}
}

func (s *server) keep(conn net.Conn, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if open {
		s.conns[conn] = true
	} else {
		delete(s.conns, conn)
	}
}

func (s *server) close() {
	s.listener.Close()
	s.mu.Lock()
	for conn := range s.conns {
		conn.Close()
	}
	s.mu.Unlock()
	s.wait.Wait()
}

var _ io.Closer = (*Street)(nil)
