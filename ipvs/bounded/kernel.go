package bounded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// The kernel fills a dump's buffer up to 32 KiB at a time; an answer of ipset
	// that tells which entry failed repeats the request.
	receiveBuffer = 64 << 10
	// What is sent at once. Each answer takes about 1 KiB of the socket's buffer,
	// which is 208 KiB unless configured otherwise.
	batchMessages = 128
	batchBytes    = 64 << 10

	askTries = 5
)

// ErrInterrupted: others changed the kernel's list while it was read, again and
// again.
var ErrInterrupted = errors.New("interrupted by changes of others")

// Socket is a netlink socket, in the network namespace of the thread that opened
// it. It is a Connection.
type Socket struct {
	fd       int
	seq      uint32
	buf      []byte
	progress atomic.Int64
}

// Open opens a netlink socket of a protocol (unix.NETLINK_…). timeout bounds the
// wait for each answer.
func Open(protocol int, timeout time.Duration) (*Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	s, err := Attach(fd, timeout)
	if err == nil {
		// Connected to the kernel, the socket takes no messages of other programs.
		err = unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink socket: %w", err), unix.Close(fd))
	}
	// Answers without the request; lists of routes and addresses with only those that
	// were asked for. A kernel that is too old for it says more than it should.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	return s, nil
}

// Attach makes a Socket of one that is open and connected to the kernel, or to what
// a test puts in its place.
func Attach(fd int, timeout time.Duration) (*Socket, error) {
	wait := unix.NsecToTimeval(int64(max(timeout, time.Microsecond))) // 0 would mean for ever
	err := errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait))
	return &Socket{fd: fd, buf: make([]byte, receiveBuffer)}, err
}

// Progress counts the answers so far.
func (s *Socket) Progress() int64 { return s.progress.Load() }

// Interrupt does nothing: the wait ends by its own time-out.
func (s *Socket) Interrupt() {}

// Close closes the socket.
func (s *Socket) Close() { _ = unix.Close(s.fd) }

// Batch sends n requests and reads the kernel's answer to each. request appends the
// one of a place to others. answered is called with the place and the error, nil if
// the request was carried out, and with what follows the errno in the answer, valid
// during the call. The kernel carries the requests out in order and goes on after
// one that failed. Batch returns an error, ErrNoAnswer among others, if answers are
// missing.
func (s *Socket) Batch(n int, request func(b []byte, i int) []byte, answered func(i int, err error, rest []byte)) error {
	batch := make([]byte, 0, batchBytes+batchBytes/2)
	first := 0
	for i := range n {
		start := len(batch)
		batch = request(batch, i)
		s.number(batch[start:], unix.NLM_F_ACK)
		full := i+1-first == batchMessages || len(batch) >= batchBytes
		if !full && i+1 < n {
			continue
		}
		if err := s.exchange(batch, first, i+1-first, answered); err != nil {
			return err
		}
		batch, first = batch[:0], i+1
	}
	return nil
}

// number gives a request its length, the next sequence number, and more flags.
func (s *Socket) number(r []byte, flags uint16) {
	s.seq++
	binary.NativeEndian.PutUint32(r, uint32(len(r)))
	binary.NativeEndian.PutUint16(r[6:], binary.NativeEndian.Uint16(r[6:])|flags)
	binary.NativeEndian.PutUint32(r[8:], s.seq)
}

// exchange sends the n requests numbered last and waits for as many answers.
func (s *Socket) exchange(batch []byte, first, n int, answered func(int, error, []byte)) error {
	if err := s.send(batch); err != nil {
		return err
	}
	oldest := s.seq - uint32(n) + 1
	for left := n; left > 0; {
		list, err := s.receive()
		if err != nil {
			return err
		}
		for a := range answers(list) {
			errno, last := a.end()
			place := a.seq - oldest // wraps far above n for an answer to an earlier batch
			if !last || place >= uint32(n) {
				continue
			}
			left--
			answered(first+int(place), asError(errno), a.data[min(4, len(a.data)):])
		}
	}
	return nil
}

func asError(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// Ask sends a question (with NLM_F_DUMP if the answer is a list) and calls item for
// each message of the answer, which is valid during the call. A list that the
// kernel calls inconsistent is asked for again; start is called before each try.
func (s *Socket) Ask(request []byte, start func(), item func(data []byte) error) error {
	err := ErrInterrupted
	for try := 0; try < askTries && errors.Is(err, ErrInterrupted); try++ {
		start()
		err = s.ask(request, item)
	}
	return err
}

func (s *Socket) ask(request []byte, item func([]byte) error) error {
	s.number(request, 0)
	if err := s.send(request); err != nil {
		return err
	}
	var failed error
	interrupted := false
	for {
		list, err := s.receive()
		if err != nil {
			return err
		}
		for a := range answers(list) {
			if a.seq != s.seq {
				continue
			}
			interrupted = interrupted || a.flags&unix.NLM_F_DUMP_INTR != 0
			errno, last := a.end()
			switch {
			case last && errno == unix.EINTR, last && errno == 0 && interrupted:
				return ErrInterrupted
			case last:
				return errors.Join(failed, asError(errno))
			case failed == nil: // the rest is read all the same: it belongs to this request
				failed = item(a.data)
			}
			if a.flags&unix.NLM_F_MULTI == 0 {
				return failed
			}
		}
	}
}

func (s *Socket) send(b []byte) error {
	for {
		_, err := unix.Write(s.fd, b)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR): // a signal, also those of the Go runtime
		case errors.Is(err, unix.EAGAIN):
			return fmt.Errorf("%w: it takes no request", ErrNoAnswer)
		default:
			return fmt.Errorf("send to the kernel: %w", err)
		}
	}
}

// receive returns what is valid until the next call.
func (s *Socket) receive() ([]byte, error) {
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return nil, ErrNoAnswer
		case errors.Is(err, unix.ENOBUFS):
			return nil, fmt.Errorf("%w: it got lost in a full buffer", ErrNoAnswer)
		case err != nil:
			return nil, fmt.Errorf("receive from the kernel: %w", err)
		case n > len(s.buf):
			return nil, fmt.Errorf("%w that fits: %d bytes", ErrNoAnswer, n)
		default:
			s.progress.Add(1)
			return s.buf[:n], nil
		}
	}
}

// Subscription is a netlink socket that hears what others change.
type Subscription struct {
	fd  int
	buf []byte
}

// Subscribe hears the changes of NETLINK_ROUTE in some groups, a union of
// unix.RTMGRP_…, in the network namespace of the calling thread. No capability is
// needed.
func Subscribe(groups uint32) (*Subscription, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe: %w", err), unix.Close(fd))
	}
	return &Subscription{fd: fd, buf: make([]byte, receiveBuffer)}, nil
}

// Close ends the subscription.
func (s *Subscription) Close() { _ = unix.Close(s.fd) }

// Pending calls heard for each change since the last call and does not wait. lost
// reports that there were more than the socket could hold.
func (s *Subscription) Pending(heard func(typ uint16, data []byte)) (lost bool, err error) {
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return lost, nil
		case errors.Is(err, unix.ENOBUFS), err == nil && n > len(s.buf):
			lost = true
		case err != nil:
			return lost, fmt.Errorf("hear changes: %w", err)
		default:
			for a := range answers(s.buf[:n]) {
				heard(a.typ, a.data)
			}
		}
	}
}
