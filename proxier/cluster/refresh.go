package cluster

import (
	"slices"
)

// refresh brings last up to date. Its cost is that of the touched entries, and of
// the pages that they are on.
func (s *Store) refresh() {
	changed := slices.DeleteFunc(s.touched, func(e *entry) bool { return !s.rebuild(e) })
	if len(changed) > 0 {
		slices.SortFunc(changed, func(a, b *entry) int { return a.name.Compare(b.name) })
		s.last = s.last.with(changed)
	}
	clear(s.touched)
	s.touched = s.touched[:0]
	if cap(s.touched) > 1024 {
		s.touched = nil // the initial list was long; the days after are not
	}
}

// rebuild makes the Service of an entry and reports whether it is another than
// before. Events that cancel each other leave the old pointer in place.
func (s *Store) rebuild(e *entry) bool {
	e.touched = false
	if e.want == nil && len(e.slices) == 0 {
		delete(s.entries, e.name)
	}
	delete(s.troubled, e)
	before := e.built
	e.built = e.build()
	if e.built != nil && len(e.built.Problems) > 0 {
		s.troubled[e] = struct{}{}
	}
	return e.built != before
}

func (e *entry) build() *Service {
	if e.want == nil {
		return nil
	}
	if b := e.built; b != nil && sameSlices(b.Slices, e.slices) && (b == e.want || b.sameSpec(e.want)) {
		// Keeping one object where there were two equal ones frees the other.
		e.want, e.slices = b, slices.Clone(b.Slices)
		return b
	}
	svc := *e.want
	svc.Slices = append([]*Slice(nil), e.slices...)
	svc.Problems = append([]Problem(nil), e.want.ownProblems()...)
	for _, slice := range e.slices {
		svc.Problems = append(svc.Problems, slice.Problems...)
	}
	e.want = &svc
	return &svc
}

// ownProblems are those of the Service object itself. Those of its slices follow
// them in a built Service.
func (s *Service) ownProblems() []Problem {
	own := len(s.Problems)
	if own == 0 {
		return nil
	}
	for _, slice := range s.Slices {
		own -= len(slice.Problems)
	}
	return s.Problems[:own]
}

// sameSpec reports whether two Services are equal but for their slices.
func (s *Service) sameSpec(o *Service) bool {
	return s.Name == o.Name &&
		s.Restricted == o.Restricted &&
		s.ExternalLocal == o.ExternalLocal &&
		s.InternalLocal == o.InternalLocal &&
		s.HealthPort == o.HealthPort &&
		s.Affinity == o.Affinity &&
		s.Balance.equal(&o.Balance) &&
		slices.Equal(s.Ports, o.Ports) &&
		slices.Equal(s.ClusterIPs, o.ClusterIPs) &&
		slices.Equal(s.ExternalIPs, o.ExternalIPs) &&
		slices.Equal(s.LoadBalancers, o.LoadBalancers) &&
		slices.Equal(s.SourceRanges, o.SourceRanges) &&
		slices.Equal(s.ownProblems(), o.ownProblems())
}

func sameSlices(a, b []*Slice) bool {
	return slices.EqualFunc(a, b, func(x, y *Slice) bool { return x == y || x.equal(y) })
}

// splice returns a copy of the sorted list in which the Services of the changed
// entries, sorted too, stand as they are now. Whatever lies between two of them
// is copied in one piece.
func splice(last []*Service, changed []*entry) []*Service {
	next := make([]*Service, 0, len(last)+grown(changed))
	for _, e := range changed {
		i, found := slices.BinarySearchFunc(last, e.name, func(s *Service, n Name) int { return s.Name.Compare(n) })
		next = append(next, last[:i]...)
		last = last[i:]
		if found {
			last = last[1:]
		}
		if e.built != nil {
			next = append(next, e.built)
		}
	}
	if next = append(next, last...); len(next) == 0 {
		return nil
	}
	return next
}

// grown bounds how many more Services there are than before.
func grown(changed []*entry) int {
	n := 0
	for _, e := range changed {
		if e.built != nil {
			n++
		}
	}
	return n
}

func (s *Slice) equal(o *Slice) bool {
	return s.Name == o.Name &&
		s.Family == o.Family &&
		slices.Equal(s.Ports, o.Ports) &&
		slices.EqualFunc(s.Endpoints, o.Endpoints, Endpoint.equal) &&
		slices.Equal(s.Problems, o.Problems)
}

func (e Endpoint) equal(o Endpoint) bool {
	a, b := e.Hints, o.Hints
	e.Hints, o.Hints = nil, nil
	return e == o && a.equal(b)
}

func (h *Hints) equal(o *Hints) bool {
	if h == o {
		return true
	}
	return h != nil && o != nil && slices.Equal(h.Zones, o.Zones) && slices.Equal(h.Nodes, o.Nodes)
}

func (n *Node) equal(o *Node) bool {
	return n.Name == o.Name && n.Zone == o.Zone && n.Eligible == o.Eligible &&
		slices.Equal(n.Addresses, o.Addresses) && slices.Equal(n.PodCIDRs, o.PodCIDRs)
}
