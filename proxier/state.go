package proxier

import (
	"cmp"
	"net/netip"
	"strings"
	"time"
)

// Family is an IP family. Its zero value belongs to no address.
type Family uint8

// The two IP families. Their values are the version numbers in the IP header.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf returns the family of a valid address, 0 for the zero address. An
// IPv4-mapped IPv6 address is IPv6; callers unmap what they read from outside.
func FamilyOf(addr netip.Addr) Family {
	switch {
	case addr.Is4():
		return IPv4
	case addr.Is6():
		return IPv6
	}
	return 0
}

// Bits is the length of the family's addresses: 32 or 128.
func (f Family) Bits() int {
	if f == IPv6 {
		return 128
	}
	return 32
}

// Loopback is the family's loopback range: 127.0.0.0/8 or ::1/128.
func (f Family) Loopback() netip.Prefix {
	if f == IPv6 {
		return netip.PrefixFrom(netip.IPv6Loopback(), 128)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)
}

func (f Family) String() string {
	switch f {
	case IPv4:
		return "IPv4"
	case IPv6:
		return "IPv6"
	}
	return "no family"
}

// Protocol is a transport protocol; its value is the IP protocol number.
type Protocol uint8

// The protocols that a Service port may have.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String is the Kubernetes spelling: "TCP", "UDP" or "SCTP".
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return "no protocol"
}

// Lower is the kernel tools' spelling: "tcp", "udp" or "sctp".
func (p Protocol) Lower() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return "no protocol"
}

// ServicePort names one port of one Service. Port is the port's name, empty
// where a Service has a single unnamed port.
type ServicePort struct {
	Namespace, Service, Port string
}

// String is "namespace/service:port", or "namespace/service" for an unnamed port.
func (n ServicePort) String() string {
	if n.Port == "" {
		return n.Namespace + "/" + n.Service
	}
	return n.Namespace + "/" + n.Service + ":" + n.Port
}

// Compare orders by namespace, then service, then port.
func (n ServicePort) Compare(o ServicePort) int {
	return cmp.Or(
		strings.Compare(n.Namespace, o.Namespace),
		strings.Compare(n.Service, o.Service),
		strings.Compare(n.Port, o.Port))
}

// State is everything that one node must do for one IP family. It is a value:
// never changed once built, safe to keep, compare and print. A *Service is
// shared with the State before it if it did not change, so a diff of two States
// is a walk over pointers.
type State struct {
	Family   Family
	Node     Node
	Services []*Service // sorted by Service.Compare, no two equal
}

// Node is what the node itself adds to a decision.
type Node struct {
	Name string

	// PodRanges and PodInterfaces tell a pod's packet from others
	// (--detect-local-mode). PodInterfaces are names of input interfaces; a name
	// that ends in "+" is a prefix. Both empty: nothing is known to be a pod.
	PodRanges     []netip.Prefix
	PodInterfaces []string

	// Local are the node's own addresses of this family, loopback left out,
	// sorted.
	Local []netip.Addr

	// Held are those of Local that Services have as their own (ClusterIP, external or
	// load balancer IP) and that are none of the Node object's, sorted: an agent put
	// them on an interface. Others reach the Services there and nothing else.
	Held []netip.Addr

	NodePorts NodePorts
}

// NodePorts tells on which of the node's addresses a NodePort answers.
type NodePorts struct {
	// Any: every local address, those included that the node gets later.
	Any bool
	// Addrs, if not Any: the addresses chosen by nodePortAddresses, sorted.
	Addrs []netip.Addr
	// Localhost: the family's loopback addresses answer too (only with Any, or
	// if nodePortAddresses names them). IPv4 only.
	Localhost bool
}

// DetectsPods reports whether the node can tell a pod's packet from others.
func (n *Node) DetectsPods() bool { return len(n.PodRanges)+len(n.PodInterfaces) > 0 }

