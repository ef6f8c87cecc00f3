package street

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"switchyard/test/bench/load"
	"switchyard/test/netlab"
)

// The node's and the control plane's addresses on the wire between them.
var (
	NodeAddr         = netip.MustParseAddr("192.168.0.2")
	ControlPlaneAddr = netip.MustParseAddr("192.168.0.10")
)

// The wires between client, node and server.
var (
	clientAddr = netip.MustParsePrefix("10.191.255.2/30")
	clientGate = netip.MustParsePrefix("10.191.255.1/30")
	serverAddr = netip.MustParsePrefix("192.168.2.2/24")
	serverGate = netip.MustParsePrefix("192.168.2.1/24")
)

// bridge is the control plane's, into which each street is plugged.
const bridge = "br0"

// ControlPlane is the host of the API server.
type ControlPlane struct {
	Host  *netlab.Host
	lab   *netlab.Lab
	ports int
}

// NewControlPlane makes a host with the address of an API server.
func NewControlPlane() (*ControlPlane, error) {
	lab, err := netlab.New("benchcp")
	if err != nil {
		return nil, err
	}
	host, err := lab.AddHost("cp")
	if err == nil {
		err = host.AddBridge(bridge)
	}
	if err == nil {
		err = host.AddAddr(bridge, netip.PrefixFrom(ControlPlaneAddr, 24))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the control plane: %w", err), lab.Close())
	}
	return &ControlPlane{Host: host, lab: lab}, nil
}

// Close removes the host.
func (c *ControlPlane) Close() error { return c.lab.Close() }

// Street is one lab.
type Street struct {
	Client, Node, Server *netlab.Host
	lab                  *netlab.Lab
	server               *server
}

// New makes a street. cp may be nil: then there is no way to a control plane.
func New(cp *ControlPlane) (*Street, error) {
	lab, err := netlab.New("bench")
	if err != nil {
		return nil, err
	}
	s := &Street{lab: lab}
	for name, host := range map[string]**netlab.Host{"client": &s.Client, "node": &s.Node, "server": &s.Server} {
		if *host, err = lab.AddHost(name); err != nil {
			return nil, errors.Join(err, lab.Close())
		}
	}
	if err := errors.Join(s.pave(), s.join(cp), s.open()); err != nil {
		return nil, errors.Join(fmt.Errorf("make a street: %w", err), s.Close())
	}
	return s, nil
}

// Close ends the server and removes all hosts. What runs on them must have ended.
func (s *Street) Close() error {
	if s.server != nil {
		s.server.close()
	}
	return s.lab.Close()
}

// pave joins client, node and server in a row. The node has no way to ClusterIPs,
// so one that no contestant serves is refused at once instead of being waited for.
func (s *Street) pave() error {
	err := errors.Join(
		netlab.Wire(netlab.End{Host: s.Client, Device: "eth0"}, netlab.End{Host: s.Node, Device: "out"}),
		netlab.Wire(netlab.End{Host: s.Server, Device: "eth0"}, netlab.End{Host: s.Node, Device: "in"}))
	if err != nil {
		return err
	}
	anywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	return errors.Join(
		s.Client.AddAddr("eth0", clientAddr), s.Node.AddAddr("out", clientGate),
		s.Server.AddAddr("eth0", serverAddr), s.Node.AddAddr("in", serverGate),
		s.Node.Sysctl(netlab.Setting{Path: "net/ipv4/ip_forward", Value: "1"}),
		s.Client.AddRoute(netlab.Route{To: anywhere, Device: "eth0", Via: clientGate.Addr()}),
		s.Server.AddRoute(netlab.Route{To: anywhere, Device: "eth0", Via: serverGate.Addr()}),
		s.Node.AddRoute(netlab.Route{To: load.PodCIDR(), Device: "in", Via: serverAddr.Addr()}),
		s.Client.Sysctl(netlab.Setting{Path: "net/ipv4/ip_local_port_range", Value: "1024 65535"}),
		s.anyIP())
}

// anyIP makes every address of the endpoints one of the server's own. The client's
// is not among them: an answer to it would stay in the server.
func (s *Street) anyIP() error {
	var errs []error
	for _, r := range load.EndpointRanges() {
		_, err := s.Server.Output(context.Background(), "ip", "route", "add", "local", r.String(), "dev", "lo")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s *Street) join(cp *ControlPlane) error {
	if cp == nil {
		return nil
	}
	cp.ports++
	port := fmt.Sprintf("p%d", cp.ports)
	return errors.Join(
		netlab.Wire(netlab.End{Host: s.Node, Device: "eth0"}, netlab.End{Host: cp.Host, Device: port}),
		cp.Host.Plug(port, bridge),
		s.Node.AddAddr("eth0", netip.PrefixFrom(NodeAddr, 24)))
}
