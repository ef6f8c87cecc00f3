package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// HasSCTP reports whether the kernel has SCTP sockets: Serve and Probe take SCTP if
// it has.
func HasSCTP() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

// listenSCTP makes a listening socket on the host. An SCTP association of one stream
// each way reads and writes as a TCP connection does, so that package net can do the
// rest.
func (h *Host) listenSCTP(addr netip.AddrPort) (net.Listener, error) {
	fd := -1
	err := h.Do(func() (err error) {
		fd, err = unix.Socket(domainOf(addr.Addr()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_SCTP)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("on %s: make an SCTP socket: %w", h.name, err)
	}
	file := os.NewFile(uintptr(fd), "sctp")
	defer file.Close() // the listener has a copy
	if err := errors.Join(unix.Bind(fd, sockaddr(addr)), unix.Listen(fd, unix.SOMAXCONN)); err != nil {
		return nil, fmt.Errorf("on %s: listen at %s: %w", h.name, addr, err)
	}
	ln, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("on %s: listen at %s: %w", h.name, addr, err)
	}
	return ln, nil
}

// hearErrors makes an SCTP socket fail on an ICMP error, as a TCP one does by itself
// (net/sctp/input.c, sctp_v4_err).
func hearErrors(fd int, dst netip.Addr) error {
	level, option := unix.SOL_IP, unix.IP_RECVERR
	if dst.Is6() {
		level, option = unix.SOL_IPV6, unix.IPV6_RECVERR
	}
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return fmt.Errorf("ask for ICMP errors: %w", err)
	}
	return nil
}

func domainOf(addr netip.Addr) int {
	if addr.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}