// Service is one port of a Service, for one family. Immutable.
type Service struct {
	Name      ServicePort
	Protocol  Protocol
	Frontends []Frontend

	// Cluster are the endpoints usable from anywhere: the ready ones, by
	// topology hints, else all that serve while they terminate. Local are those
	// usable on this node, filled if some Route asks for them. Both are sorted
	// by address without duplicates.
	Cluster []Endpoint
	Local   []Endpoint

	// Kept are endpoints that serve but get no new connections, sorted: a flow
	// that already has one of them stays there.
	Kept []netip.AddrPort

	// Affinity is how long a client stays with its endpoint after its last
	// connection; 0: no affinity.
	Affinity time.Duration

	// HealthPort is the healthCheckNodePort, 0 if the Service has none.
	HealthPort uint16

	// Scheduler is the balancing algorithm by the name that IPVS has for it, perhaps
	// followed by its flags, as in "mh,mh-port"; "" is the backend's default. It is
	// what a person wrote: a backend that does not know it says so in a Note and
	// takes its default. Backends that choose by chance ignore it.
	Scheduler string

	// ProxyProtocol asks a backend that relays bytes to tell endpoints the
	// client's address with a PROXY protocol header, version 2. Others ignore it.
	ProxyProtocol bool
}

// Compare orders services by name, then protocol.
func (s *Service) Compare(o *Service) int {
	return cmp.Or(s.Name.Compare(o.Name), cmp.Compare(s.Protocol, o.Protocol))
}

// Endpoint is an address at which a Service's connections may end.
type Endpoint struct {
	Addr        netip.AddrPort
	Local       bool // on this node
	Terminating bool // serves while it terminates
	// Weight is the endpoint's share of new connections beside the others'; 0
	// stands for the default, 1.
	Weight uint16
}

// Share is the endpoint's weight, 1..65535.
func (e Endpoint) Share() int { return max(1, int(e.Weight)) }

// Kind tells what sort of address a Frontend has.
type Kind uint8

// The kinds of frontends. All but ClusterIP are reachable from outside.
const (
	ClusterIP Kind = iota + 1
	ExternalIP
	LoadBalancer
	NodePort
)

// Kinds lists every Kind.
var Kinds = []Kind{ClusterIP, ExternalIP, LoadBalancer, NodePort}

func (k Kind) String() string {
	switch k {
	case ClusterIP:
		return "ClusterIP"
	case ExternalIP:
		return "ExternalIP"
	case LoadBalancer:
		return "LoadBalancer"
	case NodePort:
		return "NodePort"
	}
	return "no kind"
}

// Frontend is one address at which a Service answers.
type Frontend struct {
	Kind Kind
	// Addr is the address and port. A NodePort has the port only: it answers at
	// every address of Node.NodePorts.
	Addr netip.AddrPort
	// Allow are the sources that may connect; empty: everyone. Checked before
	// Routes; the packets of others are dropped.
	Allow []netip.Prefix
	// Routes: the first whose From matches decides. The last is FromAnyone.
	Routes []Route
}

// Route is one row of a Frontend's decision table.
type Route struct {
	From From
	To   To
	Masq bool // the endpoint sees the node's address, not the client's
}

// From is a class of sources.
type From uint8

// The classes of sources. Which packets are a pod's is told by Node.
const (
	FromAnyone  From = iota + 1
	FromPods         // a pod's packet
	FromNotPods      // any other
	FromNode         // the source is one of the node's own addresses
)

// Froms lists every From.
var Froms = []From{FromAnyone, FromPods, FromNotPods, FromNode}

func (f From) String() string {
	switch f {
	case FromAnyone:
		return "anyone"
	case FromPods:
		return "pods"
	case FromNotPods:
		return "not-pods"
	case FromNode:
		return "node"
	}
	return "nobody"
}

// To is where a Route sends a packet.
type To uint8

// The targets of a Route.
const (
	ToReject  To = iota + 1 // refused at once: ICMP port unreachable
	ToDrop                  // silently dropped
	ToCluster               // one of Service.Cluster, chosen by their weights
	ToLocal                 // one of Service.Local, chosen by their weights
)

// Tos lists every To.
var Tos = []To{ToReject, ToDrop, ToCluster, ToLocal}

func (t To) String() string {
	switch t {
	case ToReject:
		return "reject"
	case ToDrop:
		return "drop"
	case ToCluster:
		return "cluster"
	case ToLocal:
		return "local"
	}
	return "nowhere"
}

// Endpoints returns the endpoints that a Route to To chooses from, none for
// ToReject and ToDrop.
func (s *Service) Endpoints(to To) []Endpoint {
	switch to {
	case ToCluster:
		return s.Cluster
	case ToLocal:
		return s.Local
	}
	return nil
}
