package cluster

import (
	"fmt"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// fill puts n Services of k endpoints each into a Store; the endpoints are on
// 1,000 nodes in 3 zones, with zone hints.
func fill(s *Store, n, k int) {
	for i := range n {
		s.SetService(nth(i))
		s.SetSlice(nthSlice(i, k))
	}
}

func nth(i int) *corev1.Service {
	return service(func(s *corev1.Service) {
		s.Name = fmt.Sprintf("service-%05d", i)
		s.Spec.ClusterIP = fmt.Sprintf("10.96.%d.%d", i/256, i%256)
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	})
}

func nthSlice(i, k int) *discoveryv1.EndpointSlice {
	return slice(func(s *discoveryv1.EndpointSlice) {
		s.Name = fmt.Sprintf("service-%05d-abcde", i)
		setLabel(&s.ObjectMeta, discoveryv1.LabelServiceName, fmt.Sprintf("service-%05d", i))
		s.Endpoints = nil
		for j := range k {
			pod := i*k + j
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 128+pod>>16, pod>>8&255, pod&255)},
				NodeName:  new(fmt.Sprintf("ip-10-0-0-%d.eu-central-1.compute.internal", pod%1000)),
				Hints:     &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: fmt.Sprintf("eu-central-1%c", 'a'+pod%3)}}},
			})
		}
	})
}

func live() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// maxHeap is what 10,000 Services of 10 endpoints may take, in bytes.
const maxHeap = 25 << 20

func TestMemory(t *testing.T) {
	before := live()
	s := NewStore("node-1")
	fill(s, 10_000, 10)
	snapshot := s.Snapshot()
	used := live() - before
	t.Logf("10,000 Services of 10 endpoints: %.1f MB", float64(used)/1e6)
	if used > maxHeap {
		t.Errorf("10,000 Services of 10 endpoints take %d bytes, want at most %d", used, maxHeap)
	}
	runtime.KeepAlive(s)
	runtime.KeepAlive(snapshot)
}

// BenchmarkFill is the initial list: all objects, then one Snapshot.
func BenchmarkFill(b *testing.B) {
	for b.Loop() {
		before := live()
		s := NewStore("node-1")
		fill(s, 10_000, 10)
		snapshot := s.Snapshot()
		b.ReportMetric(float64(live()-before)/1e6, "MB-live")
		runtime.KeepAlive(s)
		runtime.KeepAlive(snapshot)
	}
}

// BenchmarkChange is one slice of ten endpoints that changes, and a Snapshot.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := NewStore("node-1")
			fill(s, n, 10)
			s.Snapshot()
			states := [2]*discoveryv1.EndpointSlice{nthSlice(n/2, 10), nthSlice(n/2, 9)}
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				i++
				s.SetSlice(states[i%2])
				s.Snapshot()
			}
		})
	}
}

// BenchmarkNoise is a slice event that changes nothing here.
func BenchmarkNoise(b *testing.B) {
	s := NewStore("node-1")
	fill(s, 1_000, 100)
	same := nthSlice(500, 100)
	b.ReportAllocs()
	for b.Loop() {
		s.SetSlice(same)
		s.Snapshot()
	}
}
