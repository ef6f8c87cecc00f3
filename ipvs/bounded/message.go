package bounded

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

const typeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)

// Request is the beginning of a netlink message of a type, with NLM_F_REQUEST and
// more flags, and the fixed part of its protocol. After it come attributes, by
// Attribute, Text and Nested. A Socket fills in length and sequence number.
func Request(typ, flags uint16, fixed ...byte) []byte {
	return Begin(make([]byte, 0, 128), typ, flags, fixed...)
}

// Begin appends what Request returns to messages that are whole.
func Begin(b []byte, typ, flags uint16, fixed ...byte) []byte {
	b = append(b, 0, 0, 0, 0) // length
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0) // sequence number, port
	return append(b, fixed...)
}

// Attribute appends an attribute, with the padding after it.
func Attribute(b []byte, typ uint16, value ...byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.NLA_HDRLEN+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	for len(b)%unix.NLA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// Text appends an attribute with a string, which ends in a zero byte.
func Text(b []byte, typ uint16, s string) []byte {
	return Attribute(b, typ, append([]byte(s), 0)...)
}

// Nested appends an attribute that holds the attributes which fill appends. All of
// them are at most 65,531 bytes.
func Nested(b []byte, typ uint16, fill func([]byte) []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = fill(b)
	binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
	binary.NativeEndian.PutUint16(b[start+2:], typ|unix.NLA_F_NESTED)
	return b
}

// Attributes yields types, without their flags, and values. It stops at the first
// that does not fit.
func Attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.NLA_HDRLEN {
			n := int(binary.NativeEndian.Uint16(b))
			typ := binary.NativeEndian.Uint16(b[2:]) & typeMask
			if n < unix.NLA_HDRLEN || n > len(b) || !yield(typ, b[unix.NLA_HDRLEN:n]) {
				return
			}
			b = b[min(align(n), len(b)):]
		}
	}
}

func align(n int) int { return (n + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1) }

// answer is a message of the kernel. Its data is valid until the next is received.
type answer struct {
	typ, flags uint16
	seq        uint32
	data       []byte
}

// end reports whether the message is the last one for its request, and its errno.
func (a answer) end() (errno unix.Errno, last bool) {
	if a.typ != unix.NLMSG_ERROR && a.typ != unix.NLMSG_DONE {
		return 0, false
	}
	if len(a.data) < 4 {
		return 0, true
	}
	return unix.Errno(max(0, -int32(binary.NativeEndian.Uint32(a.data)))), true
}

// answers stops at the first that does not fit.
func answers(b []byte) iter.Seq[answer] {
	return func(yield func(answer) bool) {
		for len(b) >= unix.NLMSG_HDRLEN {
			n := int(binary.NativeEndian.Uint32(b))
			if n < unix.NLMSG_HDRLEN || n > len(b) {
				return
			}
			a := answer{
				typ:   binary.NativeEndian.Uint16(b[4:]),
				flags: binary.NativeEndian.Uint16(b[6:]),
				seq:   binary.NativeEndian.Uint32(b[8:]),
				data:  b[unix.NLMSG_HDRLEN:n],
			}
			if !yield(a) {
				return
			}
			b = b[min(align(n), len(b)):]
		}
	}
}

// Uint16 is a number in the machine's byte order, 0 if it is cut off.
func Uint16(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.NativeEndian.Uint16(b)
}

// Uint32 is a number in the machine's byte order, 0 if it is cut off.
func Uint32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}
