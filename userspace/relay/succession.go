package relay

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"switchyard/userspace/keeper"
)

// succession is how the listening sockets go from one process to the next: by way of
// the keeper.
//
//	Open:   ask the keeper for the sockets; without one, or without sockets that are as
//	        they should be, open others
//	Settle: start a keeper if there is none, give it the sockets, tell it that they are served
//	then:   retire when it says that another process serves them
type succession struct {
	relay   *Relay
	command []string // that starts a keeper; none: the sockets end with the process

	mu     sync.Mutex
	line   *keeper.Line
	theirs bool // the sockets came from the keeper
	closed bool
}

// set is which of a port's sets of sockets is the relay's.
func (s *succession) set() byte { return byte(s.relay.family) }

// inherit takes the sockets that are kept. None, without an error, if there are none.
func (s *succession) inherit() (socket, *datagrams, error) {
	line, err := keeper.Dial(s.relay.port, s.set())
	if err != nil {
		return none, nil, nil //nolint:nilerr // nobody is there
	}
	s.line = line
	fds, err := line.Ask()
	if err != nil || len(fds) != 2 {
		closeAll(fds)
		return none, nil, nil //nolint:nilerr // it has none: it gets ours
	}
	if err := verify(fds, s.relay); err != nil {
		closeAll(fds)
		s.relay.warn("the sockets that were kept are not used", "error", err)
		return none, nil, nil
	}
	file := os.NewFile(uintptr(fds[1]), "datagrams")
	pc, err := net.FilePacketConn(file)
	_ = file.Close()
	udp, ok := pc.(*net.UDPConn)
	if err != nil || !ok {
		socket(fds[0]).close()
		return none, nil, errors.Join(errors.New("take over the UDP socket"), err)
	}
	d, err := newDatagrams(s.relay, udp)
	if err != nil {
		socket(fds[0]).close()
		return none, nil, err
	}
	s.theirs = true
	return socket(fds[0]), d, nil
}

// serve tells the keeper that this process serves, and waits for the process after.
func (s *succession) serve() {
	err := s.relay.ns.do(s.announce)
	if errors.Is(err, errNoKeeper) {
		return // it was not asked for
	}
	if err != nil {
		s.relay.warn("connects will be refused while no process runs", "error", err)
		return
	}
	go s.await()
}

// announce makes sure that there is a keeper with the sockets.
func (s *succession) announce() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if s.line == nil {
		if err := s.summon(); err != nil {
			return err
		}
	}
	if !s.theirs {
		if err := s.give(); err != nil {
			return err
		}
	}
	return s.line.Serve()
}

// errNoKeeper: nothing is said of how to start one.
var errNoKeeper = errors.New("there is no keeper of sockets")

func (s *succession) summon() (err error) {
	if len(s.command) > 0 {
		if err := keeper.Start(s.relay.port, s.command); err != nil {
			return err
		}
	}
	if s.line, err = keeper.Dial(s.relay.port, s.set()); err != nil && len(s.command) == 0 {
		return errNoKeeper
	}
	return err
}

func (s *succession) give() error {
	udp, err := s.relay.udp.conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("keep sockets: %w", err)
	}
	var sent error
	err = udp.Control(func(fd uintptr) { sent = s.line.Keep(int(s.relay.tcp), int(fd)) })
	return errors.Join(err, sent)
}

// resummon is how soon a keeper that is gone is followed by another.
const resummon = time.Second

// await waits for the process after. A keeper that ends, as if somebody killed it, is
// followed by another, which gets the sockets from us.
func (s *succession) await() {
	for {
		s.mu.Lock()
		line := s.line
		s.mu.Unlock()
		if line == nil || line.Retire() == nil {
			s.relay.retire()
			return
		}
		s.forget()
		time.Sleep(resummon)
		if s.relay.ns.do(s.announce) != nil {
			return
		}
	}
}

func (s *succession) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line.Close()
	s.line, s.theirs = nil, false
}

func (s *succession) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.line != nil {
		s.line.Close()
	}
}
