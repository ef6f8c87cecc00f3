package netlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

// DefaultTimeout is how long a Probe waits for an answer: long enough for two
// idle cores, shorter than the kernel's first retransmission of a SYN (1 s).
const DefaultTimeout = 400 * time.Millisecond

// slice bounds how late a Probe notices that its context was cancelled.
const slice = 50 * time.Millisecond

// Verdict is what came of a Probe.
type Verdict uint8

// The verdicts.
const (
	Failed      Verdict = iota // the probe itself could not be made: Result.Err
	Answered                   // a server answered
	Refused                    // a reset, or an ICMP port unreachable
	Timeout                    // nothing at all came back
	Unreachable                // no route, or another ICMP unreachable
)

func (v Verdict) String() string {
	switch v {
	case Answered:
		return "answered"
	case Refused:
		return "refused"
	case Timeout:
		return "timeout"
	case Unreachable:
		return "unreachable"
	}
	return "failed"
}

// Probe is one connection or association, or one UDP datagram, that asks a server of
// Serve.
type Probe struct {
	Protocol proxier.Protocol // SCTP: if HasSCTP
	Src      netip.AddrPort   // no address: routing chooses; port 0: the kernel chooses
	Dst      netip.AddrPort
	Timeout  time.Duration // for everything together; 0: DefaultTimeout
}

// Result is what a Probe met with.
type Result struct {
	Verdict    Verdict
	Endpoint   string         // Answered: the identity of the server
	ClientSeen netip.AddrPort // Answered: whom the server took for its client
	// Took is the time until a connection stood, or until a UDP answer was read, or
	// until the verdict was clear.
	Took  time.Duration
	Stood bool  // a connection was made, whatever came of it
	Err   error // nil if Answered
}

// Probe asks a server from the host.
func (h *Host) Probe(ctx context.Context, p Probe) Result {
	if p.Timeout == 0 {
		p.Timeout = DefaultTimeout
	}
	fd, err := h.socket(p)
	if err != nil {
		return Result{Verdict: Failed, Err: fmt.Errorf("probe from %s: %w", h.name, err)}
	}
	defer unix.Close(fd)

	start := time.Now()
	q := question{ctx: ctx, fd: fd, deadline: start.Add(p.Timeout)}
	if err := q.connect(p.Dst); err != nil {
		return q.failure(err, start)
	}
	took := time.Since(start)
	stood := p.Protocol != proxier.UDP
	line, err := q.ask(p.Protocol)
	if err != nil {
		r := q.failure(err, start)
		r.Stood = stood
		return r
	}
	if p.Protocol == proxier.UDP {
		took = time.Since(start)
	}
	id, client, _ := strings.Cut(strings.TrimSpace(line), " ")
	seen, err := netip.ParseAddrPort(client)
	if err != nil {
		return Result{Verdict: Failed, Took: took, Err: fmt.Errorf("probe from %s: answer %q: %w", h.name, line, err)}
	}
	return Result{Verdict: Answered, Endpoint: id, ClientSeen: seen, Took: took, Stood: stood}
}

// socket makes a non-blocking socket on the host, bound to the probe's source.
// Only this needs a thread in the namespace, so Took measures the network.
func (h *Host) socket(p Probe) (int, error) {
	kind := unix.SOCK_STREAM
	switch p.Protocol {
	case proxier.TCP, proxier.SCTP:
	case proxier.UDP:
		kind = unix.SOCK_DGRAM
	default:
		return 0, fmt.Errorf("no probe for %s", p.Protocol)
	}
	fd := -1
	err := h.Do(func() (err error) {
		fd, err = unix.Socket(domainOf(p.Dst.Addr()), kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(p.Protocol))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("make a socket: %w", err)
	}
	if err := prepare(fd, p); err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

func prepare(fd int, p Probe) error {
	if p.Protocol == proxier.SCTP {
		if err := hearErrors(fd, p.Dst.Addr()); err != nil {
			return err
		}
	}
	if p.Protocol != proxier.UDP {
		// Hanging up by a reset leaves no TIME_WAIT that would eat up ports.
		err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		if err != nil {
			return fmt.Errorf("set linger: %w", err)
		}
	}
	if !p.Src.IsValid() {
		return nil
	}
	if err := unix.Bind(fd, sockaddr(p.Src)); err != nil {
		return fmt.Errorf("bind to %s: %w", p.Src, err)
	}
	return nil
}

// question is a socket in use until a deadline.
type question struct {
	ctx      context.Context
	fd       int
	deadline time.Time
}

func (q question) connect(dst netip.AddrPort) error {
	err := unix.Connect(q.fd, sockaddr(dst))
	if !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	if err := q.await(unix.POLLOUT); err != nil {
		return err
	}
	return q.pending()
}

// pending is the error that the kernel keeps for the socket.
func (q question) pending() error {
	code, err := unix.GetsockoptInt(q.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}

// send sends the datagram. EPERM is how the kernel tells that rules of the
// sender's own host stopped it; an ICMP error behind it makes that a refusal.
func (q question) send() error {
	_, err := unix.Write(q.fd, []byte("?\n"))
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	if err := q.await(0); err != nil {
		return err
	}
	return q.pending()
}

// ask reads a server's line. Where there is a connection the server speaks first.
func (q question) ask(proto proxier.Protocol) (string, error) {
	if proto == proxier.UDP {
		if err := q.send(); err != nil {
			return "", err
		}
	}
	buf, n := make([]byte, 512), 0
	for n < len(buf) {
		if err := q.await(unix.POLLIN); err != nil {
			return "", err
		}
		got, err := unix.Read(q.fd, buf[n:])
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return "", err
		case got == 0:
			return "", errors.New("the server hung up without an answer")
		}
		n += got
		if buf[n-1] == '\n' {
			return string(buf[:n]), nil
		}
	}
	return "", errors.New("the answer has no end")
}

// await waits until the socket is ready, or has failed: what comes next says.
func (q question) await(events int16) error {
	fds := []unix.PollFd{{Fd: int32(q.fd), Events: events}}
	for {
		if err := q.ctx.Err(); err != nil {
			return err
		}
		left := time.Until(q.deadline)
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		n, err := unix.Poll(fds, int(min(left, slice)/time.Millisecond)+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll: %w", err)
		}
		if n > 0 {
			return nil
		}
	}
}

func (q question) failure(err error, start time.Time) Result {
	return Result{Verdict: verdictOf(err), Took: time.Since(start), Err: err}
}

// verdictOf reads an error of connect, send or receive.
func verdictOf(err error) Verdict {
	switch {
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET):
		return Refused
	case errors.Is(err, unix.ETIMEDOUT):
		return Timeout
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EACCES):
		return Unreachable
	}
	return Failed
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
