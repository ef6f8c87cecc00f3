package relay

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
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

// socket is a TCP socket of the relay, by its number. No call on it waits.
type socket int

// none is no socket.
const none socket = -1

// close may leave bytes with the kernel that are still on their way.
func (s socket) close() { _ = closeNow(int(s)) }

// abort sends the peer a reset.
func (s socket) abort() { _ = disconnectNow(int(s)) }

// read and write return EAGAIN if there is nothing, or no room.
func (s socket) read(b []byte) (int, error) {
	for {
		n, err := readNow(int(s), b)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func (s socket) write(b []byte) (int, error) {
	for {
		n, err := sendNow(int(s), b)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// endWrite tells the peer that nothing more will come.
func (s socket) endWrite() error { return shutdownNow(int(s), unix.SHUT_WR) }

// pending takes the error that the kernel keeps for the socket.
func (s socket) pending() error {
	var b [4]byte
	_, err := getNow(int(s), unix.SOL_SOCKET, unix.SO_ERROR, b[:])
	if code := native32(b[:]); err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}

// standing is how the peer stands to what was written; zero if the kernel does not
// tell.
func (s socket) standing() standing {
	t, err := unix.GetsockoptTCPInfo(int(s), unix.SOL_TCP, unix.TCP_INFO)
	if err != nil {
		return standing{}
	}
	return standing{waiting: t.Notsent_bytes > 0, taken: t.Bytes_acked, flying: t.Unacked > 0,
		quiet: time.Duration(t.Last_ack_recv) * time.Millisecond}
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
// inherits them from the listener; an endpoint's gets them at the first look, since most
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
func (s socket) watchPeer() { _ = setAll(int(s), keepalive()...) }

// listenTCP opens the listener at all addresses of a family. Another process may
// have the same port at the same time, if it belongs to the same user.
func listenTCP(f proxier.Family, port uint16) (socket, error) {
	fd, err := socketNow(domainOf(f), unix.SOCK_STREAM, unix.IPPROTO_TCP)
	if err != nil {
		return none, fmt.Errorf("listen on %s TCP: %w", f, err)
	}
	options := append(listenerOptions(f), option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}, option{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1})
	if f == proxier.IPv6 { // it cannot be set later
		options = append(options, option{unix.SOL_IPV6, unix.IPV6_V6ONLY, 1})
	}
	err = setAll(fd, options...)
	if err == nil {
		err = unix.Bind(fd, sockaddrOf(netip.AddrPortFrom(unspecified(f), port)))
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		return none, errors.Join(fmt.Errorf("listen on %s TCP port %d: %w", f, port, err), unix.Close(fd))
	}
	return socket(fd), nil
}

// listenerOptions may be set again on a listener that stands.
func listenerOptions(f proxier.Family) []option {
	options := append(keepalive(), noDelay())
	if f == proxier.IPv6 {
		return append(options, option{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1})
	}
	return append(options, option{unix.SOL_IP, unix.IP_PKTINFO, 1})
}

// accept returns EAGAIN if nobody waits.
func (s socket) accept() (c socket, client netip.AddrPort, err error) {
	for {
		fd, client, err := acceptNow(int(s))
		if err != unix.EINTR && err != unix.ECONNABORTED {
			return socket(fd), client, err
		}
	}
}

// soOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST.
const soOriginalDst = 80

// originalDst is the address that a client asked, before netfilter led it here.
func originalDst(s socket, f proxier.Family) (netip.AddrPort, error) {
	level := unix.SOL_IP
	if f == proxier.IPv6 {
		level = unix.SOL_IPV6
	}
	var sa unix.RawSockaddrInet6
	if err := getAddrNow(int(s), level, soOriginalDst, &sa); err != nil {
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

// connect begins a connection; its packets bear the mark. Whether it comes about is
// to be heard from the socket.
func connect(to netip.AddrPort, mark int) (socket, error) {
	fd, err := socketNow(domainOf(proxier.FamilyOf(to.Addr())), unix.SOCK_STREAM, unix.IPPROTO_TCP)
	if err != nil {
		return none, err
	}
	if err = setAll(fd, noDelay(), option{unix.SOL_SOCKET, unix.SO_MARK, mark}); err == nil {
		err = connectNow(fd, to)
	}
	if err != nil && err != unix.EINPROGRESS {
		_ = closeNow(fd)
		return none, err
	}
	return socket(fd), nil
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

// enter moves the calling thread, which must end with its goroutine.
func (ns *namespace) enter() error {
	if ns == nil {
		return nil
	}
	if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	return nil
}

// do calls f on a thread in the namespace.
func (ns *namespace) do(f func() error) error {
	if ns == nil {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := ns.enter(); err != nil {
			done <- err
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
func (p *pipe) fill(from socket) (int, error) { return splice(int(from), p.w, pipeSize) }

// drain gives the socket what it takes of n bytes.
func (p *pipe) drain(to socket, n int) (int, error) { return splice(p.r, int(to), n) }

func splice(from, to, n int) (int, error) {
	for {
		m, err := spliceNow(from, to, n)
		if err != unix.EINTR {
			return m, err
		}
	}
}

// openNothing opens a file that is only there to be closed; -1 if there is none left.
func openNothing() int {
	fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}
