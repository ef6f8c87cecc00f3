package compile

import "switchyard/proxier"

// situation is what a frontend's decision table depends on.
type situation struct {
	endpoints bool // one is usable somewhere
	onNode    bool // one is usable on this node
	policy    bool // the traffic policy is Local
	detects   bool // the node can tell pods from others
	masqAll   bool // --masquerade-all
}

// internalRoutes is the table of a ClusterIP.
func internalRoutes(s situation) []proxier.Route {
	to := proxier.ToCluster
	if s.policy {
		to = proxier.ToLocal
	}
	switch {
	case !s.endpoints:
		return []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToReject}}
	case s.policy && !s.onNode:
		return []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToDrop}}
	case s.masqAll:
		return []proxier.Route{{From: proxier.FromAnyone, To: to, Masq: true}}
	case s.detects:
		return []proxier.Route{
			{From: proxier.FromNotPods, To: to, Masq: true},
			{From: proxier.FromAnyone, To: to},
		}
	}
	return []proxier.Route{{From: proxier.FromAnyone, To: to}}
}

// externalRoutes is the table of an external IP, a load balancer's IP and a node
// port. With the Local policy, pods and the node itself take the short way to
// any endpoint: the outside world's load balancer would have found one for them.
func externalRoutes(s situation) []proxier.Route {
	switch {
	case !s.endpoints:
		return []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToReject}}
	case !s.policy:
		return []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToCluster, Masq: true}}
	}
	last := proxier.Route{From: proxier.FromAnyone, To: proxier.ToDrop}
	if s.onNode {
		last.To = proxier.ToLocal
	}
	node := proxier.Route{From: proxier.FromNode, To: proxier.ToCluster, Masq: true}
	if !s.detects {
		return []proxier.Route{node, last}
	}
	return []proxier.Route{{From: proxier.FromPods, To: proxier.ToCluster}, node, last}
}

// closedRoutes is the table of a load balancer's IP that nobody may use: the
// Service lists source ranges, but none of this family.
func closedRoutes() []proxier.Route {
	return []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToDrop}}
}

// asks reports whether some frontend sends packets to the target.
func asks(fronts []proxier.Frontend, to proxier.To) bool {
	for i := range fronts {
		for _, r := range fronts[i].Routes {
			if r.To == to {
				return true
			}
		}
	}
	return false
}
