package relay

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// verify holds that sockets that somebody kept are what the relay would have opened: a
// TCP listener and a UDP socket of its family on its port. Their options, which another
// version may have set otherwise, are set anew.
func verify(fds []int, r *Relay) error {
	tcp, udp := fds[0], fds[1]
	for _, want := range []struct{ fd, option, value int }{
		{tcp, unix.SO_DOMAIN, domainOf(r.family)}, {tcp, unix.SO_TYPE, unix.SOCK_STREAM},
		{tcp, unix.SO_PROTOCOL, unix.IPPROTO_TCP}, {tcp, unix.SO_ACCEPTCONN, 1},
		{udp, unix.SO_DOMAIN, domainOf(r.family)}, {udp, unix.SO_TYPE, unix.SOCK_DGRAM},
		{udp, unix.SO_PROTOCOL, unix.IPPROTO_UDP},
	} {
		if got, err := unix.GetsockoptInt(want.fd, unix.SOL_SOCKET, want.option); err != nil || got != want.value {
			return errors.Join(fmt.Errorf("socket option %d is %d, not %d", want.option, got, want.value), err)
		}
	}
	for _, fd := range fds {
		if port, err := portOf(fd); err != nil || port != int(r.port) {
			return errors.Join(fmt.Errorf("a socket of port %d, not %d", port, r.port), err)
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			return fmt.Errorf("take over a socket: %w", err)
		}
	}
	return errors.Join(setAll(tcp, listenerOptions(r.family)...), unix.Listen(tcp, backlog), prepareUDP(udp, r.family))
}

// portOf is the port of a socket at all addresses; an error if it has one address only.
func portOf(fd int) (int, error) {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		if a.Addr == [4]byte{} {
			return a.Port, nil
		}
	case *unix.SockaddrInet6:
		if a.Addr == [16]byte{} {
			return a.Port, nil
		}
	}
	return 0, errors.New("it is not at all addresses")
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = closeNow(fd)
	}
}
