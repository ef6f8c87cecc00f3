package conntrack

import (
	"encoding/binary"
	"iter"
	"net/netip"

	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

// Messages and attributes of conntrack, include/uapi/linux/netfilter/
// nfnetlink_conntrack.h: there they are called IPCTNL_MSG_CT_GET, CTA_TUPLE_ORIG
// and so on. CTA_FILTER came with Linux 5.8.
const (
	ctGet    = 1
	ctDelete = 2

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaID         = 12
	ctaZone       = 18
	ctaFilter     = 25

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3

	ctaFilterOrigFlags = 1
	ctaFilterProtoNum  = 1 << 3 // CTA_FILTER_F_CTA_PROTO_NUM

	nfgenmsgLen = 4
	nlaTypeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
)

type query struct {
	family   proxier.Family
	protocol proxier.Protocol
}

// entry is a flow and what names exactly this entry: deleting by tuple, zone and
// id spares a new flow of the same client that took the place of a stale one.
type entry struct {
	flow               Flow
	original, zone, id []byte // values of attributes, valid until the next answer
}

// dumpRequest asks for one protocol. Kernels before 5.8 ignore the filter and
// send all; parse leaves out the rest.
func dumpRequest(q query) []byte {
	b := header(ctGet, unix.NLM_F_DUMP, q.family)
	number := attribute(nil, ctaProtoNum, []byte{byte(q.protocol)})
	proto := attribute(nil, ctaTupleProto|unix.NLA_F_NESTED, number)
	b = attribute(b, ctaTupleOrig|unix.NLA_F_NESTED, proto)
	flags := binary.NativeEndian.AppendUint32(nil, ctaFilterProtoNum)
	b = attribute(b, ctaFilter|unix.NLA_F_NESTED, attribute(nil, ctaFilterOrigFlags, flags))
	return finish(b)
}

// appendDeletion names the entry by tuple, zone and id. It is answered if it is
// refused.
func appendDeletion(b []byte, family proxier.Family, e entry) []byte {
	start := len(b)
	b = appendHeader(b, ctDelete, 0, family)
	b = attribute(b, ctaTupleOrig|unix.NLA_F_NESTED, e.original)
	if e.zone != nil {
		b = attribute(b, ctaZone, e.zone)
	}
	if e.id != nil {
		b = attribute(b, ctaID, e.id)
	}
	finish(b[start:])
	return b
}

// acknowledge asks for an answer to a message in any case, which bears the number.
func acknowledge(m []byte, number int) {
	flags := binary.NativeEndian.Uint16(m[6:])
	binary.NativeEndian.PutUint16(m[6:], flags|unix.NLM_F_ACK)
	binary.NativeEndian.PutUint32(m[8:], uint32(number))
}

// header begins a message to conntrack; finish fills in its length.
func header(operation, flags uint16, family proxier.Family) []byte {
	return appendHeader(make([]byte, 0, 160), operation, flags, family)
}

func appendHeader(b []byte, operation, flags uint16, family proxier.Family) []byte {
	b = append(b, 0, 0, 0, 0)
	b = binary.NativeEndian.AppendUint16(b, unix.NFNL_SUBSYS_CTNETLINK<<8|operation)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0) // sequence number, port
	af := byte(unix.AF_INET)
	if family == proxier.IPv6 {
		af = unix.AF_INET6
	}
	return append(b, af, unix.NFNETLINK_V0, 0, 0)
}

func finish(b []byte) []byte {
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return b
}

func attribute(b []byte, typ uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.NLA_HDRLEN+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
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
			typ := binary.NativeEndian.Uint16(b[2:]) & nlaTypeMask
			if n < unix.NLA_HDRLEN || n > len(b) || !yield(typ, b[unix.NLA_HDRLEN:n]) {
				return
			}
			b = b[min(align(n), len(b)):]
		}
	}
}

func align(n int) int { return (n + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1) }

// parse reports false for entries of other protocols or families.
func parse(data []byte, q query) (entry, bool) {
	var e entry
	if len(data) < nfgenmsgLen {
		return e, false
	}
	var original, reply tuple
	for typ, value := range attributes(data[nfgenmsgLen:]) {
		switch typ {
		case ctaTupleOrig:
			e.original, original = value, parseTuple(value)
		case ctaTupleReply:
			reply = parseTuple(value)
		case ctaZone:
			e.zone = value
		case ctaID:
			e.id = value
		}
	}
	e.flow = Flow{original.protocol, original.src(), original.dst(), reply.src(), reply.dst()}
	return e, original.protocol == q.protocol &&
		proxier.FamilyOf(original.from) == q.family && proxier.FamilyOf(reply.from) == q.family
}

type tuple struct {
	protocol         proxier.Protocol
	from, to         netip.Addr
	fromPort, toPort uint16
}

func (t *tuple) src() netip.AddrPort { return netip.AddrPortFrom(t.from, t.fromPort) }
func (t *tuple) dst() netip.AddrPort { return netip.AddrPortFrom(t.to, t.toPort) }

func parseTuple(b []byte) tuple {
	var t tuple
	for outer, value := range attributes(b) {
		switch outer {
		case ctaTupleIP:
			t.parseAddresses(value)
		case ctaTupleProto:
			t.parsePorts(value)
		}
	}
	return t
}

func (t *tuple) parseAddresses(b []byte) {
	for typ, value := range attributes(b) {
		switch typ {
		case ctaIPv4Src, ctaIPv6Src:
			t.from, _ = netip.AddrFromSlice(value)
		case ctaIPv4Dst, ctaIPv6Dst:
			t.to, _ = netip.AddrFromSlice(value)
		}
	}
}

func (t *tuple) parsePorts(b []byte) {
	for typ, value := range attributes(b) {
		switch {
		case typ == ctaProtoNum && len(value) == 1:
			t.protocol = proxier.Protocol(value[0])
		case typ == ctaProtoSrcPort && len(value) == 2:
			t.fromPort = binary.BigEndian.Uint16(value)
		case typ == ctaProtoDstPort && len(value) == 2:
			t.toPort = binary.BigEndian.Uint16(value)
		}
	}
}

type message struct {
	typ, flags uint16
	data       []byte
	number     uint32 // of the request that it answers
}

// errno is what a message of type NLMSG_ERROR or NLMSG_DONE says.
func (m message) errno() error {
	if len(m.data) < 4 {
		return nil
	}
	if n := int32(binary.NativeEndian.Uint32(m.data)); n < 0 {
		return unix.Errno(-n)
	}
	return nil
}

func messages(b []byte) iter.Seq[message] {
	return func(yield func(message) bool) {
		for len(b) >= unix.NLMSG_HDRLEN {
			n := int(binary.NativeEndian.Uint32(b))
			if n < unix.NLMSG_HDRLEN || n > len(b) {
				return
			}
			m := message{binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]),
				b[unix.NLMSG_HDRLEN:n], binary.NativeEndian.Uint32(b[8:])}
			if !yield(m) {
				return
			}
			b = b[min(align(n), len(b)):]
		}
	}
}
