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
	fresh := next.Services
	for len(old) > 0 || len(fresh) > 0 {
		switch order := compare(old, fresh); {
		case order == 0:
			if old[0] != fresh[0] {
				n.add(old[0], -1)
				n.add(fresh[0], 1)
			}
			old, fresh = old[1:], fresh[1:]
		case order < 0:
			n.add(old[0], -1)
			old = old[1:]
		default:
			n.add(fresh[0], 1)
			fresh = fresh[1:]
		}
	}
}

// compare tells which list has the lower first service; an empty one has none.
func compare(a, b []*proxier.Service) int {
	switch {
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	case a[0] == b[0]:
		return 0
	}
	return a[0].Compare(b[0])
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
