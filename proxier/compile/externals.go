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
// (CVE-2020-8554); the zero value honours all, as upstream does.
type ExternalIPs struct {
	None   bool
	Within []netip.Prefix // if there are any: only addresses in them
}

func (x ExternalIPs) equal(o ExternalIPs) bool {
	return x.None == o.None && slices.Equal(x.Within, o.Within)
}

// objection says why an external IP is not honoured, "" if it is. An address of
// the range that the API server gives ClusterIPs from is some Service's, today or
// tomorrow.
func (e *Env) objection(ip netip.Addr) string {
	contains := func(p netip.Prefix) bool { return p.Contains(ip) }
	switch x := e.ExternalIPs; {
	case x.None:
		return "external IPs are switched off by --service-external-ips=none"
	case len(x.Within) > 0 && !slices.ContainsFunc(x.Within, contains):
		return "not within --service-external-ips"
	}
	if i := slices.IndexFunc(e.ServiceCIDRs, contains); i >= 0 {
		return fmt.Sprintf("within the ServiceCIDR %s, which is for ClusterIPs", e.ServiceCIDRs[i])
	}
	return ""
}

// honoured are the external IPs that are.
func (e *Env) honoured(ips []netip.Addr) []netip.Addr {
	if !slices.ContainsFunc(ips, func(ip netip.Addr) bool { return e.objection(ip) != "" }) {
		return ips
	}
	return slices.DeleteFunc(slices.Clone(ips), func(ip netip.Addr) bool { return e.objection(ip) != "" })
}

// refused says for each external IP of the family that is not honoured why.
func (e *Env) refused(svc *cluster.Service) (refused []cluster.Problem) {
	for _, ip := range svc.ExternalIPs {
		if proxier.FamilyOf(ip) != e.Family {
			continue
		}
		if why := e.objection(ip); why != "" {
			refused = append(refused, cluster.Problem{
				Object: serviceObject(svc.Name), Field: "spec.externalIPs",
				Reason: fmt.Sprintf("%s: %s: this service does not answer there", ip, why),
			})
		}
	}
	return refused
}
