package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

// asker asks conntrack which address a client meant: the UDP counterpart of
// SO_ORIGINAL_DST.
type asker struct {
	mu     sync.Mutex
	fd     int
	family byte
	buf    [4096]byte
}

// Messages and attributes, include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	ctGet         = 1 // IPCTNL_MSG_CT_GET
	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaProtoNum   = 1
	ctaSrcPort    = 2
	ctaDstPort    = 3
)

func newAsker(f proxier.Family) (*asker, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open conntrack socket: %w", err)
	}
	// The kernel answers within the call; the bound is for one that does not.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return nil, errors.Join(fmt.Errorf("open conntrack socket: %w", err), unix.Close(fd))
	}
	return &asker{fd: fd, family: byte(domainOf(f))}, nil
}

func (a *asker) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fd >= 0 {
		_ = unix.Close(a.fd)
	}
	a.fd = -1
}

// original is the address that the client of a flow sent to, whose packets come to
// port of this node. It costs about 10 us at any size of the table. ENOENT: conntrack
// knows nothing of it.
func (a *asker) original(k flowKey, port uint16) (netip.AddrPort, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fd < 0 {
		return netip.AddrPort{}, unix.EBADF
	}
	b := question(a.family, k, port)
	if err := unix.Sendto(a.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return netip.AddrPort{}, fmt.Errorf("ask conntrack: %w", err)
	}
	for {
		n, err := unix.Read(a.fd, a.buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("ask conntrack: %w", err)
		}
		return originalIn(a.buf[:n])
	}
}

// question asks for the entry whose answers go from the relay to the client.
func question(family byte, k flowKey, port uint16) []byte {
	src, dst := uint16(1), uint16(2) // CTA_IP_V4_SRC, CTA_IP_V4_DST
	if k.local.Is6() {
		src, dst = 3, 4
	}
	addrs := attribute(attribute(nil, src, k.local.AsSlice()), dst, k.client.Addr().AsSlice())
	ports := attribute(nil, ctaProtoNum, []byte{unix.IPPROTO_UDP})
	ports = attribute(ports, ctaSrcPort, binary.BigEndian.AppendUint16(nil, port))
	ports = attribute(ports, ctaDstPort, binary.BigEndian.AppendUint16(nil, k.client.Port()))
	tuple := attribute(nil, ctaTupleIP|unix.NLA_F_NESTED, addrs)
	tuple = attribute(tuple, ctaTupleProto|unix.NLA_F_NESTED, ports)

	b := make([]byte, 4, 128)
	b = binary.NativeEndian.AppendUint16(b, unix.NFNL_SUBSYS_CTNETLINK<<8|ctGet)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0) // sequence number, port: one at a time
	b = append(b, family, unix.NFNETLINK_V0, 0, 0)
	b = attribute(b, ctaTupleReply|unix.NLA_F_NESTED, tuple)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return b
}

// originalIn reads the answer.
func originalIn(b []byte) (netip.AddrPort, error) {
	if len(b) < unix.NLMSG_HDRLEN+4 {
		return netip.AddrPort{}, errors.New("ask conntrack: answer is too short")
	}
	if binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR {
		errno := unix.Errno(-int32(binary.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN:])))
		return netip.AddrPort{}, fmt.Errorf("ask conntrack: %w", errno)
	}
	var addr netip.Addr
	var port uint16
	for kind, tuple := range attributes(b[unix.NLMSG_HDRLEN+4:]) {
		if kind != ctaTupleOrig {
			continue
		}
		for kind, part := range attributes(tuple) {
			for field, value := range attributes(part) {
				switch {
				case kind == ctaTupleIP && (field == 2 || field == 4): // CTA_IP_V4_DST, CTA_IP_V6_DST
					addr, _ = netip.AddrFromSlice(value)
				case kind == ctaTupleProto && field == ctaDstPort && len(value) == 2:
					port = binary.BigEndian.Uint16(value)
				}
			}
		}
	}
	if !addr.IsValid() {
		return netip.AddrPort{}, errors.New("ask conntrack: answer has no address")
	}
	return netip.AddrPortFrom(addr, port), nil
}

func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.NLA_HDRLEN+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	for len(b)%unix.NLA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// attributes stops at the first that does not fit.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.NLA_HDRLEN {
			n := int(binary.NativeEndian.Uint16(b))
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if n < unix.NLA_HDRLEN || n > len(b) || !yield(kind, b[unix.NLA_HDRLEN:n]) {
				return
			}
			b = b[min(len(b), (n+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
		}
	}
}
