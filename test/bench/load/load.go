package load

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Namespace is where all the objects are.
const Namespace = "bench"

// The ports of every service and of its endpoints.
const (
	Port    = 80
	PodPort = 8080
)

// NodeName is the node that the contestants think they run on.
const NodeName = "bench-node"

// nodes is how many nodes the endpoints are spread over. None is the contestant's.
const nodes = 100

// The addresses. first are the endpoints that services begin with, fresh those that
// come in their place; both are pods.
var (
	vips  = netip.MustParsePrefix("10.96.0.0/12")
	pods  = netip.MustParsePrefix("10.128.0.0/10")
	first = netip.MustParsePrefix("10.128.0.0/11")
	fresh = netip.MustParsePrefix("10.160.0.0/12")
)

// ServiceCIDR is the range of all ClusterIPs.
func ServiceCIDR() netip.Prefix { return vips }

// PodCIDR is the range of all pods. The lab's client is in it too, as a pod would
// be: what it sends to a ClusterIP is not masqueraded.
func PodCIDR() netip.Prefix { return pods }

// EndpointRanges are the parts of PodCIDR that endpoints are in.
func EndpointRanges() []netip.Prefix { return []netip.Prefix{first, fresh} }

// MaxServices is how many Services there are ClusterIPs for.
const MaxServices = 1 << 19

// maxEndpoints is how many addresses there are to begin with.
const maxEndpoints = 1<<21 - 512

// Load is a set of Services and the endpoints that they have now. Its methods may
// be called from several goroutines.
type Load struct {
	Services, Endpoints int

	mu    sync.Mutex
	turns map[int]int // how often a service changed
	moved map[place]netip.Addr
	next  uint32 // replacements given out
	// writing has a lock for every so many services, held while one is written: of two
	// writes under way at once the older could be the last.
	writing [64]sync.Mutex
}

// place is one endpoint: the j-th of service i.
type place struct{ i, j int }

// New makes a load of n Services of m endpoints each.
func New(n, m int) (*Load, error) {
	if n < 1 || n > MaxServices || m < 1 || n*m > maxEndpoints {
		return nil, fmt.Errorf("load of %d services of %d endpoints: at most %d services and %d endpoints in all", n, m, MaxServices, maxEndpoints)
	}
	return &Load{Services: n, Endpoints: m, turns: map[int]int{}, moved: map[place]netip.Addr{}}, nil
}

// Name is the name of service i, 0 to Services-1. The order of names is that of
// numbers.
func Name(i int) string { return fmt.Sprintf("service-%06d", i) }

// VIP is the ClusterIP of service i with its port. Services are spread over the
// range by a constant that has no factor in common with its size.
func VIP(i int) netip.AddrPort {
	return netip.AddrPortFrom(plus(vips.Addr(), 256+uint32(i)*2654435761%(1<<20-512)), Port)
}

// Pods lists the endpoints of service i.
func (l *Load) Pods(i int) []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pods(i)
}

func (l *Load) pods(i int) []netip.Addr {
	out := make([]netip.Addr, l.Endpoints)
	for j := range out {
		if a, ok := l.moved[place{i, j}]; ok {
			out[j] = a
		} else {
			out[j] = plus(first.Addr(), 256+uint32(i*l.Endpoints+j))
		}
	}
	return out
}

// Turn replaces one endpoint of service i, another each time, and returns the one
// that came.
func (l *Load) Turn(i int) netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	pod := plus(fresh.Addr(), 256+l.next%(1<<20-512))
	l.next++
	l.moved[place{i, l.turns[i] % l.Endpoints}] = pod
	l.turns[i]++
	return pod
}

// alone waits until nobody writes service i, and returns what ends it being written.
func (l *Load) alone(i int) (done func()) {
	m := &l.writing[i%len(l.writing)]
	m.Lock()
	return m.Unlock
}

// Service is service i.
func Service(i int) *corev1.Service {
	vip := VIP(i).Addr().String()
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: Name(i)},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: vip, ClusterIPs: []string{vip},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: Port}},
		},
	}
}

// Slice is the EndpointSlice of service i as it is now.
func (l *Load) Slice(i int) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: Name(i) + "-x",
			Labels: map[string]string{discoveryv1.LabelServiceName: Name(i)}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Protocol: new(corev1.ProtocolTCP), Port: new(int32(PodPort))}},
	}
	for j, pod := range l.Pods(i) {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{pod.String()},
			Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
			NodeName:   new(fmt.Sprintf("node-%d", (i+j)%nodes)),
		})
	}
	return slice
}

// Node is the contestants' node.
func Node(addr netip.Addr) *corev1.Node {
	return &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: NodeName, Labels: map[string]string{corev1.LabelHostname: NodeName}},
		Spec:       corev1.NodeSpec{PodCIDR: pods.String(), PodCIDRs: []string{pods.String()}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: addr.String()}, {Type: corev1.NodeHostName, Address: NodeName}}},
	}
}

func plus(a netip.Addr, n uint32) netip.Addr {
	b := a.As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+n)
	return netip.AddrFrom4(b)
}
