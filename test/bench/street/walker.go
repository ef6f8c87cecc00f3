package street

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Patience is how long a connect may take before it counts as failed. The kernel
// sends a lost SYN again after a second; a first try is what is measured.
const Patience = 500 * time.Millisecond

// Walk runs f on a thread in the client's namespace, with a Walker that is valid
// until f returns.
func (s *Street) Walk(f func(*Walker) error) error {
	return s.Client.Do(func() error { return f(&Walker{}) })
}

// Walker makes connections, one after the other, on the thread that Walk gave it.
type Walker struct{}

// Met is what came of one connection.
type Met struct {
	// Pod is who answered; invalid if it was not asked.
	Pod netip.Addr
	// Took is the time until the connection stood.
	Took time.Duration
}

// Connect connects to an address and hangs up by a reset, which leaves nothing
// behind at either end.
func (w *Walker) Connect(to netip.AddrPort) (time.Duration, error) {
	met, err := w.visit(to, false)
	return met.Took, err
}

// Ask connects to an address and reads who answered.
func (w *Walker) Ask(to netip.AddrPort) (Met, error) { return w.visit(to, true) }

func (w *Walker) visit(to netip.AddrPort, ask bool) (Met, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Met{}, fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(int64(Patience))
	err = errors.Join(
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
	if err != nil {
		return Met{}, fmt.Errorf("prepare a socket: %w", err)
	}
	start := time.Now()
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	if errors.Is(err, unix.EINTR) {
		err = settle(fd)
	}
	met := Met{Took: time.Since(start)}
	if err != nil {
		return met, fmt.Errorf("connect to %s: %w", to, err)
	}
	if !ask {
		return met, nil
	}
	var pod [4]byte
	for n := 0; n < len(pod); {
		got, err := unix.Read(fd, pod[n:])
		if err != nil && !errors.Is(err, unix.EINTR) {
			return met, fmt.Errorf("read from %s: %w", to, err)
		}
		if got == 0 && err == nil {
			return met, fmt.Errorf("read from %s: the server hung up", to)
		}
		n += max(0, got)
	}
	met.Pod = netip.AddrFrom4(pod)
	return met, nil
}

// settle waits for the end of a connect that a signal interrupted: it goes on, and
// cannot be called again. Go's runtime sends threads signals of its own.
func settle(fd int) error {
	for end := time.Now().Add(Patience); ; {
		left := time.Until(end)
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(left.Milliseconds())+1)
		if n == 0 || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		status, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil || status == 0 {
			return err
		}
		return unix.Errno(status)
	}
}
