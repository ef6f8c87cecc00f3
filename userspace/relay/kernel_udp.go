package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

// conn is a UDP socket that the runtime's poller watches.
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

// read and write do not wait: the error is EAGAIN.
func (c *conn) read(b []byte) (int, error) { return socket(c.fd).read(b) }

func (c *conn) write(b []byte) (int, error) { return socket(c.fd).write(b) }

// udpBuffer is how many bytes of datagrams may wait to be read.
const udpBuffer = 4 << 20

// listenUDP opens the UDP socket at all addresses of the relay's family.
func listenUDP(r *Relay) (*datagrams, error) {
	network := "udp4"
	if r.family == proxier.IPv6 {
		network = "udp6"
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		_ = c.Control(func(fd uintptr) { err = prepareUDP(int(fd), r.family) })
		return err
	}}
	pc, err := lc.ListenPacket(context.Background(), network, ":"+strconv.Itoa(int(r.port)))
	if err != nil {
		return nil, fmt.Errorf("listen on %s UDP port %d: %w", r.family, r.port, err)
	}
	return newDatagrams(r, pc.(*net.UDPConn))
}

func prepareUDP(fd int, f proxier.Family) error {
	err := setAll(fd, option{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1})
	if f == proxier.IPv6 {
		err = errors.Join(err, setAll(fd, option{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1}))
	} else {
		err = errors.Join(err, setAll(fd, option{unix.SOL_IP, unix.IP_PKTINFO, 1}))
	}
	// Beyond what net.core.rmem_max allows it takes NET_ADMIN, which the rules need too.
	_ = setAll(fd, option{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpBuffer})
	return err
}

// controlHeader reads a struct cmsghdr.
func controlHeader(b []byte) (size, level, kind int) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	return int(h.Len), int(h.Level), int(h.Type)
}

func native32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }

// sourceOf is the control message by which a datagram leaves from an address.
func sourceOf(a netip.Addr) []byte {
	if a.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: a.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: a.As16()})
}

// incomingInterface is the index of the interface by which a connection came in; 0 if
// the kernel does not tell.
func incomingInterface(fd int, f proxier.Family) int {
	level, name := unix.SOL_IP, unix.IP_PKTOPTIONS
	if f == proxier.IPv6 {
		level, name = unix.SOL_IPV6, unix.IPV6_2292PKTOPTIONS
	}
	var buf [256]byte
	size, err := getNow(fd, level, name, buf[:])
	if err != nil {
		return 0
	}
	_, index := destinationIn(buf[:min(size, len(buf))], f)
	return index
}

// interfaceNames remembers the names of interfaces. An index is not used twice.
type interfaceNames struct {
	mu    sync.Mutex
	names map[int]string
}

// maxNames bounds what is remembered, where interfaces come and go.
const maxNames = 4096

// of is "" for the loopback interface: its packets are the node's own.
func (n *interfaceNames) of(ns *namespace, index int) string {
	if index <= 1 {
		return ""
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if name, ok := n.names[index]; ok {
		return name
	}
	name := ""
	err := ns.do(func() error {
		i, err := net.InterfaceByIndex(index)
		if err == nil {
			name = i.Name
		}
		return err
	})
	if err != nil {
		return ""
	}
	if n.names == nil || len(n.names) >= maxNames {
		n.names = map[int]string{}
	}
	n.names[index] = name
	return name
}

// refuser tells clients by ICMP that nobody is there, as the kernel would if the
// endpoint were on this node.
type refuser struct {
	family proxier.Family
	fd     int // negative: not allowed

	mu     sync.Mutex
	second int64
	sent   int
}

// refusalsPerSecond bounds the ICMP errors, as icmp_msgs_per_sec does the kernel's.
const refusalsPerSecond = 1000

// newRefuser makes a refuser that does nothing if the process may not have a raw
// socket (NET_RAW).
func newRefuser(f proxier.Family) *refuser {
	protocol := unix.IPPROTO_ICMP
	if f == proxier.IPv6 {
		protocol = unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(domainOf(f), unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return &refuser{fd: -1}
	}
	// Nothing is read from it: the smallest buffer there is.
	_ = setAll(fd, option{unix.SOL_SOCKET, unix.SO_RCVBUF, 0})
	return &refuser{family: f, fd: fd}
}

func (r *refuser) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fd >= 0 {
		_ = unix.Close(r.fd)
		r.fd = -1
	}
}

// refuse sends the error. Its addresses are those between conntrack and the relay;
// conntrack makes them what the client knows.
func (r *refuser) refuse(k flowKey, port uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now().Unix(); now != r.second {
		r.second, r.sent = now, 0
	}
	if r.sent++; r.fd < 0 || r.sent > refusalsPerSecond {
		return
	}
	b, err := refusal(k, port)
	if err != nil {
		return
	}
	_ = unix.Sendmsg(r.fd, b, sourceOf(k.local), sockaddrOf(netip.AddrPortFrom(k.client.Addr(), 0)), 0)
}

// refusal is the ICMP message: port unreachable, with the start of the datagram that
// could not be delivered.
func refusal(k flowKey, port uint16) ([]byte, error) {
	udp := binary.BigEndian.AppendUint16(nil, k.client.Port())
	udp = binary.BigEndian.AppendUint16(udp, port)
	udp = append(udp, 0, 8, 0, 0) // as long as the header, no checksum
	src, dst := k.client.Addr(), k.local
	if src.Is4() {
		h := ipv4.Header{Version: 4, Len: ipv4.HeaderLen, TotalLen: ipv4.HeaderLen + len(udp), TTL: 64,
			Protocol: unix.IPPROTO_UDP, Src: src.AsSlice(), Dst: dst.AsSlice()}
		head, err := h.Marshal()
		if err != nil {
			return nil, fmt.Errorf("make ICMP error: %w", err)
		}
		m := icmp.Message{Type: ipv4.ICMPTypeDestinationUnreachable, Code: 3, Body: &icmp.DstUnreach{Data: append(head, udp...)}}
		return m.Marshal(nil)
	}
	head := append([]byte{6 << 4, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64}, src.AsSlice()...)
	head = append(head, dst.AsSlice()...)
	m := icmp.Message{Type: ipv6.ICMPTypeDestinationUnreachable, Code: 4, Body: &icmp.DstUnreach{Data: append(head, udp...)}}
	return m.Marshal(nil)
}
