package manifest

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validator refuses what the API server would refuse, in the fields that a proxy
// reads. It sees objects with their defaults.
type validator struct {
	root   *value // as written
	refuse func(path *field.Path, reason string)
}

var (
	inMeta = field.NewPath("metadata")
	inSpec = field.NewPath("spec")
)

func (v *validator) meta(meta *metav1.ObjectMeta, check func(string) []string, namespaced bool) {
	if meta.Name == "" {
		v.refuse(inMeta.Child("name"), "required")
	} else {
		v.name(inMeta.Child("name"), meta.Name, check)
	}
	if namespaced {
		v.name(inMeta.Child("namespace"), meta.Namespace, validation.IsDNS1123Label)
	}
}

// name applies one of apimachinery's checks of names.
func (v *validator) name(path *field.Path, name string, check func(string) []string) {
	if why := check(name); len(why) > 0 {
		v.refuse(path, quote(name)+": "+why[0])
	}
}

// oneOf refuses a word that is none of the allowed ones.
func oneOf[S ~string](v *validator, path *field.Path, word S, allowed ...S) {
	texts := make([]string, len(allowed))
	for i, a := range allowed {
		if word == a {
			return
		}
		texts[i] = string(a)
	}
	last := len(texts) - 1
	v.refuse(path, fmt.Sprintf("%s: expected %s or %s", quote(string(word)), strings.Join(texts[:last], ", "), texts[last]))
}

func (v *validator) protocol(path *field.Path, protocol corev1.Protocol) {
	oneOf(v, path, protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
}

// number refuses a number outside of a range.
func (v *validator) number(path *field.Path, n, low, high int32) {
	if n < low || n > high {
		v.refuse(path, fmt.Sprintf("%d: expected %d to %d", n, low, high))
	}
}

func (v *validator) address(path *field.Path, text string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		v.refuse(path, quote(text)+": expected an IP address")
		return addr, false
	}
	return addr.Unmap(), true
}

func (v *validator) prefix(path *field.Path, text string) {
	if _, err := netip.ParsePrefix(strings.TrimSpace(text)); err != nil {
		v.refuse(path, quote(text)+": expected a CIDR such as 192.0.2.0/24")
	}
}

func (v *validator) slice(slice *discoveryv1.EndpointSlice) {
	v.meta(&slice.ObjectMeta, validation.IsDNS1123Subdomain, true)
	service := inMeta.Child("labels").Key(discoveryv1.LabelServiceName)
	if slice.Labels[discoveryv1.LabelServiceName] == "" {
		v.refuse(service, "required: it names the Service that the endpoints are for")
	} else {
		v.name(service, slice.Labels[discoveryv1.LabelServiceName], validation.IsDNS1123Label)
	}
	if slice.AddressType == "" {
		v.refuse(field.NewPath("addressType"), "required")
	} else {
		oneOf(v, field.NewPath("addressType"), slice.AddressType,
			discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN)
	}
	v.slicePorts(slice.Ports)
	for i := range slice.Endpoints {
		v.endpoint(field.NewPath("endpoints").Index(i), &slice.Endpoints[i], slice.AddressType)
	}
}

func (v *validator) slicePorts(ports []discoveryv1.EndpointPort) {
	seen := map[string]int{}
	for i := range ports {
		port, path := &ports[i], field.NewPath("ports").Index(i)
		v.portName(path.Child("name"), *port.Name, i, seen)
		v.protocol(path.Child("protocol"), *port.Protocol)
		if port.Port == nil {
			v.refuse(path.Child("port"), "required")
		} else {
			v.number(path.Child("port"), *port.Port, 1, 65535)
		}
	}
}

// portName checks the name of the i-th port, seen holding those before it.
func (v *validator) portName(path *field.Path, name string, i int, seen map[string]int) {
	if first, twice := seen[name]; twice {
		v.refuse(path, fmt.Sprintf("%s: already the name of ports[%d]", quote(name), first))
		return
	}
	seen[name] = i
	if name != "" {
		v.name(path, name, validation.IsDNS1123Label)
	}
}

// endpoint does not refuse addresses that are of no use, such as loopback ones:
// the Store leaves those out and says so.
func (v *validator) endpoint(path *field.Path, e *discoveryv1.Endpoint, kind discoveryv1.AddressType) {
	if len(e.Addresses) == 0 {
		v.refuse(path.Child("addresses"), "required")
	}
	for j, text := range e.Addresses {
		at := path.Child("addresses").Index(j)
		switch kind {
		case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
			addr, ok := v.address(at, text)
			if ok && addr.Is4() != (kind == discoveryv1.AddressTypeIPv4) {
				v.refuse(at, fmt.Sprintf("%s: expected an %s address, as addressType says", quote(text), kind))
			}
		}
	}
	if e.Hints == nil {
		return
	}
	for j, zone := range e.Hints.ForZones {
		if zone.Name == "" {
			v.refuse(path.Child("hints", "forZones").Index(j).Child("name"), "required")
		}
	}
	for j, node := range e.Hints.ForNodes {
		if node.Name == "" {
			v.refuse(path.Child("hints", "forNodes").Index(j).Child("name"), "required")
		}
	}
}

// place is where the i-th of a list of addresses is written. The first may be in
// the old field for a single one.
func (v *validator) place(one, many string, i int) *field.Path {
	path := inSpec.Child(many).Index(i)
	if _, listed := v.root.find(path.String()); listed || i > 0 {
		return path
	}
	return inSpec.Child(one)
}

func (v *validator) node(node *corev1.Node) {
	v.meta(&node.ObjectMeta, validation.IsDNS1123Subdomain, false)
	for i, text := range node.Spec.PodCIDRs {
		v.prefix(v.place("podCIDR", "podCIDRs", i), text)
	}
	if cidrs := node.Spec.PodCIDRs; len(cidrs) > 0 && cidrs[0] != node.Spec.PodCIDR {
		v.refuse(inSpec.Child("podCIDR"), fmt.Sprintf("%s: expected the first of podCIDRs, %s",
			quote(node.Spec.PodCIDR), quote(cidrs[0])))
	}
}
