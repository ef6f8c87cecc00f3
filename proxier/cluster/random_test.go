package cluster

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// world is what an API server would hold.
type world struct {
	*rand.Rand
	services map[Name]*corev1.Service
	slices   map[Name]*discoveryv1.EndpointSlice
	node     *corev1.Node
}

// step makes one random event, tells the Store and returns the names of the
// Services that it touches and what the Store said.
func (w *world) step(s *Store) (touched []Name, changed bool) {
	name := Name{"default", fmt.Sprintf("s%02d", w.IntN(12))}
	switch w.IntN(8) {
	case 0:
		delete(w.services, name)
		return []Name{name}, s.DeleteService(name)
	case 1, 2:
		w.services[name] = w.service(name)
		return []Name{name}, s.SetService(w.services[name])
	case 3:
		w.node = node(func(n *corev1.Node) { setLabel(&n.ObjectMeta, corev1.LabelTopologyZone, string(rune('a'+w.IntN(3)))) })
		return nil, s.SetNode(w.node)
	}
	return w.sliceEvent(s)
}

func (w *world) sliceEvent(s *Store) ([]Name, bool) {
	name := Name{"default", fmt.Sprintf("slice%02d", w.IntN(20))}
	var touched []Name
	if old := w.slices[name]; old != nil {
		touched = append(touched, Name{"default", old.Labels[discoveryv1.LabelServiceName]})
	}
	if w.IntN(5) == 0 {
		delete(w.slices, name)
		return touched, s.DeleteSlice(name)
	}
	w.slices[name] = w.slice(name)
	touched = append(touched, Name{"default", w.slices[name].Labels[discoveryv1.LabelServiceName]})
	return touched, s.SetSlice(w.slices[name])
}

func (w *world) service(name Name) *corev1.Service {
	return service(func(s *corev1.Service) {
		s.Name, s.ResourceVersion = name.Name, fmt.Sprint(w.Int())
		switch w.IntN(6) {
		case 0:
			s.Spec.Type = corev1.ServiceTypeExternalName
		case 1:
			s.Spec.ExternalIPs = []string{"192.0.2.1", "x"}[:1+w.IntN(2)]
		case 2:
			s.Spec.Ports[0].Port = int32(w.IntN(3))
		}
	})
}

func (w *world) slice(name Name) *discoveryv1.EndpointSlice {
	texts := []string{"10.1.0.1", "10.1.0.2", "127.0.0.1", "10.1.0.3"}
	return slice(addresses(texts[w.IntN(2):2+w.IntN(3)]...), func(s *discoveryv1.EndpointSlice) {
		s.Name, s.ResourceVersion = name.Name, fmt.Sprint(w.Int())
		setLabel(&s.ObjectMeta, discoveryv1.LabelServiceName, fmt.Sprintf("s%02d", w.IntN(12)))
		switch w.IntN(8) {
		case 0:
			setLabel(&s.ObjectMeta, corev1.IsHeadlessService, "")
		case 1:
			s.AddressType = discoveryv1.AddressTypeFQDN
		case 2:
			s.Endpoints[0].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}}}
		}
	})
}

// afresh is a Store that is told the world once, in any order.
func (w *world) afresh() *Store {
	s := NewStore("node-1")
	for _, o := range w.slices {
		s.SetSlice(o)
	}
	for _, o := range w.services {
		s.SetService(o)
	}
	s.SetNode(w.node)
	return s
}

// sameSnapshot reports whether two snapshots say the same, on whichever pages.
func sameSnapshot(a, b Snapshot) bool {
	return reflect.DeepEqual(a.Node, b.Node) && reflect.DeepEqual(a.Services.Slice(), b.Services.Slice())
}

// After any events the Snapshot is that of the objects as they are, Services
// that no event touched keep their pointers, and the Store says truly whether an
// event changed something.
func TestRandomEvents(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := &world{rand.New(rand.NewPCG(seed, 0)), map[Name]*corev1.Service{}, map[Name]*discoveryv1.EndpointSlice{}, nil}
	s := NewStore("node-1")
	last := s.Snapshot()
	for range 1000 {
		before := w.afresh().Snapshot()
		var touched []Name
		for n := 1 + w.IntN(3); n > 0; n-- {
			names, changed := w.step(s)
			touched = append(touched, names...)
			after := w.afresh().Snapshot()
			if really := !sameSnapshot(before, after); really != changed {
				t.Fatalf("an event on %v: reported %v, changed %v", names, changed, really)
			}
			before = after
		}
		next, fresh := s.Snapshot(), w.afresh()
		if !sameSnapshot(next, fresh.Snapshot()) {
			t.Fatalf("after events on %v:\n%v\nwant\n%v", touched, next, fresh.Snapshot())
		}
		if !reflect.DeepEqual(s.Problems(), fresh.Problems()) {
			t.Fatalf("problems %v, want %v", s.Problems(), fresh.Problems())
		}
		checkShared(t, last, next, touched)
		last = next
	}
}

// checkShared fails where a pointer changed without need or stayed in spite of a
// change.
func checkShared(t *testing.T, last, next Snapshot, touched []Name) {
	t.Helper()
	old := map[Name]*Service{}
	for _, svc := range last.Services.Slice() {
		old[svc.Name] = svc
	}
	for _, svc := range next.Services.Slice() {
		was := old[svc.Name]
		if was == nil || was == svc {
			continue
		}
		if !slices.Contains(touched, svc.Name) {
			t.Fatalf("%s has a new pointer; events touched %v", svc.Name, touched)
		}
		if reflect.DeepEqual(was, svc) {
			t.Fatalf("%s has a new pointer and the old content", svc.Name)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	s := NewStore("node-1")
	var all sync.WaitGroup
	for seed := range uint64(4) {
		w := &world{rand.New(rand.NewPCG(seed, 1)), map[Name]*corev1.Service{}, map[Name]*discoveryv1.EndpointSlice{}, nil}
		all.Go(func() {
			for range 500 {
				w.step(s)
				snapshot := s.Snapshot()
				if !slices.IsSortedFunc(snapshot.Services.Slice(), func(a, b *Service) int { return a.Name.Compare(b.Name) }) {
					t.Error("not sorted")
				}
				s.Problems()
			}
		})
	}
	all.Wait()
}
