package vs

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"switchyard/proxier"
)

// Key names a virtual server: by address, or by firewall mark. It is comparable.
type Key struct {
	Family   proxier.Family
	Protocol proxier.Protocol // 0 if Mark is not
	Addr     netip.AddrPort   // zero if Mark is not
	// Mark is the packet mark that leads to the server, 0 for a server at an address.
	Mark uint32
}

// At is the key of a server at an address.
func At(protocol proxier.Protocol, addr netip.AddrPort) Key {
	return Key{Family: proxier.FamilyOf(addr.Addr()), Protocol: protocol, Addr: addr}
}

// Marked is the key of a server for packets of one family with a mark, which is not 0.
func Marked(family proxier.Family, mark uint32) Key {
	return Key{Family: family, Mark: mark}
}

// String is as ipvsadm prints it: "TCP 172.30.0.1:443", "FWM 7", "FWM 7 IPv6".
func (k Key) String() string {
	switch {
	case k.Mark != 0 && k.Family == proxier.IPv6:
		return fmt.Sprintf("FWM %d IPv6", k.Mark)
	case k.Mark != 0:
		return fmt.Sprintf("FWM %d", k.Mark)
	}
	return k.Protocol.String() + " " + k.Addr.String()
}

// Compare orders by family, mark, protocol, address and port.
func (k Key) Compare(o Key) int {
	return cmp.Or(
		cmp.Compare(k.Family, o.Family),
		cmp.Compare(k.Mark, o.Mark),
		cmp.Compare(k.Protocol, o.Protocol),
		k.Addr.Compare(o.Addr))
}

// Server is what a virtual server does with new connections. It is comparable: one
// that is read back from the kernel equals the one that was written.
type Server struct {
	Scheduler string // one of Schedulers
	Flags     Flags
	// Persistence is how long a client, told apart by its whole address, stays with
	// its destination; whole seconds, 0: not at all.
	Persistence time.Duration

	// odd is set on what was read from the kernel and cannot be said here, as a
	// netmask that puts clients together. So it differs from all that we write.
	odd bool
}

// Destination is an endpoint of a virtual server, reached by address translation.
// It is comparable, and read back as it was written.
type Destination struct {
	Addr   netip.AddrPort
	Weight int // 0..65535; 0: no new connections

	odd bool // as that of Server: another way of forwarding, or thresholds
}

// Counted is a destination with the connections that it has now.
type Counted struct {
	Destination
	// Active are established connections, Inactive those that are closing or, with
	// UDP, all.
	Active, Inactive int
}

// Timeouts are how long a connection may be idle; whole seconds up to 31 days.
type Timeouts struct {
	TCP    time.Duration // established; the kernel's default is 15 minutes
	TCPFin time.Duration // after a FIN; 2 minutes
	UDP    time.Duration // 5 minutes
}

// maxDuration is ipvsadm's bound, too: in ticks of the clock it fits 32 bits.
const maxDuration = 31 * 24 * time.Hour

// Flags of a server beside those of the scheduler.
const (
	flagPersistent = 1 << 0 // IP_VS_SVC_F_PERSISTENT
	flagHashed     = 1 << 1 // IP_VS_SVC_F_HASHED: the kernel's own
)

// check finds what the kernel, or the library before it, would misunderstand.
func (k Key) check() error {
	switch {
	case k.Family != proxier.IPv4 && k.Family != proxier.IPv6:
		return fmt.Errorf("server has %s", k.Family)
	case k.Mark != 0 && (k.Protocol != 0 || k.Addr.IsValid()):
		return fmt.Errorf("server has a mark, %d, and an address, %s", k.Mark, k.Addr)
	case k.Mark == 0 && proxier.FamilyOf(k.Addr.Addr()) != k.Family:
		return fmt.Errorf("server has an address, %s, that is not %s", k.Addr, k.Family)
	}
	return nil
}

func (s Server) check() error { return checkDuration("persistence", s.Persistence) }

func (d Destination) check(family proxier.Family) error {
	switch {
	case proxier.FamilyOf(d.Addr.Addr()) != family:
		return fmt.Errorf("destination %s is not %s", d.Addr, family)
	case d.Weight < 0 || d.Weight > 65535:
		return fmt.Errorf("destination %s has weight %d: it is 0 to 65535", d.Addr, d.Weight)
	}
	return nil
}

func (t Timeouts) check() error {
	return errors.Join(checkDuration("TCP timeout", t.TCP), checkDuration("TCP FIN timeout", t.TCPFin),
		checkDuration("UDP timeout", t.UDP))
}

func checkDuration(what string, d time.Duration) error {
	if d < 0 || d > maxDuration || d%time.Second != 0 {
		return fmt.Errorf("%s %s: it is whole seconds up to 31 days", what, d)
	}
	return nil
}
