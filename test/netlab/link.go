package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// End is one end of a cable: an interface of a host.
type End struct {
	Host   *Host
	Device string // at most 15 bytes
}

// Wire joins two hosts by a veth pair that is up at both ends.
func Wire(a, b End) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: a.Device},
		PeerName:      b.Device,
		PeerNamespace: netlink.NsFd(int(b.Host.ns)),
	}
	if err := a.Host.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("wire %s of %s to %s of %s: %w", a.Device, a.Host.name, b.Device, b.Host.name, err)
	}
	return errors.Join(a.Host.up(a.Device), b.Host.up(b.Device))
}

// AddBridge makes a bridge that is up, without spanning tree: a port forwards
// at once.
func (h *Host) AddBridge(name string) error {
	if err := h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
		return fmt.Errorf("on %s: add bridge %s: %w", h.name, name, err)
	}
	// A bridge whose address nobody set takes the lowest of its ports': one more
	// pod, and the others' neighbour entries for their gateway are wrong.
	err := h.withLink(name, func(link netlink.Link) error {
		return h.nl.LinkSetHardwareAddr(link, link.Attrs().HardwareAddr)
	})
	if err != nil {
		return fmt.Errorf("on %s: fix the address of bridge %s: %w", h.name, name, err)
	}
	return h.up(name)
}

// Plug makes an interface a port of a bridge of the same host.
func (h *Host) Plug(device, bridge string) error {
	return h.withLink(bridge, func(b netlink.Link) error {
		return h.withLink(device, func(d netlink.Link) error { return h.nl.LinkSetMaster(d, b) })
	})
}

// AddAddr gives an interface addresses, each with the length of its network.
// They are usable at once: nobody is asked whether they are taken.
func (h *Host) AddAddr(device string, addrs ...netip.Prefix) error {
	return h.withLink(device, func(link netlink.Link) error {
		for _, a := range addrs {
			addr := &netlink.Addr{IPNet: ipNet(a)}
			if a.Addr().Is6() {
				addr.Flags = unix.IFA_F_NODAD
			}
			if err := h.nl.AddrAdd(link, addr); err != nil {
				return fmt.Errorf("add address %s: %w", a, err)
			}
		}
		return nil
	})
}

// Route is one entry of a host's routing table.
type Route struct {
	To     netip.Prefix
	Device string
	Via    netip.Addr // none: the destination is on the link
	Src    netip.Addr // none: the kernel chooses the source address
}

// AddRoute adds routes; one that is there already is replaced.
func (h *Host) AddRoute(routes ...Route) error {
	for _, r := range routes {
		err := h.withLink(r.Device, func(link netlink.Link) error {
			route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.To)}
			if r.Src.IsValid() {
				route.Src = r.Src.AsSlice()
			}
			if r.Via.IsValid() {
				route.Gw = r.Via.AsSlice()
			} else {
				route.Scope = netlink.SCOPE_LINK
			}
			return h.nl.RouteReplace(route)
		})
		if err != nil {
			return fmt.Errorf("add route to %s: %w", r.To, err)
		}
	}
	return nil
}

func (h *Host) up(device string) error {
	return errors.Join(h.Sysctl(neighbourSysctls(device)...),
		h.withLink(device, func(link netlink.Link) error { return h.nl.LinkSetUp(link) }))
}

func (h *Host) withLink(device string, f func(netlink.Link) error) error {
	link, err := h.nl.LinkByName(device)
	if err == nil {
		err = f(link)
	}
	if err != nil {
		return fmt.Errorf("on %s: interface %s: %w", h.name, device, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
