package relay

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"switchyard/proxier"
)

// succession hands the listening sockets from one process to the next, over a Unix
// socket whose name lives in the network namespace, as the sockets do. The next
// process gets the very same sockets: a connection that waits to be accepted waits
// there for either.
//
//	next                         before
//	 Open ── connect ───────────►  sends its listeners
//	 (reads the State, writes rules)  goes on accepting
//	 Settle ─ "taken" ──────────►  stops accepting, ends its flows, drains
type succession struct {
	name   string
	family proxier.Family

	mu     sync.Mutex
	before *net.UnixConn     // the process that we inherited from
	door   *net.UnixListener // for the process that inherits from us
	closed bool
}

// taken is what the next process says once it accepts connections.
const taken = 't'

// patience bounds what one process waits for the other.
const handPatience = 2 * time.Second

func openSuccession(f proxier.Family, port uint16) (*succession, error) {
	return &succession{family: f, name: fmt.Sprintf("@switchyard-relay-%d-%d", f, port)}, nil
}

func (s *succession) address() *net.UnixAddr { return &net.UnixAddr{Name: s.name, Net: "unix"} }

// inherit takes the listeners of the process that has them; none, without an error,
// if there is no such process, or it is another user's.
func (s *succession) inherit(r *Relay) (socket, *datagrams, error) {
	c, err := net.DialUnix("unix", nil, s.address())
	if err != nil {
		return none, nil, nil //nolint:nilerr // nobody is there
	}
	fds, err := receiveSockets(c)
	if err != nil {
		return none, nil, c.Close() // what it is, it does not hand over
	}
	tcp := socket(fds[0])
	file := os.NewFile(uintptr(fds[1]), "datagrams")
	pc, err := net.FilePacketConn(file)
	_ = file.Close()
	if err != nil {
		tcp.close()
		return none, nil, errors.Join(fmt.Errorf("take over the UDP socket: %w", err), c.Close())
	}
	udp, ok := pc.(*net.UDPConn)
	if !ok {
		tcp.close()
		return none, nil, errors.Join(errors.New("take over the UDP socket: it is none"), pc.Close(), c.Close())
	}
	d, err := newDatagrams(r, udp)
	if err != nil {
		tcp.close()
		return none, nil, errors.Join(err, c.Close())
	}
	s.before = c
	return tcp, d, nil
}

// succeed tells the process before that it is no more needed, and waits for the
// process after.
func (s *succession) succeed(r *Relay) {
	s.mu.Lock()
	before := s.before
	s.before = nil
	s.mu.Unlock()
	if before != nil {
		_, _ = before.Write([]byte{taken})
		_ = before.SetReadDeadline(time.Now().Add(handPatience))
		_, _ = before.Read(make([]byte, 1)) // its end: the name is free
		_ = before.Close()
	}
	door, err := s.open(r)
	if err != nil {
		return // the next process opens sockets of its own beside ours
	}
	go s.serve(r, door)
}

func (s *succession) open(r *Relay) (door *net.UnixListener, err error) {
	err = r.ns.do(func() (err error) {
		door, err = net.ListenUnix("unix", s.address())
		return err
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && s.closed {
		return nil, errors.Join(net.ErrClosed, door.Close())
	}
	s.door = door
	return door, err
}

// serve waits for the next process. One that does not take the listeners in the end
// has changed nothing.
func (s *succession) serve(r *Relay, door *net.UnixListener) {
	for {
		c, err := door.AcceptUnix()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			if sendSockets(c, r) != nil {
				return
			}
			answer := make([]byte, 1)
			if n, err := c.Read(answer); err == nil && n == 1 && answer[0] == taken {
				s.close()
				r.retire()
			}
		}()
	}
}

func (s *succession) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.door != nil {
		_ = s.door.Close()
	}
	if s.before != nil {
		_ = s.before.Close()
	}
}
