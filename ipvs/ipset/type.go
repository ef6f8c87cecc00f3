package ipset

import (
	"fmt"
	"hash/fnv"
	"net/netip"

	"switchyard/proxier"
)

// fields are what entries of a type have.
type fields struct{ addr, port, protocol, addr2, net bool }

func (t Type) fields() fields {
	switch t {
	case HashIP:
		return fields{addr: true}
	case HashNet:
		return fields{net: true}
	case HashIPPort:
		return fields{addr: true, port: true, protocol: true}
	case HashIPPortIP:
		return fields{addr: true, port: true, protocol: true, addr2: true}
	case HashIPPortNet:
		return fields{addr: true, port: true, protocol: true, net: true}
	case BitmapPort:
		return fields{port: true}
	}
	return fields{}
}

// module is the kernel module of the type.
func (t Type) module() string {
	switch t {
	case HashIP:
		return "ip_set_hash_ip"
	case HashNet:
		return "ip_set_hash_net"
	case HashIPPort:
		return "ip_set_hash_ipport"
	case HashIPPortIP:
		return "ip_set_hash_ipportip"
	case HashIPPortNet:
		return "ip_set_hash_ipportnet"
	case BitmapPort:
		return "ip_set_bitmap_port"
	}
	return "of " + string(t)
}

// revision is the lowest revision of the type that has what a set needs, so that
// also an old ipset(8) on the node can list it. The kernel has lower ones too, up
// to its own highest. See the table at the head of each ip_set_hash_*.c.
func (s Set) revision() byte {
	plain, marks := byte(0), byte(0)
	switch s.Type {
	case HashIP:
		plain, marks = 0, 4
	case HashNet:
		plain, marks = 1, 6
	case HashIPPort, HashIPPortIP:
		plain, marks = 1, 5
	case HashIPPortNet:
		plain, marks = 2, 7
	case BitmapPort:
		plain, marks = 0, 3
	}
	if s.SKBInfo {
		return marks
	}
	return plain
}

// normal fills in defaults and empties what the type does not have.
func (s Set) normal() Set {
	if s.Type == BitmapPort {
		s.Family, s.MaxElem = 0, 0
	} else if s.MaxElem == 0 {
		s.MaxElem = DefaultMaxElem
	}
	return s
}

// nameLength is that of the kernel, IPSET_MAXNAMELEN, without the zero byte.
const nameLength = 31

func checkName(name string) error {
	if name == "" || len(name) > nameLength {
		return fmt.Errorf("name %q: it has 1 to %d bytes", name, nameLength)
	}
	return nil
}

// check finds what the kernel would refuse or misunderstand in a normal set.
func (s Set) check() error {
	switch {
	case s.Type.fields() == fields{}:
		return fmt.Errorf("type %q: %w", s.Type, ErrNoType)
	case s.Type != BitmapPort && s.Family != proxier.IPv4 && s.Family != proxier.IPv6:
		return fmt.Errorf("a set of type %s has %s", s.Type, s.Family)
	}
	return checkName(s.Name)
}

// fits reports whether a set that exists is as good as one that is wanted.
func (s Set) fits(want Set) bool {
	return !s.odd && s.SKBInfo == want.SKBInfo && s.MaxElem >= want.MaxElem
}

// sameKind reports whether two sets can be swapped.
func (s Set) sameKind(o Set) bool { return s.Type == o.Type && s.Family == o.Family }

// check finds what cannot be an entry of a set.
func (e Entry) check(s Set) error {
	f := s.Type.fields()
	has := fields{
		addr: e.Addr.IsValid(), port: f.port || e.Port != 0, protocol: e.Protocol != 0,
		addr2: e.Addr2.IsValid(), net: e.Net.IsValid(),
	}
	if has != f {
		return fmt.Errorf("%s is no entry of type %s", e, s.Type)
	}
	for _, addr := range []netip.Addr{e.Addr, e.Addr2, e.Net.Addr()} {
		if addr.IsValid() && proxier.FamilyOf(addr) != s.Family {
			return fmt.Errorf("%s is not %s", e, s.Family)
		}
	}
	switch {
	case f.net && (e.Net.Bits() < 1 || e.Net != e.Net.Masked()):
		return fmt.Errorf("%s: the network's length is 1 to %d, and its host bits are zero", e, s.Family.Bits())
	case e.Mark != 0 && !s.SKBInfo:
		return fmt.Errorf("%s has a mark, but the set carries none", e)
	}
	return nil
}

// key is what makes an entry unique.
func (e Entry) key() Entry {
	e.Mark = 0
	return e
}

// Temporary is the name under which a set is built anew before it takes the place
// of the old one. It is left behind only by a program that was killed in between.
func Temporary(name string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return fmt.Sprintf("KUBE-NEW-%016x", h.Sum64())
}

// larger is the size to which a set grows for some more entries: doubled, as often
// as it takes, up to LargestMaxElem.
func larger(maxElem, elements uint32, more int) uint32 {
	size := uint64(max(1, maxElem)) * 2
	for size < LargestMaxElem && size < uint64(elements)+uint64(more) {
		size *= 2
	}
	return uint32(min(size, max(LargestMaxElem, uint64(maxElem))))
}
