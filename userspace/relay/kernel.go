package relay

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

// Keepalive of both sides of a connection: a peer that is gone is noticed after
// three minutes of silence, or four if that began with the connection.
const (
	keepIdle     = 120 // seconds
	keepInterval = 15  // seconds
	keepCount    = 4
)

// backlog is how many connections may wait to be accepted; the kernel bounds it by
// net.core.somaxconn.
const backlog = 1 << 16

// conn is a socket that the runtime's poller watches. fd may be used for calls that
// do not wait, by whoever keeps the conn from being closed meanwhile.
type conn struct {
	fd   int
	file *os.File
	raw  syscall.RawConn
}

// adopt takes a non-blocking socket over. It is closed if that fails.
func adopt(fd int, name string) (*conn, error) {
	file := os.NewFile(uintptr(fd), name)
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s: %w", name, err), file.Close())
	}
	return &conn{fd, file, raw}, nil
}

func (c *conn) close() { _ = c.file.Close() }

// abort sends the peer a reset.
func (c *conn) abort() { _ = disconnectNow(c.fd) }

// wake ends all waiting on the socket, for good.
func (c *conn) wake() { _ = c.file.SetDeadline(time.Unix(1, 0)) }

// read and write do not wait: the error is EAGAIN.
func (c *conn) read(b []byte) (int, error) {
	for {
		n, err := readNow(c.fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func (c *conn) write(b []byte) (int, error) {
	for {
		n, err := writeNow(c.fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// endWrite tells the peer that nothing more will come.
func (c *conn) endWrite() error { return shutdownNow(c.fd, unix.SHUT_WR) }

// hasPeer reports whether the connection stands, or one half of it.
func (c *conn) hasPeer() bool { return hasPeerNow(c.fd) }

// pending takes the error that the kernel keeps for the socket.
func (c *conn) pending() error {
	var b [4]byte
	_, err := getNow(c.fd, unix.SOL_SOCKET, unix.SO_ERROR, b[:])
	if code := native32(b[:]); err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}

func domainOf(f proxier.Family) int {
	if f == proxier.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// option is one integer socket option.
type option struct{ level, name, value int }

func setAll(fd int, options ...option) error {
	for _, o := range options {
		if err := setNow(fd, o); err != nil {
			return fmt.Errorf("set socket option %d of level %d: %w", o.name, o.level, err)
		}
	}
	return nil
}

// keepalive are the options by which the kernel asks a silent peer. A client's socket
// inherits them from the listener; an endpoint's gets them from the sweep, since most
// connections are over by then.
func keepalive() []option {
	return []option{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.SOL_TCP, unix.TCP_KEEPIDLE, keepIdle},
		{unix.SOL_TCP, unix.TCP_KEEPINTVL, keepInterval},
		{unix.SOL_TCP, unix.TCP_KEEPCNT, keepCount},
	}
}

// noDelay sends what there is at once: whether to wait for more was the sender's choice.
func noDelay() option { return option{unix.SOL_TCP, unix.TCP_NODELAY, 1} }

// watchPeer has the kernel ask the peer whether it is there.
func (c *conn) watchPeer() {
	_ = c.raw.Control(func(fd uintptr) { _ = setAll(int(fd), keepalive()...) }) // it may have ended by now
}

// listenTCP opens the listener at all addresses of a family. Another process may
// have the same port at the same time, if it belongs to the same user.
func listenTCP(f proxier.Family, port uint16) (*conn, error) {
	fd, err := unix.Socket(domainOf(f), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return nil, fmt.Errorf("listen on %s TCP: %w", f, err)
	}
	options := append(keepalive(), noDelay(),
		option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}, option{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1})
	if f == proxier.IPv6 {
		options = append(options, option{unix.SOL_IPV6, unix.IPV6_V6ONLY, 1}, option{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1})
	} else {
		options = append(options, option{unix.SOL_IP, unix.IP_PKTINFO, 1})
	}
	err = setAll(fd, options...)
	if err == nil {
		err = unix.Bind(fd, sockaddrOf(netip.AddrPortFrom(unspecified(f), port)))
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s TCP port %d: %w", f, port, err), unix.Close(fd))
	}
	return adopt(fd, "listener")
}

// accept returns EAGAIN if nobody waits.
func (c *conn) accept() (fd int, client netip.AddrPort, err error) {
	for {
		fd, client, err = acceptNow(c.fd)
		if err != unix.EINTR && err != unix.ECONNABORTED {
			return fd, client, err
		}
	}
}

// soOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST.
const soOriginalDst = 80

// originalDst is the address that a client asked, before netfilter led it here.
func originalDst(fd int, f proxier.Family) (netip.AddrPort, error) {
	level := unix.SOL_IP
	if f == proxier.IPv6 {
		level = unix.SOL_IPV6
	}
	var sa unix.RawSockaddrInet6
	if err := getAddrNow(fd, level, soOriginalDst, &sa); err != nil {
		return netip.AddrPort{}, fmt.Errorf("ask for the original destination: %w", err)
	}
	return addrPortOf(&sa), nil
}

func unspecified(f proxier.Family) netip.Addr {
	if f == proxier.IPv6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func sockaddrOf(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// dialing is a connection on its way to an endpoint.
type dialing struct {
	to      netip.AddrPort
	mark    int
	timeout time.Duration
}

// connect makes a connection; its packets bear the mark.
func (d dialing) connect(ns *namespace) (*conn, error) {
	fd, err := ns.socket(domainOf(proxier.FamilyOf(d.to.Addr())), unix.SOCK_STREAM, unix.IPPROTO_TCP)
	if err != nil {
		return nil, err
	}
	if err = setAll(fd, noDelay(), option{unix.SOL_SOCKET, unix.SO_MARK, d.mark}); err == nil {
		err = connectNow(fd, d.to)
	}
	if err != nil && err != unix.EINPROGRESS {
		_ = unix.Close(fd)
		return nil, err
	}
	c, err := adopt(fd, "endpoint")
	if err != nil || c.hasPeer() { // a pod of this node has answered by now
		return c, err
	}
	if err := c.awaitPeer(d.timeout); err != nil {
		c.abort()
		c.close()
		return nil, err
	}
	return c, nil
}

// awaitPeer waits until a connection stands.
func (c *conn) awaitPeer(timeout time.Duration) error {
	if err := c.file.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	var failed error
	err := c.raw.Write(func(uintptr) bool {
		if failed = c.pending(); failed != nil {
			return true
		}
		return c.hasPeer()
	})
	if err = errors.Join(failed, err); err != nil {
		return err
	}
	return c.file.SetWriteDeadline(time.Time{})
}

// namespace is a network namespace other than the program's own; nil is that. Tests
// run several nodes in one process, each in its namespace.
type namespace struct{ fd int }

// threadNamespace is a link to the calling thread's network namespace.
const threadNamespace = "/proc/thread-self/ns/net"

// ownNamespace is that of the calling thread. Another goroutine runs on a thread that
// nobody has moved.
func ownNamespace() (*namespace, error) {
	here, err := os.Readlink(threadNamespace)
	if err != nil {
		return nil, fmt.Errorf("read the network namespace: %w", err)
	}
	home := make(chan string)
	go func() {
		name, _ := os.Readlink(threadNamespace)
		home <- name
	}()
	if <-home == here {
		return nil, nil
	}
	fd, err := unix.Open(threadNamespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	return &namespace{fd}, nil
}

func (ns *namespace) close() {
	if ns != nil {
		_ = unix.Close(ns.fd)
	}
}

// do calls f on a thread in the namespace.
func (ns *namespace) do(f func() error) error {
	if ns == nil {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// socket makes a non-blocking socket in the namespace.
func (ns *namespace) socket(domain, kind, protocol int) (fd int, err error) {
	if ns == nil {
		return socketNow(domain, kind, protocol)
	}
	err = ns.do(func() (err error) {
		fd, err = socketNow(domain, kind, protocol)
		return err
	})
	return fd, err
}

// raiseFileLimit raises the number of files that the process may have open as far as
// it may, and returns it.
func raiseFileLimit() (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	for _, most := range []uint64{max(limit.Max, wantFiles), limit.Max} {
		raised := unix.Rlimit{Cur: max(limit.Cur, min(most, max(wantFiles, limit.Max))), Max: most}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised); err == nil {
			return raised.Cur, nil
		}
	}
	return limit.Cur, nil
}

// wantFiles is enough for half a million connections; the kernel's own limit for a
// process, fs.nr_open, is mostly higher.
const wantFiles = 1 << 20

// pipe holds bytes on their way from one socket to another.
type pipe struct{ r, w int }

// pipeSize is how many bytes a pipe takes: as much as a socket is likely to have.
const pipeSize = 1 << 20

func newPipe() (*pipe, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	// Where pipes of one user are limited it stays as small as it is.
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
	return &pipe{fds[0], fds[1]}, nil
}

func (p *pipe) close() { _, _ = unix.Close(p.r), unix.Close(p.w) }

// fill takes what the socket has; 0 at its end, EAGAIN if it has nothing.
func (p *pipe) fill(from *conn) (int, error) { return splice(from.fd, p.w, pipeSize) }

// drain gives the socket what it takes of n bytes.
func (p *pipe) drain(to *conn, n int) (int, error) { return splice(p.r, to.fd, n) }

func splice(from, to, n int) (int, error) {
	for {
		m, err := spliceNow(from, to, n)
		if err != unix.EINTR {
			return m, err
		}
	}
}
