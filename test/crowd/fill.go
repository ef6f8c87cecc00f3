package crowd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"switchyard/proxier"
	"switchyard/proxier/conntrack"
)

// Messages and attributes of include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	ctNew = 0 // IPCTNL_MSG_CT_NEW

	ctaTupleOrig, ctaTupleReply, ctaStatus, ctaTimeout = 1, 2, 3, 7
	ctaTupleIP, ctaTupleProto                          = 1, 2
	ctaProtoNum, ctaSrcPort, ctaDstPort                = 1, 2, 3

	// Assured entries are not dropped when the table gets full.
	statusSeenReply, statusAssured, statusConfirmed = 1 << 1, 1 << 2, 1 << 3
)

// batch is how many bytes of messages are sent at once: less than a socket's buffer
// takes.
const batch = 64 << 10

// lifetime is that of an entry, in seconds.
const lifetime = 3600

// Fill puts n IPv4 entries of UDP into the table of the calling thread's network
// namespace. An entry that is there already is no error. Needs CAP_NET_ADMIN.
func Fill(n int, flow func(i int) conntrack.Flow) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("fill conntrack: %w", err)
	}
	defer unix.Close(fd)
	kernel := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	b := make([]byte, 0, batch+1024)
	for i := range n {
		b = appendEntry(b, flow(i))
		if len(b) < batch && i < n-1 {
			continue
		}
		if err := unix.Sendto(fd, b, 0, kernel); err != nil {
			return fmt.Errorf("fill conntrack: %w", err)
		}
		if err := refusal(fd); err != nil {
			return fmt.Errorf("fill conntrack: entry %d: %w", i, err)
		}
		b = b[:0]
	}
	return nil
}

// refusal is the first error among what the kernel answered. It answers errors alone.
func refusal(fd int) error {
	buf := make([]byte, batch)
	for {
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		if err != nil {
			return err
		}
		for m := buf[:n]; len(m) >= unix.NLMSG_HDRLEN+4; m = m[min(len(m), int(binary.NativeEndian.Uint32(m)+3)&^3):] {
			code := int32(binary.NativeEndian.Uint32(m[unix.NLMSG_HDRLEN:]))
			if code < 0 && unix.Errno(-code) != unix.EEXIST {
				return unix.Errno(-code)
			}
		}
	}
}

func appendEntry(b []byte, f conntrack.Flow) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.NativeEndian.AppendUint16(b, unix.NFNL_SUBSYS_CTNETLINK<<8|ctNew)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, unix.AF_INET, unix.NFNETLINK_V0, 0, 0)
	b = appendTuple(b, ctaTupleOrig, f.Src, f.Dst)
	b = appendTuple(b, ctaTupleReply, f.ReplySrc, f.ReplyDst)
	b = append(b, 8, 0, ctaStatus, 0, 0, 0, 0, statusSeenReply|statusAssured|statusConfirmed)
	b = append(b, 8, 0, ctaTimeout, 0)
	b = binary.BigEndian.AppendUint32(b, lifetime)
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// appendTuple appends a tuple whose parts all have a known length: 24 bytes of
// addresses, 28 of protocol and ports, with their headers.
func appendTuple(b []byte, kind byte, src, dst netip.AddrPort) []byte {
	const nested = unix.NLA_F_NESTED >> 8
	b = append(b, 52, 0, kind, nested, 20, 0, ctaTupleIP, nested, 8, 0, 1, 0)
	b = append(b, src.Addr().AsSlice()...)
	b = append(b, 8, 0, 2, 0)
	b = append(b, dst.Addr().AsSlice()...)
	b = append(b, 28, 0, ctaTupleProto, nested, 5, 0, ctaProtoNum, 0, byte(proxier.UDP), 0, 0, 0)
	for i, port := range []uint16{src.Port(), dst.Port()} {
		b = append(b, 6, 0, byte(ctaSrcPort+i), 0)
		b = append(binary.BigEndian.AppendUint16(b, port), 0, 0)
	}
	return b
}
