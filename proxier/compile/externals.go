package compile

import (
	"fmt"
	"net/netip"
	"slices"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
)

// ExternalIPs says which of the Services' externalIPs are honoured. Whoever may
// write a Service can name any address there and so draw its traffic
// (CVE-2020-8554). The zero value honours all that are nobody's: see objection.
type ExternalIPs struct {
	None   bool
	Within []netip.Prefix // if there are any: only addresses in them
}

func (x ExternalIPs) equal(o ExternalIPs) bool {
	return x.None == o.None && slices.Equal(x.Within, o.Within)
}

// objection says why a Service may not answer at an external IP, "" if it may. What
// is always wrong comes first, then what the administrator said, then whose the
// address is. Ranges that the administrator lists are a word for the addresses of
// nodes and of what runs on them: such clusters exist. They are none for the
// addresses that the cluster itself gives to Services and pods.
func (e *Env) objection(self cluster.Name, ip netip.Addr) string {
	x := e.ExternalIPs
	listed := slices.ContainsFunc(x.Within, func(p netip.Prefix) bool { return p.Contains(ip) })
	if why := special(ip); why != "" {
		return why
	}
	switch {
	case x.None:
		return "external IPs are switched off by --service-external-ips=none"
	case len(x.Within) > 0 && !listed:
		return "not within --service-external-ips"
	}
	if why := e.allocated(self, ip); why != "" || listed {
		return why
	}
	if slices.Contains(e.OwnAddrs, ip) {
		return "an address of this node; a range of --service-external-ips that holds it would allow it"
	}
	if owner, found := e.holders.endpoint(ip); found {
		return fmt.Sprintf("the address of an endpoint of %s; a range of --service-external-ips that holds it would allow it", owner)
	}
	return ""
}

// special are the addresses that mean the host itself, or no host.
func special(ip netip.Addr) string {
	switch {
	case ip.IsUnspecified():
		return "the unspecified address"
	case ip.IsLoopback():
		return "a loopback address"
	case ip.IsLinkLocalUnicast():
		return "a link-local address"
	case ip.IsMulticast(), ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "a multicast or broadcast address"
	}
	return ""
}

// allocated says whether the cluster gave the address to somebody, or may tomorrow.
func (e *Env) allocated(self cluster.Name, ip netip.Addr) string {
	contains := func(p netip.Prefix) bool { return p.Contains(ip) }
	if i := slices.IndexFunc(e.ServiceCIDRs, contains); i >= 0 {
		return fmt.Sprintf("within the ServiceCIDR %s, which is for ClusterIPs", e.ServiceCIDRs[i])
	}
	if owner, found := e.holders.clusterIP(self, ip); found {
		return fmt.Sprintf("the ClusterIP of %s", owner)
	}
	if i := slices.IndexFunc(e.PodRanges, contains); i >= 0 {
		return fmt.Sprintf("within %s, which is for pods", e.PodRanges[i])
	}
	return ""
}

// podRanges are the ranges that are known to be for pods. One that holds every
// address, as some write who know of none, says nothing.
func podRanges(f proxier.Family, lists ...[]netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range slices.Concat(lists...) {
		if proxier.FamilyOf(p.Addr()) == f && p.Bits() > 0 && !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}

// honoured are the external IPs that are.
func (e *Env) honoured(svc *cluster.Service) []netip.Addr {
	refused := func(ip netip.Addr) bool {
		return proxier.FamilyOf(ip) == e.Family && e.objection(svc.Name, ip) != ""
	}
	if !slices.ContainsFunc(svc.ExternalIPs, refused) {
		return svc.ExternalIPs
	}
	return slices.DeleteFunc(slices.Clone(svc.ExternalIPs), refused)
}

// refused says for each external IP of the family that is not honoured why.
func (e *Env) refused(svc *cluster.Service) (refused []cluster.Problem) {
	for _, ip := range svc.ExternalIPs {
		if proxier.FamilyOf(ip) != e.Family {
			continue
		}
		if why := e.objection(svc.Name, ip); why != "" {
			refused = append(refused, cluster.Problem{
				Object: serviceObject(svc.Name), Field: "spec.externalIPs",
				Reason: fmt.Sprintf("%s: %s: this service does not answer there", ip, why),
			})
		}
	}
	return refused
}
