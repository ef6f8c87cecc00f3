package health

import (
	"fmt"
	"net/netip"
	"slices"

	"switchyard/proxier"
)

// answer is what one listener has to say.
type answer struct {
	Namespace, Name string
	Endpoints       int // distinct IPs of local ready endpoints, of the listener's family
}

// wanted returns what must be answered where, and an error for each Service whose
// port another one has: the first by name keeps it. Pure.
func wanted(states []*proxier.State) (map[netip.AddrPort]answer, []error) {
	all := map[netip.AddrPort]answer{}
	var errs []error
	for _, s := range states {
		if s == nil {
			continue
		}
		ports, failed := answers(s.Services)
		errs = append(errs, failed...)
		addrs := listenAddrs(s)
		for port, a := range ports {
			for _, addr := range addrs {
				all[netip.AddrPortFrom(addr, port)] = a
			}
		}
	}
	return all, errs
}

// answers are those of one family, by port.
func answers(services []*proxier.Service) (map[uint16]answer, []error) {
	ports := map[uint16]answer{}
	ips := map[uint16]map[netip.Addr]bool{}
	refused := map[string]bool{} // once a Service, not once a port of it
	var errs []error
	for _, svc := range services {
		if svc.HealthPort == 0 {
			continue
		}
		a, taken := ports[svc.HealthPort]
		name := svc.Name.Namespace + "/" + svc.Name.Service
		if taken && (a.Namespace != svc.Name.Namespace || a.Name != svc.Name.Service) {
			if !refused[name] {
				refused[name] = true
				errs = append(errs, &ListenError{
					Namespace: svc.Name.Namespace, Service: svc.Name.Service, Addr: netip.AddrPortFrom(netip.Addr{}, svc.HealthPort),
					Err: fmt.Errorf("the port is that of Service %s/%s", a.Namespace, a.Name),
				})
			}
			continue
		}
		if !taken {
			ips[svc.HealthPort] = map[netip.Addr]bool{}
		}
		for _, e := range svc.Local {
			if !e.Terminating {
				ips[svc.HealthPort][e.Addr.Addr()] = true
			}
		}
		ports[svc.HealthPort] = answer{svc.Name.Namespace, svc.Name.Service, len(ips[svc.HealthPort])}
	}
	return ports, errs
}

// listenAddrs are the addresses at which the node answers NodePorts; the
// unspecified one stands for all.
func listenAddrs(s *proxier.State) []netip.Addr {
	ports := s.Node.NodePorts
	if ports.Any {
		if s.Family == proxier.IPv6 {
			return []netip.Addr{netip.IPv6Unspecified()}
		}
		return []netip.Addr{netip.IPv4Unspecified()}
	}
	addrs := slices.Clone(ports.Addrs)
	if ports.Localhost && s.Family == proxier.IPv4 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	return addrs
}
