package ipset

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"switchyard/ipvs/bounded"
	"switchyard/proxier"
)

// Messages of ipset, include/uapi/linux/netfilter/ipset/ip_set.h: there they are
// called IPSET_CMD_CREATE, IPSET_ATTR_SETNAME and so on.
const (
	protocolVersion = 6 // of all kernels since 2.6.39

	cmdProtocol = 1
	cmdCreate   = 2
	cmdDestroy  = 3
	cmdFlush    = 4
	cmdSwap     = 6
	cmdList     = 7
	cmdAdd      = 9
	cmdDel      = 10
	cmdType     = 13

	// Attributes of a command.
	attrProtocol    = 1
	attrSetName     = 2
	attrTypeName    = 3 // of swap: the second name
	attrRevision    = 4
	attrFamily      = 5
	attrFlags       = 6
	attrData        = 7
	attrADT         = 8
	attrLine        = 9
	attrRevisionMin = 10

	// Attributes of a set (in attrData) or an entry (in attrADT, attrData).
	attrIP        = 1
	attrCIDR      = 3
	attrPort      = 4
	attrPortTo    = 5
	attrTimeout   = 6
	attrProto     = 7
	attrCadtFlags = 8
	attrMarkMask  = 11
	attrBitMask   = 12
	attrMaxElem   = 19
	attrNetmask   = 20
	attrIP2       = 20
	attrCIDR2     = 21
	attrElements  = 24
	attrSKBMark   = 27

	attrIPv4 = 1 // in attrIP, attrIP2
	attrIPv6 = 2

	flagListHeader = 1 << 2 // no entries
	flagForceAdd   = 1 << 5 // a full set throws an entry out
	flagSKBInfo    = 1 << 6

	nfgenmsgLen   = 4
	bigEndian     = unix.NLA_F_NET_BYTEORDER
	wholeMark     = 0xffffffff
	entriesAtOnce = 200 // of at most 96 bytes each: an attribute has 64 KiB
)

// command begins a message to ipset.
func command(cmd, flags uint16) []byte {
	b := bounded.Request(unix.NFNL_SUBSYS_IPSET<<8|cmd, flags, unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0)
	return bounded.Attribute(b, attrProtocol, protocolVersion)
}

// named is a command about one set. The name must not be empty: that means all sets.
func named(cmd uint16, name string) []byte {
	return bounded.Text(command(cmd, 0), attrSetName, name)
}

func swap(a, b string) []byte { return bounded.Text(named(cmdSwap, a), attrTypeName, b) }

// list asks for the sets without their entries, or for one set.
func list(name string, headers bool) []byte {
	b := command(cmdList, unix.NLM_F_DUMP)
	if name != "" {
		b = bounded.Text(b, attrSetName, name)
	}
	if headers {
		b = number32(b, attrFlags, flagListHeader)
	}
	return b
}

// revisions asks which revisions of a type the kernel has.
func revisions(s Set) []byte {
	b := bounded.Text(command(cmdType, 0), attrTypeName, string(s.Type))
	return bounded.Attribute(b, attrFamily, familyNumber(s))
}

func create(s Set, revision byte) []byte {
	b := bounded.Text(command(cmdCreate, unix.NLM_F_CREATE|unix.NLM_F_EXCL), attrSetName, s.Name)
	b = bounded.Text(b, attrTypeName, string(s.Type))
	b = bounded.Attribute(b, attrRevision, revision)
	b = bounded.Attribute(b, attrFamily, familyNumber(s))
	return bounded.Nested(b, attrData, func(b []byte) []byte {
		if s.Type == BitmapPort {
			b = bounded.Attribute(b, attrPort|bigEndian, 0, 0)
			b = bounded.Attribute(b, attrPortTo|bigEndian, 0xff, 0xff)
		} else {
			b = number32(b, attrMaxElem, s.MaxElem)
		}
		if s.SKBInfo {
			b = number32(b, attrCadtFlags, flagSKBInfo)
		}
		return b
	})
}

// changes are the messages that add or delete entries, in order; the kernel stops a
// message at the first entry that it refuses, and tells the entry's place in it.
func changes(cmd uint16, s Set, entries []Entry) (messages [][]byte) {
	for len(entries) > 0 {
		part := entries[:min(len(entries), entriesAtOnce)]
		entries = entries[len(part):]
		b := bounded.Attribute(named(cmd, s.Name), attrLine, 0, 0, 0, 0)
		messages = append(messages, bounded.Nested(b, attrADT, func(b []byte) []byte {
			for i, e := range part {
				b = bounded.Nested(b, attrData, func(b []byte) []byte {
					b = e.append(b, s.Type.fields())
					if cmd == cmdAdd && e.Mark != 0 {
						b = bounded.Attribute(b, attrSKBMark|bigEndian,
							binary.BigEndian.AppendUint64(nil, uint64(e.Mark)<<32|wholeMark)...)
					}
					return bounded.Attribute(b, attrLine, binary.BigEndian.AppendUint32(nil, uint32(i))...)
				})
			}
			return b
		}))
	}
	return messages
}

// place is the place of the entry that the kernel refused, from what follows the
// errno of its answer: the request with its own line number in it.
func place(rest []byte) (int, bool) {
	head := unix.NLMSG_HDRLEN + nfgenmsgLen
	if len(rest) <= head {
		return 0, false
	}
	for typ, value := range bounded.Attributes(rest[head:]) {
		if typ == attrLine && len(value) == 4 {
			return int(binary.BigEndian.Uint32(value)), true
		}
	}
	return 0, false
}

