package cluster

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Store is the cluster as the events so far describe it. All methods may be
// called from any goroutine.
type Store struct {
	nodeName string

	mu       sync.Mutex
	entries  map[Name]*entry // every Service that is served or has slices
	owners   map[Name]*entry // by the name of an EndpointSlice: where it is
	touched  []*entry        // to look at again in refresh, each once
	troubled map[*entry]struct{}
	shared   *interner

	node         *Node
	nodeProblems []Problem
	cidrs        map[string][]netip.Prefix // by the name of the ServiceCIDR
	ranges       []netip.Prefix            // all of them; never written to again
	last         List                      // what Snapshot handed out; never written to again
}

// entry gathers what is known under the name of one Service. The Service may
// come after its slices.
type entry struct {
	name    Name
	want    *Service // as the Service object says, without slices; nil: not served
	slices  []*Slice // sorted by name
	built   *Service // what the last refresh made of it; nil: nothing
	touched bool
}

// NewStore returns an empty Store for the node of that name, which must be in
// lower case as Node names are. Nodes of other names are ignored.
func NewStore(nodeName string) *Store {
	return &Store{
		nodeName: nodeName,
		entries:  map[Name]*entry{},
		owners:   map[Name]*entry{},
		cidrs:    map[string][]netip.Prefix{},
		troubled: map[*entry]struct{}{},
		shared:   newInterner(),
	}
}

// NodeName returns the name of the node that this Store is for.
func (s *Store) NodeName() string { return s.nodeName }

// SetService takes a Service as it is now and reports whether that changes the
// Snapshot. The object is neither kept nor written to; nil is ignored.
func (s *Store) SetService(svc *corev1.Service) bool {
	if svc == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.want(Name{svc.Namespace, svc.Name}, trimService(svc))
}

// DeleteService forgets a Service and reports whether that changes the Snapshot.
// Its EndpointSlices are kept for the day it comes back.
func (s *Store) DeleteService(name Name) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.want(name, nil)
}

func (s *Store) want(name Name, svc *Service) bool {
	e := s.entries[name]
	switch {
	case e == nil && svc == nil:
		return false
	case e == nil:
		e = s.entry(svc.Name)
	case e.want == nil && svc == nil, e.want != nil && svc != nil && e.want.sameSpec(svc):
		return false
	}
	e.want = svc
	s.touch(e)
	return true
}

// SetSlice takes an EndpointSlice as it is now and reports whether that changes
// the Snapshot. A slice that does not count any more (its labels or its address
// type say so) is forgotten; one that names another Service moves there. The
// object is neither kept nor written to; nil is ignored.
func (s *Store) SetSlice(slice *discoveryv1.EndpointSlice) bool {
	if slice == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name := Name{slice.Namespace, slice.Name}
	owner, ok := ownerOf(slice)
	if !ok {
		return s.dropSlice(name)
	}
	moved := false
	if e := s.owners[name]; e != nil && e.name != owner {
		moved = s.dropSlice(name)
	}
	return s.putSlice(owner, trimSlice(slice, s.shared)) || moved
}

func (s *Store) putSlice(owner Name, slice *Slice) bool {
	e := s.entry(owner)
	i, found := e.find(slice.Name)
	if found && e.slices[i].equal(slice) {
		return false
	}
	if found {
		e.slices[i] = slice
	} else {
		e.slices = slices.Insert(e.slices, i, slice)
		s.owners[Name{e.name.Namespace, slice.Name}] = e
	}
	s.touch(e)
	return e.want != nil
}

// DeleteSlice forgets the EndpointSlice of that name and reports whether that
// changes the Snapshot.
func (s *Store) DeleteSlice(name Name) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropSlice(name)
}

func (s *Store) dropSlice(name Name) bool {
	e := s.owners[name]
	if e == nil {
		return false
	}
	delete(s.owners, name)
	if i, found := e.find(name.Name); found {
		e.slices = slices.Delete(e.slices, i, i+1)
	}
	s.touch(e)
	return e.want != nil
}

// SetNode takes a Node as it is now and reports whether that changes the
// Snapshot. Nodes of another name, and nil, are ignored.
func (s *Store) SetNode(node *corev1.Node) bool {
	if node == nil || node.Name != s.nodeName {
		return false
	}
	trimmed, problems := trimNode(node)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodeProblems = problems
	if s.node != nil && s.node.equal(trimmed) {
		return false
	}
	s.node = trimmed
	return true
}

// DeleteNode forgets the Node and reports whether that changes the Snapshot.
func (s *Store) DeleteNode() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.node != nil
	s.node, s.nodeProblems = nil, nil
	return known
}

// Snapshot returns the cluster as it is now. Without a change since the last
// call it costs nothing and returns the same list; else a new Service for each one
// that changed, and a copy of the pages of the list that they are on.
func (s *Store) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh()
	return Snapshot{Node: s.node, Services: s.last, ServiceCIDRs: s.ranges}
}

// Problems returns what had to be left out of the objects that count now, sorted
// by object, then by field. Its cost is that of the Services that have problems.
func (s *Store) Problems() []Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh()
	all := slices.Clone(s.nodeProblems)
	for e := range s.troubled {
		all = append(all, e.built.Problems...)
	}
	slices.SortFunc(all, func(a, b Problem) int {
		return cmp.Or(a.Object.Compare(b.Object), cmp.Compare(a.Field, b.Field),
			cmp.Compare(a.Reason, b.Reason))
	})
	return all
}

// entry returns the entry of that name, a new one if there is none.
func (s *Store) entry(name Name) *entry {
	e := s.entries[name]
	if e == nil {
		e = &entry{name: name.clone()}
		s.entries[e.name] = e
	}
	return e
}

func (e *entry) find(slice string) (int, bool) {
	return slices.BinarySearchFunc(e.slices, slice, func(s *Slice, name string) int {
		return cmp.Compare(s.Name, name)
	})
}

// touch has refresh look at an entry. Entries stay in the map until then, so
// that no name has two.
func (s *Store) touch(e *entry) {
	if !e.touched {
		e.touched = true
		s.touched = append(s.touched, e)
	}
}
