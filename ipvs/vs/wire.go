package vs

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/ipvs/bounded"
	"switchyard/proxier"
)

// Messages of IPVS, include/uapi/linux/ip_vs.h: there they are called
// IPVS_CMD_NEW_SERVICE, IPVS_SVC_ATTR_AF, IPVS_DEST_ATTR_ADDR and so on. Numbers
// are in the machine's byte order, but ports.
const (
	version = 1

	attrService     = 1
	attrDestination = 2

	svcFamily    = 1
	svcProtocol  = 2
	svcAddr      = 3
	svcPort      = 4
	svcMark      = 5
	svcScheduler = 6
	svcFlags     = 7
	svcTimeout   = 8
	svcNetmask   = 9

	destAddr       = 1
	destPort       = 2
	destForwarding = 3
	destWeight     = 4
	destUpper      = 5
	destLower      = 6

	wholeIPv4 = 0xffffffff // a netmask that tells all clients apart
	wholeIPv6 = 128        // bits
)

// command is the number of an operation.
func (o Op) command() byte {
	switch o {
	case AddServer:
		return 1
	case UpdateServer:
		return 2
	case DeleteServer:
		return 3
	case AddDestination:
		return 5
	case UpdateDestination:
		return 6
	case DeleteDestination:
		return 7
	}
	return 0
}

// append appends the write as a request to the generic netlink family of a number.
func (w Write) append(b []byte, family uint16) []byte {
	b = bounded.Begin(b, family, 0, w.Op.command(), version, 0, 0)
	b = bounded.Nested(b, attrService, func(b []byte) []byte {
		b = w.Key.append(b)
		if w.Op == AddServer || w.Op == UpdateServer {
			b = w.Server.append(b, w.Key.Family)
		}
		return b
	})
	if w.Op >= AddDestination {
		b = bounded.Nested(b, attrDestination, w.Destination.append)
	}
	return b
}

func (k Key) append(b []byte) []byte {
	family := uint16(unix.AF_INET)
	if k.Family == proxier.IPv6 {
		family = unix.AF_INET6
	}
	b = number16(b, svcFamily, family)
	if k.Mark != 0 {
		return number32(b, svcMark, k.Mark)
	}
	b = number16(b, svcProtocol, uint16(k.Protocol))
	b = bounded.Attribute(b, svcAddr, k.Addr.Addr().AsSlice()...)
	return port(b, svcPort, k.Addr.Port())
}

func (s Server) append(b []byte, family proxier.Family) []byte {
	flags, netmask := uint32(s.Flags), uint32(wholeIPv4)
	if s.Persistence > 0 {
		flags |= flagPersistent
	}
	if family == proxier.IPv6 {
		netmask = wholeIPv6
	}
	b = bounded.Text(b, svcScheduler, s.Scheduler)
	b = bounded.Attribute(b, svcFlags, // the flags, and which of them count: all
		binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, flags), ^uint32(0))...)
	b = number32(b, svcTimeout, uint32(s.Persistence/time.Second))
	return number32(b, svcNetmask, netmask)
}

func (d Destination) append(b []byte) []byte {
	b = bounded.Attribute(b, destAddr, d.Addr.Addr().AsSlice()...)
	b = port(b, destPort, d.Addr.Port())
	b = number32(b, destForwarding, 0) // masquerading
	b = number32(b, destWeight, uint32(d.Weight))
	b = number32(b, destUpper, 0)
	return number32(b, destLower, 0)
}

func port(b []byte, typ, n uint16) []byte { return bounded.Attribute(b, typ, byte(n>>8), byte(n)) }

func number16(b []byte, typ, n uint16) []byte {
	return bounded.Attribute(b, typ, binary.NativeEndian.AppendUint16(nil, n)...)
}

func number32(b []byte, typ uint16, n uint32) []byte {
	return bounded.Attribute(b, typ, binary.NativeEndian.AppendUint32(nil, n)...)
}
