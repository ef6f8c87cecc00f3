package ipset

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"switchyard/proxier"
)

// Type is the type of a set, by the name that the kernel and ipset(8) have for it.
type Type string

// The types that this package knows, each with the fields of its entries.
const (
	HashIP        Type = "hash:ip"          // Addr
	HashNet       Type = "hash:net"         // Net
	HashIPPort    Type = "hash:ip,port"     // Addr, Protocol, Port
	HashIPPortIP  Type = "hash:ip,port,ip"  // Addr, Protocol, Port, Addr2
	HashIPPortNet Type = "hash:ip,port,net" // Addr, Protocol, Port, Net
	BitmapPort    Type = "bitmap:port"      // Port: 0..65535
)

// Set is a set without its entries.
type Set struct {
	Name string // at most 31 bytes
	Type Type
	// Family is that of the entries; 0 for bitmap:port, which has none.
	Family proxier.Family
	// MaxElem is how many entries fit, DefaultMaxElem if 0; 0 for bitmap:port. A set
	// grows when it is full.
	MaxElem uint32
	// SKBInfo has each entry carry a packet mark, which the target
	// "SET --map-set NAME … --map-mark" gives to packets.
	SKBInfo bool

	// odd is set on what was read from the kernel and cannot be said here, as a
	// timeout of entries. Create builds such a set anew.
	odd bool
}

// Sizes of sets. The kernel's default is upstream's, too.
const (
	DefaultMaxElem = 1 << 16
	LargestMaxElem = 1 << 22 // to which a set grows by itself
)

// Entry is an element of a set. It is comparable; fields that the set's type does
// not have are zero. An entry read back equals the one that was written.
type Entry struct {
	Addr     netip.Addr
	Protocol proxier.Protocol
	Port     uint16
	Addr2    netip.Addr
	Net      netip.Prefix // length 1 and up, host bits zero: see Nets
	// Mark, in a set with SKBInfo: the packet mark, all 32 bits. It is not part of
	// what makes an entry unique.
	Mark uint32
}

// Nets are the networks to write for one: itself, or its two halves if it is all
// addresses, which no set can hold as one entry.
func Nets(p netip.Prefix) []netip.Prefix {
	p = p.Masked()
	if p.Bits() != 0 {
		return []netip.Prefix{p}
	}
	upper := netip.AddrFrom4([4]byte{0x80})
	if p.Addr().Is6() {
		upper = netip.AddrFrom16([16]byte{0x80})
	}
	return []netip.Prefix{netip.PrefixFrom(p.Addr(), 1), netip.PrefixFrom(upper, 1)}
}

// String is as ipset(8) prints it: "10.0.0.1,tcp:80,10.0.0.0/8".
func (e Entry) String() string {
	var parts []string
	if e.Addr.IsValid() {
		parts = append(parts, e.Addr.String())
	}
	switch {
	case e.Protocol != 0:
		parts = append(parts, e.Protocol.Lower()+":"+strconv.Itoa(int(e.Port)))
	case !e.Addr.IsValid() && !e.Net.IsValid():
		parts = append(parts, strconv.Itoa(int(e.Port)))
	}
	if e.Addr2.IsValid() {
		parts = append(parts, e.Addr2.String())
	}
	if e.Net.IsValid() {
		parts = append(parts, e.Net.String())
	}
	text := strings.Join(parts, ",")
	if e.Mark != 0 {
		text += fmt.Sprintf(" skbmark %#x", e.Mark)
	}
	return text
}
