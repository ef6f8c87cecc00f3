package dummy

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"switchyard/ipvs/bounded"
	"switchyard/proxier"
)

// device is what the kernel says of a link.
type device struct {
	index uint32
	kind  string // "dummy", "veth", …; "" of hardware
}

// interfaceHeader is struct ifinfomsg.
func interfaceHeader(index uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], index)
	return b
}

func getLink(name string) []byte {
	return bounded.Text(bounded.Request(unix.RTM_GETLINK, 0, interfaceHeader(0)...), unix.IFLA_IFNAME, name)
}

// newLink makes a dummy device. It is down, and such devices never speak ARP.
func newLink(name string) []byte {
	b := bounded.Request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, interfaceHeader(0)...)
	b = bounded.Text(b, unix.IFLA_IFNAME, name)
	return bounded.Nested(b, unix.IFLA_LINKINFO, func(b []byte) []byte {
		return bounded.Text(b, unix.IFLA_INFO_KIND, "dummy")
	})
}

func delLink(index uint32) []byte {
	return bounded.Request(unix.RTM_DELLINK, 0, interfaceHeader(index)...)
}

func parseLink(data []byte) (d device) {
	if len(data) < unix.SizeofIfInfomsg {
		return d
	}
	d.index = bounded.Uint32(data[4:])
	for typ, value := range bounded.Attributes(data[unix.SizeofIfInfomsg:]) {
		if typ != unix.IFLA_LINKINFO {
			continue
		}
		for typ, value := range bounded.Attributes(value) {
			if typ == unix.IFLA_INFO_KIND {
				d.kind = unix.ByteSliceToString(value)
			}
		}
	}
	return d
}

// addressHeader is struct ifaddrmsg.
func addressHeader(index uint32, family byte, bits int, flags byte) []byte {
	return binary.NativeEndian.AppendUint32([]byte{family, byte(bits), flags, unix.RT_SCOPE_UNIVERSE}, index)
}

// newAddress gives the device an address by itself. IPv6: the search for a
// duplicate would leave the address unusable for a second, and a route to the
// device is not wanted.
func newAddress(index uint32, addr netip.Addr) []byte {
	flags := uint32(0)
	if addr.Is6() {
		flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
	}
	b := bounded.Request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL,
		addressHeader(index, familyNumber(addr), addr.BitLen(), byte(flags))...)
	b = bounded.Attribute(b, unix.IFA_LOCAL, addr.AsSlice()...)
	b = bounded.Attribute(b, unix.IFA_ADDRESS, addr.AsSlice()...)
	if flags != 0 {
		b = bounded.Attribute(b, unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, flags)...)
	}
	return b
}

// delAddress takes an address from the device. IPv4: whatever its length, as
// IFA_ADDRESS is not given. IPv6: the length must be right.
func delAddress(index uint32, p netip.Prefix) []byte {
	b := bounded.Request(unix.RTM_DELADDR, 0, addressHeader(index, familyNumber(p.Addr()), p.Bits(), 0)...)
	return bounded.Attribute(b, unix.IFA_LOCAL, p.Addr().AsSlice()...)
}

func getAddresses(index uint32, f proxier.Family) []byte {
	return bounded.Request(unix.RTM_GETADDR, unix.NLM_F_DUMP, addressHeader(index, number(f), 0, 0)...)
}

// parseAddress reports the device that has the address.
func parseAddress(data []byte) (p netip.Prefix, index uint32) {
	if len(data) < unix.SizeofIfAddrmsg {
		return p, 0
	}
	for typ, value := range bounded.Attributes(data[unix.SizeofIfAddrmsg:]) {
		addr, ok := netip.AddrFromSlice(value)
		// IFA_ADDRESS is the other end of a link that has two; IPv6 without one
		// has no IFA_LOCAL.
		if ok && int(data[1]) <= addr.BitLen() && (typ == unix.IFA_LOCAL || typ == unix.IFA_ADDRESS && !p.IsValid()) {
			p = netip.PrefixFrom(addr, int(data[1]))
		}
	}
	return p, bounded.Uint32(data[4:])
}

func familyNumber(addr netip.Addr) byte { return number(proxier.FamilyOf(addr)) }

func number(f proxier.Family) byte {
	if f == proxier.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}
