package conntrack

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

const (
	passTries = 5
	// The kernel fills a dump's buffer up to 32 KiB at a time.
	dumpBuffer = 64 << 10
	// Each deletion may be refused, in about 1 KiB of the socket's buffer, which is
	// 208 KiB unless configured otherwise.
	deleteBatch = 128
	// The kernel answers at once; this ends the wait for an answer that got lost.
	answerTimeout = 10 * time.Second
)

// errAgain: the pass may have missed entries or lost count.
var errAgain = errors.New("interrupted by changes of the table")

// Clean deletes the stale flows of one family from the kernel's table and returns
// how many. The table is streamed, once for each protocol concerned and filtered
// by the kernel, and is held nowhere; memory does not grow with it. A pass that
// the kernel calls incomplete is repeated, at most 5 times in all. An empty
// Policy reads nothing. The network namespace is that of the calling thread.
// Needs CAP_NET_ADMIN.
func Clean(ctx context.Context, family proxier.Family, p *Policy) (deleted int, err error) {
	if p.Empty() {
		return 0, nil
	}
	deleted, err = repeat(func() (int, error) { return pass(ctx, family, p) })
	if err != nil {
		err = fmt.Errorf("delete stale %s flows: %w", family, err)
	}
	return deleted, err
}

// List calls each for the flows of one family that a policy can be about: those of UDP
// and SCTP. It returns what Clean would.
func List(ctx context.Context, family proxier.Family, each func(Flow)) error {
	s, err := open()
	if err != nil {
		return err
	}
	defer s.close()
	for _, protocol := range []proxier.Protocol{proxier.UDP, proxier.SCTP} {
		err := stream(ctx, s, query{family, protocol}, func(e entry) error { each(e.flow); return nil })
		if err != nil && !errors.Is(err, errAgain) { // what was missed is missed
			return err
		}
	}
	return nil
}

// repeat returns the sum of what the passes deleted and the error of the last.
func repeat(pass func() (int, error)) (deleted int, err error) {
	for range passTries {
		var n int
		n, err = pass()
		deleted += n
		if !errors.Is(err, errAgain) {
			break
		}
	}
	return deleted, err
}

func pass(ctx context.Context, family proxier.Family, p *Policy) (deleted int, err error) {
	list, err := open()
	if err != nil {
		return 0, err
	}
	defer list.close()
	remove, err := open()
	if err != nil {
		return 0, err
	}
	defer remove.close()
	d := &deleter{socket: remove, family: family}
	for _, protocol := range p.protocols() {
		err = errors.Join(stream(ctx, list, query{family, protocol}, func(e entry) error {
			if !p.Stale(e.flow) {
				return nil
			}
			return d.delete(e)
		}), d.flush())
		if err != nil {
			break
		}
	}
	return d.deleted, err
}

// stream calls f for each entry of the table. The error of f ends it.
func stream(ctx context.Context, s *socket, q query, f func(entry) error) error {
	if err := s.send(dumpRequest(q)); err != nil {
		return fmt.Errorf("list flows: %w", err)
	}
	interrupted := false
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		answer, err := s.receive()
		if err != nil {
			return fmt.Errorf("list flows: %w", err)
		}
		for m := range messages(answer) {
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.typ {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				return dumpEnd(m, interrupted)
			}
			e, ok := parse(m.data, q)
			if !ok {
				continue
			}
			if err := f(e); err != nil {
				return err
			}
		}
	}
}

func dumpEnd(m message, interrupted bool) error {
	if err := m.errno(); err != nil {
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			return errAgain
		}
		return fmt.Errorf("list flows: %w", explain(err))
	}
	if interrupted {
		return errAgain
	}
	return nil
}

func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: needs CAP_NET_ADMIN", err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: needs the kernel module nf_conntrack_netlink", err)
	}
	return err
}

// deleter sends deletions in batches. The kernel works through a batch in order and
// answers what it refuses; of the last alone it is asked for an answer in any case,
// which tells the end. A hundred thousand deletions are some hundred answers.
type deleter struct {
	*socket
	family  proxier.Family
	batch   []byte
	last    int // where the last message of the batch begins
	pending int
	deleted int
}

func (d *deleter) delete(e entry) error {
	d.last = len(d.batch)
	d.batch = appendDeletion(d.batch, d.family, e)
	d.pending++
	if d.pending < deleteBatch {
		return nil
	}
	return d.flush()
}

func (d *deleter) flush() error {
	if d.pending == 0 {
		return nil
	}
	sent := d.pending
	acknowledge(d.batch[d.last:], sent)
	if err := d.send(d.batch); err != nil {
		return fmt.Errorf("delete flows: %w", err)
	}
	d.batch, d.pending = d.batch[:0], 0
	var failed error
	for number := uint32(0); number != uint32(sent); {
		answer, err := d.receive()
		if err != nil {
			return fmt.Errorf("delete flows: %w", err)
		}
		for m := range messages(answer) {
			number = m.number
			switch err := m.errno(); {
			case err == nil:
			case errors.Is(err, unix.ENOENT): // ended by itself meanwhile
				d.deleted--
			default:
				d.deleted--
				failed = fmt.Errorf("delete flows: %w", explain(err))
			}
		}
	}
	d.deleted += sent
	return failed
}

// socket speaks to conntrack in the network namespace of the thread that opened
// it.
type socket struct {
	fd  int
	buf []byte
}

func open() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink socket: %w", err)
	}
	timeout := unix.NsecToTimeval(int64(answerTimeout))
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netfilter netlink socket: %w", err), unix.Close(fd))
	}
	return &socket{fd: fd, buf: make([]byte, dumpBuffer)}, nil
}

func (s *socket) close() { _ = unix.Close(s.fd) }

func (s *socket) send(b []byte) error {
	for {
		err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// receive returns what is valid until the next call.
func (s *socket) receive() ([]byte, error) {
	for {
		n, from, err := unix.Recvfrom(s.fd, s.buf, unix.MSG_TRUNC)
		switch kernel, _ := from.(*unix.SockaddrNetlink); {
		case errors.Is(err, unix.EINTR): // a signal, also those of the Go runtime
		case errors.Is(err, unix.ENOBUFS):
			return nil, errAgain
		case errors.Is(err, unix.EAGAIN):
			return nil, fmt.Errorf("no answer from the kernel within %s", answerTimeout)
		case err != nil:
			return nil, err
		case kernel == nil || kernel.Pid != 0: // another process may send too
		case n > len(s.buf):
			return nil, errAgain
		default:
			return s.buf[:n], nil
		}
	}
}
