package conntrack

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"switchyard/proxier"
)

// The places of these tests, in both families.
var places = map[string][2]string{
	"vip":     {"10.96.0.10", "fd96::10"},
	"vip2":    {"10.96.0.20", "fd96::20"},
	"ext":     {"203.0.113.1", "2001:db8::1"},
	"lb":      {"198.51.100.1", "2001:db8:1::1"},
	"node":    {"192.168.0.1", "fd00::1"},
	"node2":   {"192.168.0.2", "fd00::2"}, // a second address of the node
	"faraway": {"192.168.9.9", "fd00::99"},
	"client":  {"172.16.0.9", "fd17::9"},
	"pod1":    {"10.244.0.1", "fd24::1"},
	"pod2":    {"10.244.0.2", "fd24::2"},
	"pod3":    {"10.244.0.3", "fd24::3"},
	"local":   {"127.0.0.1", "::1"},
}

func place(family proxier.Family, name string) netip.Addr {
	if family == proxier.IPv6 {
		return netip.MustParseAddr(places[name][1])
	}
	return netip.MustParseAddr(places[name][0])
}

// at reads "vip:53".
func at(family proxier.Family, s string) netip.AddrPort {
	name, digits, _ := strings.Cut(s, ":")
	port, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		panic(s)
	}
	return netip.AddrPortFrom(place(family, name), uint16(port))
}

// state has a Service a line: "udp dns vip:53 port:30053 > pod1:53 local pod2:53
// kept pod3:53". The node serves NodePorts at the named addresses.
func state(family proxier.Family, services []string, nodePorts ...string) *proxier.State {
	s := &proxier.State{Family: family, Node: proxier.Node{Name: "n1"}}
	for _, name := range []string{"node", "node2"} {
		s.Node.Local = append(s.Node.Local, place(family, name))
	}
	for _, name := range nodePorts {
		switch name {
		case "any":
			s.Node.NodePorts.Any = true
		case "localhost":
			s.Node.NodePorts.Localhost = true
		default:
			s.Node.NodePorts.Addrs = append(s.Node.NodePorts.Addrs, place(family, name))
		}
	}
	for _, line := range services {
		s.Services = append(s.Services, service(family, line))
	}
	slices.SortFunc(s.Services, (*proxier.Service).Compare)
	return s
}

func service(family proxier.Family, line string) *proxier.Service {
	protocols := map[string]proxier.Protocol{"tcp": proxier.TCP, "udp": proxier.UDP, "sctp": proxier.SCTP}
	front, back, _ := strings.Cut(line, ">")
	words := strings.Fields(front)
	svc := &proxier.Service{
		Protocol: protocols[words[0]],
		Name:     proxier.ServicePort{Namespace: "default", Service: words[1]},
	}
	list := "cluster"
	for w := range strings.FieldsSeq(back) {
		switch w {
		case "local", "kept":
			list = w
			continue
		}
		addr := at(family, w)
		switch list {
		case "cluster":
			svc.Cluster = append(svc.Cluster, proxier.Endpoint{Addr: addr})
		case "local":
			svc.Local = append(svc.Local, proxier.Endpoint{Addr: addr, Local: true})
		case "kept":
			svc.Kept = append(svc.Kept, addr)
		}
	}
	for _, w := range words[2:] {
		svc.Frontends = append(svc.Frontends, addressOf(family, w, svc))
	}
	return svc
}

func addressOf(family proxier.Family, w string, svc *proxier.Service) proxier.Frontend {
	f := proxier.Frontend{Kind: proxier.ClusterIP, Routes: []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToReject}}}
	if name, digits, _ := strings.Cut(w, ":"); name == "port" {
		f.Kind = proxier.NodePort
		f.Addr = netip.AddrPortFrom(netip.Addr{}, at(family, "node:"+digits).Port())
	} else {
		f.Addr = at(family, w)
	}
	switch {
	case len(svc.Cluster) > 0:
		f.Routes[0].To = proxier.ToCluster
	case len(svc.Local) > 0:
		f.Routes[0].To = proxier.ToLocal
	}
	return f
}

// flow reads "udp client:4000 vip:53 pod1:53": from, sent to, goes to.
func flow(family proxier.Family, s string) Flow {
	w := strings.Fields(s)
	protocols := map[string]proxier.Protocol{"tcp": proxier.TCP, "udp": proxier.UDP, "sctp": proxier.SCTP}
	return Flow{
		Protocol: protocols[w[0]],
		Src:      at(family, w[1]), Dst: at(family, w[2]),
		ReplySrc: at(family, w[3]), ReplyDst: at(family, w[1]),
	}
}