func (e Entry) append(b []byte, f fields) []byte {
	if f.addr {
		b = address(b, attrIP, e.Addr)
	}
	if f.port {
		b = bounded.Attribute(b, attrPort|bigEndian, byte(e.Port>>8), byte(e.Port))
	}
	if f.protocol {
		b = bounded.Attribute(b, attrProto, byte(e.Protocol))
	}
	switch {
	case f.addr2:
		b = address(b, attrIP2, e.Addr2)
	case f.net && f.addr:
		b = bounded.Attribute(address(b, attrIP2, e.Net.Addr()), attrCIDR2, byte(e.Net.Bits()))
	case f.net:
		b = bounded.Attribute(address(b, attrIP, e.Net.Addr()), attrCIDR, byte(e.Net.Bits()))
	}
	return b
}

func address(b []byte, typ uint16, addr netip.Addr) []byte {
	return bounded.Nested(b, typ, func(b []byte) []byte {
		if addr.Is4() {
			return bounded.Attribute(b, attrIPv4|bigEndian, addr.AsSlice()...)
		}
		return bounded.Attribute(b, attrIPv6|bigEndian, addr.AsSlice()...)
	})
}

func number32(b []byte, typ uint16, n uint32) []byte {
	return bounded.Attribute(b, typ|bigEndian, binary.BigEndian.AppendUint32(nil, n)...)
}

func familyNumber(s Set) byte {
	switch {
	case s.Type == BitmapPort:
		return unix.AF_UNSPEC
	case s.Family == proxier.IPv6:
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// header is what the kernel says of a set.
type header struct {
	Set
	elements uint32
}

// parseHeader reads a message of a list. A set's later messages say its name only.
func parseHeader(data []byte) (h header, ok bool) {
	for typ, value := range bounded.Attributes(data[min(nfgenmsgLen, len(data)):]) {
		switch typ {
		case attrSetName:
			h.Name = unix.ByteSliceToString(value)
		case attrTypeName:
			h.Type = Type(unix.ByteSliceToString(value))
		case attrFamily:
			h.Family = familyOf(value)
		case attrData:
			h.parseOptions(value)
			ok = true
		}
	}
	return h, ok
}

func familyOf(value []byte) proxier.Family {
	switch {
	case len(value) != 1:
		return 0
	case value[0] == unix.AF_INET:
		return proxier.IPv4
	case value[0] == unix.AF_INET6:
		return proxier.IPv6
	}
	return 0
}

func (h *header) parseOptions(b []byte) {
	whole := 0 // ends of the range of a bitmap
	for typ, value := range bounded.Attributes(b) {
		switch typ {
		case attrMaxElem:
			h.MaxElem = big32(value)
		case attrElements:
			h.elements = big32(value)
		case attrCadtFlags:
			h.SKBInfo = big32(value)&flagSKBInfo != 0
			h.odd = h.odd || big32(value)&flagForceAdd != 0
		case attrTimeout, attrNetmask, attrMarkMask, attrBitMask:
			h.odd = true
		case attrPort:
			whole += int(big16(value))
		case attrPortTo:
			whole += int(^big16(value))
		}
	}
	h.odd = h.odd || h.Type == BitmapPort && whole != 0
}

// parseEntries calls yield for each entry in a message of a list.
func parseEntries(data []byte, t Type, yield func(Entry)) {
	for typ, list := range bounded.Attributes(data[min(nfgenmsgLen, len(data)):]) {
		if typ != attrADT {
			continue
		}
		for typ, entry := range bounded.Attributes(list) {
			if typ == attrData {
				yield(parseEntry(entry, t.fields()))
			}
		}
	}
}

func parseEntry(b []byte, f fields) (e Entry) {
	var addr, addr2 netip.Addr
	var bits, bits2 int
	for typ, value := range bounded.Attributes(b) {
		switch typ {
		case attrIP:
			addr = parseAddress(value)
		case attrIP2:
			addr2 = parseAddress(value)
		case attrPort:
			e.Port = big16(value)
		case attrProto:
			e.Protocol = proxier.Protocol(byte8(value))
		case attrCIDR:
			bits = int(byte8(value))
		case attrCIDR2:
			bits2 = int(byte8(value))
		case attrSKBMark:
			e.Mark = big32(value) // the upper half; the mask is in the lower
		}
	}
	switch {
	case f.net && f.addr:
		e.Addr, e.Net = addr, netip.PrefixFrom(addr2, bits2)
	case f.net:
		e.Net = netip.PrefixFrom(addr, bits)
	default:
		e.Addr, e.Addr2 = addr, addr2
	}
	return e
}

func parseAddress(b []byte) (addr netip.Addr) {
	for _, value := range bounded.Attributes(b) {
		addr, _ = netip.AddrFromSlice(value)
	}
	return addr
}

func byte8(b []byte) byte {
	if len(b) < 1 {
		return 0
	}
	return b[0]
}

func big16(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}

func big32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func parseRevisions(data []byte) (lowest, highest byte) {
	for typ, value := range bounded.Attributes(data[min(nfgenmsgLen, len(data)):]) {
		switch {
		case len(value) != 1:
		case typ == attrRevision:
			highest = value[0]
		case typ == attrRevisionMin:
			lowest = value[0]
		}
	}
	return lowest, highest
}
