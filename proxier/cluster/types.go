package cluster

import (
	"cmp"
	"net/netip"
	"strings"
	"time"

	"switchyard/proxier"
)

// Name is the namespace and name of an object.
type Name struct{ Namespace, Name string }

func (n Name) String() string { return n.Namespace + "/" + n.Name }

// clone is an equal name that keeps no API object alive.
func (n Name) clone() Name { return Name{strings.Clone(n.Namespace), strings.Clone(n.Name)} }

// Compare orders by namespace, then name.
func (n Name) Compare(o Name) int {
	if c := strings.Compare(n.Namespace, o.Namespace); c != 0 {
		return c
	}
	return strings.Compare(n.Name, o.Name)
}

// Snapshot is the cluster at one instant. Immutable.
type Snapshot struct {
	Node     *Node // nil until the Node is known
	Services List  // those that this proxy must serve
	// ServiceCIDRs are the ranges that ClusterIPs come from, sorted; empty if the
	// API does not tell.
	ServiceCIDRs []netip.Prefix
}

// Node is this node as the API describes it. Immutable.
type Node struct {
	Name      string
	Addresses []netip.Addr   // InternalIPs, then ExternalIPs, as listed
	PodCIDRs  []netip.Prefix // spec.podCIDRs
	Zone      string         // label topology.kubernetes.io/zone
	// Eligible is false while the Node is being deleted or carries the taint
	// ToBeDeletedByClusterAutoscaler (KEP-3836).
	Eligible bool
}

// Service is one Service of the API with the EndpointSlices that carry its
// name. Immutable.
type Service struct {
	Name  Name
	Ports []Port // as listed in the Service, invalid ones left out

	ClusterIPs    []netip.Addr
	ExternalIPs   []netip.Addr
	LoadBalancers []netip.Addr // ingress IPs with ipMode VIP (or none)

	// SourceRanges are the parsed loadBalancerSourceRanges, masked. Restricted
	// tells that the Service lists some, also if none of them parses.
	SourceRanges []netip.Prefix
	Restricted   bool

	ExternalLocal bool          // externalTrafficPolicy: Local
	InternalLocal bool          // internalTrafficPolicy: Local
	HealthPort    uint16        // healthCheckNodePort, of type LoadBalancer with ExternalLocal only
	Affinity      time.Duration // sessionAffinity ClientIP: its timeout, else 0
	Balance       Balance       // what annotations ask for

	Slices []*Slice // sorted by name

	// Problems are the parts of the objects that had to be left out, each with
	// the field and the reason, for people.
	Problems []Problem
}

// Port is one port of a Service.
type Port struct {
	Name     string
	Protocol proxier.Protocol
	Port     uint16
	NodePort uint16 // 0: none
}

// Slice is one EndpointSlice. Immutable.
type Slice struct {
	Name      string
	Family    proxier.Family
	Ports     []SlicePort
	Endpoints []Endpoint
	Problems  []Problem
}

// SlicePort is a port that every endpoint of a Slice has; Name matches the name
// of a Service's port.
type SlicePort struct {
	Name     string
	Protocol proxier.Protocol
	Port     uint16
}

// Endpoint is one endpoint of a Slice: the first of its addresses, with the defaults of its conditions
// filled in (ready and serving true, terminating false).
type Endpoint struct {
	Addr        netip.Addr
	Node        string
	Hints       *Hints // nil: none
	Ready       bool
	Serving     bool
	Terminating bool
}

// Hints are the topology hints of an endpoint (KEP-2433, KEP-3015).
type Hints struct {
	Zones []string
	Nodes []string
}

// Object names an object of the API.
type Object struct {
	Kind string
	Name Name // of a Node without a namespace
}

// String is "Service default/web" or "Node worker-1".
func (o Object) String() string {
	if o.Name.Namespace == "" {
		return o.Kind + " " + o.Name.Name
	}
	return o.Kind + " " + o.Name.String()
}

// Compare orders by kind, then name.
func (o Object) Compare(p Object) int {
	return cmp.Or(strings.Compare(o.Kind, p.Kind), o.Name.Compare(p.Name))
}

// Problem is a part of an object that was left out.
type Problem struct {
	Object Object
	Field  string // "spec.externalIPs[1]"
	Reason string // "10.0.0: not an IP address"
}

func (p Problem) String() string { return p.Object.String() + ": " + p.Field + ": " + p.Reason }
