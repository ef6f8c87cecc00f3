package metrics

import "switchyard/proxier"

// noLocal counts the service ports with the traffic policy Local that have
// endpoints, but none on this node.
type noLocal struct{ internal, external int }

// follow goes from one State's count to the next one's. A service that both share
// costs a comparison of pointers. last may be nil: no services.
func (n *noLocal) follow(last, next *proxier.State) {
	var old []*proxier.Service
	if last != nil {
		old = last.Services
	}
	proxier.EachChange(old, next.Services, false, func(was, is *proxier.Service) {
		if was != nil {
			n.add(was, -1)
		}
		if is != nil {
			n.add(is, 1)
		}
	})
}

func (n *noLocal) add(s *proxier.Service, sign int) {
	var internal, external bool
	for i := range s.Frontends {
		if f := &s.Frontends[i]; f.Kind == proxier.ClusterIP {
			internal = internal || dropsInside(f.Routes)
		} else {
			external = external || dropsOutside(f.Routes)
		}
	}
	if internal {
		n.internal += sign
	}
	if external {
		n.external += sign
	}
}

// dropsInside reports whether a ClusterIP's table is that of an internal policy
// Local without an endpoint here: everything is dropped.
func dropsInside(routes []proxier.Route) bool {
	return len(routes) == 1 && routes[0].To == proxier.ToDrop
}

// dropsOutside reports whether the table is that of an external policy Local
// without an endpoint here: the outside is dropped, the node itself is not. A
// table that drops everything is that of source ranges which admit nobody.
func dropsOutside(routes []proxier.Route) bool {
	return len(routes) > 1 && routes[len(routes)-1].To == proxier.ToDrop
}
