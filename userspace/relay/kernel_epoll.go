package relay

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// poller is an epoll set of many sockets. The runtime's own poller watches the set, so
// that waiting holds no thread: an event costs no goroutine of its own, and where there
// are many at once one call gets all.
type poller struct {
	fd     int
	file   *os.File
	raw    syscall.RawConn
	events [128]unix.EpollEvent
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll set: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // else the runtime would not watch it
		return nil, errors.Join(fmt.Errorf("make an epoll set: %w", err), unix.Close(fd))
	}
	file := os.NewFile(uintptr(fd), "epoll")
	raw, err := file.SyscallConn()
	if err == nil {
		err = file.SetDeadline(time.Time{}) // an error where it is not watched
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch an epoll set: %w", err), file.Close())
	}
	return &poller{fd: fd, file: file, raw: raw}, nil
}

func (p *poller) close() { _ = p.file.Close() }

// label is what an event is known by: a socket's place, and whose of that place it is.
type label struct{ place, generation int32 }

// watch tells of everything that changes with a connection, once each.
func (p *poller) watch(s socket, as label) error {
	return watchNow(p.fd, int(s), &unix.EpollEvent{Fd: as.place, Pad: as.generation,
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET})
}

// watchListener tells of connections to accept as long as there are some; one poller
// of those that watch it at least.
func (p *poller) watchListener(s socket, as label) error {
	return watchNow(p.fd, int(s), &unix.EpollEvent{Fd: as.place, Pad: as.generation, Events: unix.EPOLLIN | unix.EPOLLEXCLUSIVE})
}

func (p *poller) forget(s socket) { _ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, int(s), nil) }

// poll returns what has happened, and does not wait.
func (p *poller) poll() []unix.EpollEvent { return p.events[:pollNow(p.fd, p.events[:])] }

// park calls turn until it reports true, and waits for events whenever it reports
// false. It ends with os.ErrDeadlineExceeded at the time of wakeAt.
func (p *poller) park(turn func(uintptr) bool) error { return p.raw.Read(turn) }

// wakeAt ends waiting at a time; the zero time: never. It may be called from any
// goroutine.
func (p *poller) wakeAt(t time.Time) { _ = p.file.SetReadDeadline(t) }

// wake ends waiting at once.
func (p *poller) wake() { p.wakeAt(time.Unix(1, 0)) }

// readiness is what an event says of a socket.
func readiness(events uint32) (in, out, fault bool) {
	fault = events&unix.EPOLLERR != 0
	hup := events&unix.EPOLLHUP != 0
	return fault || hup || events&(unix.EPOLLIN|unix.EPOLLRDHUP) != 0, fault || hup || events&unix.EPOLLOUT != 0, fault
}
