package relay

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls of the hot path. None of them waits: sockets and pipes are non-blocking.
// So the runtime need not be told of them, which would hand the processor to another
// thread whenever one takes more than 20 us, as a connect to a pod of this node does.

func result(n, _ uintptr, errno unix.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func readNow(fd int, b []byte) (int, error) {
	return result(unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b))))
}

// sendNow raises no signal where the peer takes nothing any more.
func sendNow(fd int, b []byte) (int, error) {
	return result(unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_NOSIGNAL, 0, 0))
}

// closeNow does not wait on a socket that does not linger, nor on a pipe.
func closeNow(fd int) error {
	_, err := result(unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0))
	return err
}

// pollNow returns how many events there are, 0 if there are none.
func pollNow(epoll int, events []unix.EpollEvent) int {
	n, _ := result(unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
		uintptr(len(events)), 0, 0, 0))
	return n
}

func watchNow(epoll, fd int, e *unix.EpollEvent) error {
	_, err := result(unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(e)), 0, 0))
	return err
}

func spliceNow(from, to, n int) (int, error) {
	return result(unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n),
		unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE))
}

func setNow(fd int, o option) error {
	value := int32(o.value)
	_, err := result(unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(o.level), uintptr(o.name),
		uintptr(unsafe.Pointer(&value)), unsafe.Sizeof(value), 0))
	return err
}

// connectNow is EINPROGRESS unless it fails.
func connectNow(fd int, to netip.AddrPort) error {
	sa, size := rawOf(to)
	_, err := result(unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), size))
	return err
}

// disconnectNow ends a connection by a reset (connect(2), AF_UNSPEC).
func disconnectNow(fd int) error {
	var sa unix.RawSockaddrInet4 // its family is AF_UNSPEC
	_, err := result(unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa)))
	return err
}

// rawOf is an address as the kernel takes it: a struct sockaddr_in or sockaddr_in6,
// which are alike up to the port.
func rawOf(a netip.AddrPort) (sa unix.RawSockaddrInet6, size uintptr) {
	port := [2]byte{byte(a.Port() >> 8), byte(a.Port())}
	if a.Addr().Is4() {
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(&sa))
		four.Family, four.Addr = unix.AF_INET, a.Addr().As4()
		size = unsafe.Sizeof(*four)
	} else {
		sa.Family, sa.Addr = unix.AF_INET6, a.Addr().As16()
		size = unsafe.Sizeof(sa)
	}
	*(*[2]byte)(unsafe.Pointer(&sa.Port)) = port
	return sa, size
}

// addrPortOf is what rawOf was made of.
func addrPortOf(sa *unix.RawSockaddrInet6) netip.AddrPort {
	b := *(*[2]byte)(unsafe.Pointer(&sa.Port))
	port := uint16(b[0])<<8 | uint16(b[1])
	if sa.Family == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), port)
}

func shutdownNow(fd, how int) error {
	_, err := result(unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), uintptr(how), 0))
	return err
}

// socketNow makes a non-blocking socket.
func socketNow(domain, kind, protocol int) (int, error) {
	return result(unix.RawSyscall(unix.SYS_SOCKET, uintptr(domain),
		uintptr(kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC), uintptr(protocol)))
}

// acceptNow returns a non-blocking socket.
func acceptNow(fd int) (int, netip.AddrPort, error) {
	var sa unix.RawSockaddrInet6
	size := uint32(unsafe.Sizeof(sa))
	n, err := result(unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&sa)),
		uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0))
	return n, addrPortOf(&sa), err
}

// getNow reads a socket option into b and returns how much of it.
func getNow(fd, level, name int, b []byte) (int, error) {
	size := uint32(len(b))
	_, err := result(unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(unsafe.Pointer(&size)), 0))
	return int(size), err
}

// getAddrNow reads a socket option that is an address, whose size depends on the
// family.
func getAddrNow(fd, level, name int, sa *unix.RawSockaddrInet6) error {
	size := uint32(unsafe.Sizeof(*sa))
	if level == unix.SOL_IP {
		size = uint32(unsafe.Sizeof(unix.RawSockaddrInet4{})) // the kernel wants it exactly
	}
	_, err := result(unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(sa)), uintptr(unsafe.Pointer(&size)), 0))
	return err
}
