package proxier

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// String prints a State for people, one line a fact: what `kube-proxy render`
// shows and what scenarios hold.
//
//	IPv4 on node-a
//	  pods        from 10.180.0.0/16
//	  node ports  on every local address, and on 127.0.0.0/8
//	  local       192.168.0.2
//	service default/web:http TCP
//	  ClusterIP     172.30.0.41:80     not-pods → cluster, masquerade · anyone → cluster
//	  cluster       10.180.0.2:8080 (local) · 10.180.1.2:8080
func (s *State) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s on %s\n", s.Family, orNone(s.Node.Name))
	s.Node.print(&b, s.Family)
	for _, svc := range s.Services {
		svc.print(&b)
	}
	return b.String()
}

func (n *Node) print(b *strings.Builder, family Family) {
	switch {
	case len(n.PodRanges) > 0:
		fmt.Fprintf(b, "  pods        from %s\n", join(n.PodRanges))
	case len(n.PodInterfaces) > 0:
		fmt.Fprintf(b, "  pods        in by %s\n", strings.Join(n.PodInterfaces, " "))
	default:
		b.WriteString("  pods        cannot be told from others\n")
	}
	on := "every local address"
	if !n.NodePorts.Any {
		on = orNone(join(n.NodePorts.Addrs))
	}
	if n.NodePorts.Localhost {
		on += ", and on " + family.Loopback().String()
	}
	fmt.Fprintf(b, "  node ports  on %s\n", on)
	fmt.Fprintf(b, "  local       %s\n", orNone(join(n.Local)))
	if len(n.Held) > 0 {
		fmt.Fprintf(b, "  held        %s, for Services alone\n", join(n.Held))
	}
}

func (s *Service) print(b *strings.Builder) {
	fmt.Fprintf(b, "service %s %s\n", s.Name, s.Protocol)
	for i := range s.Frontends {
		s.Frontends[i].print(b)
	}
	printEndpoints(b, "cluster", s.Cluster)
	printEndpoints(b, "local", s.Local)
	if len(s.Kept) > 0 {
		printRow(b, "kept", join(s.Kept))
	}
	if s.Affinity > 0 {
		printRow(b, "affinity", "client's address, for "+s.Affinity.String())
	}
	if s.HealthPort != 0 {
		printRow(b, "health", fmt.Sprintf("port %d", s.HealthPort))
	}
	if s.Scheduler != "" {
		printRow(b, "scheduler", s.Scheduler)
	}
	if s.ProxyProtocol {
		printRow(b, "proxy", "protocol v2")
	}
}

func (f *Frontend) print(b *strings.Builder) {
	rows := make([]string, len(f.Routes))
	for i, r := range f.Routes {
		rows[i] = r.String()
	}
	text := fmt.Sprintf("%-22s ", f.Address()) + strings.Join(rows, " · ")
	if len(f.Allow) > 0 {
		text += " · allowed " + join(f.Allow)
	}
	printRow(b, f.Kind.String(), text)
}

// Address is the frontend's address and port; a node port's address is "*".
func (f *Frontend) Address() string {
	if f.Addr.Addr().IsValid() {
		return f.Addr.String()
	}
	return fmt.Sprintf("*:%d", f.Addr.Port())
}

// String is "pods → cluster" or "anyone → cluster, masquerade".
func (r Route) String() string {
	text := r.From.String() + " → " + r.To.String()
	if r.Masq {
		text += ", masquerade"
	}
	return text
}

// String is the address, with its marks.
func (e Endpoint) String() string {
	text := e.Addr.String()
	if e.Local {
		text += " (local)"
	}
	if e.Terminating {
		text += " (terminating)"
	}
	if e.Weight != 0 {
		text += fmt.Sprintf(" (weight %d)", e.Weight)
	}
	return text
}

// String is what a person asks of a fate: the verdict and where to.
func (f Fate) String() string {
	if f.Verdict != Forward {
		return f.Verdict.String()
	}
	text := "forward"
	if f.Masq {
		text += " masq"
	}
	addrs := make([]netip.AddrPort, len(f.Endpoints))
	for i, e := range f.Endpoints {
		addrs[i] = e.Addr
	}
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	return text + " " + join(addrs)
}

func printEndpoints(b *strings.Builder, name string, eps []Endpoint) {
	if len(eps) == 0 {
		return
	}
	parts := make([]string, len(eps))
	for i, e := range eps {
		parts[i] = e.String()
	}
	printRow(b, name, strings.Join(parts, " · "))
}

func printRow(b *strings.Builder, name, text string) {
	fmt.Fprintf(b, "  %-13s %s\n", name, text)
}

func join[T fmt.Stringer](list []T) string {
	parts := make([]string, len(list))
	for i, v := range list {
		parts[i] = v.String()
	}
	return strings.Join(parts, " ")
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
