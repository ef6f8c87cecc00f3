package watch

import (
	"fmt"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"

	"switchyard/proxier/cluster"
)

// wireSlice is the EndpointSlice number i as it comes from the wire: with what
// controllers write and nobody reads here, and no string shared with another.
func wireSlice(b *testing.B, i, endpoints int) *discoveryv1.EndpointSlice {
	port, name, yes, no := int32(8080), "http", true, false
	s := slice(fmt.Sprintf("web-%d-abcde", i), fmt.Sprintf("web-%d", i))
	s.Ports[0] = discoveryv1.EndpointPort{Name: &name, Port: &port}
	s.ResourceVersion, s.UID = "12345678", types.UID(fmt.Sprintf("0b1c2d3e-0000-4000-8000-%012d", i))
	s.Annotations = map[string]string{"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"}
	s.Labels["endpointslice.kubernetes.io/managed-by"] = "endpointslice-controller.k8s.io"
	s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: fmt.Sprintf("web-%d", i), UID: s.UID, Controller: &yes}}
	s.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kube-controller-manager", Operation: "Update", APIVersion: "discovery.k8s.io/v1",
		FieldsV1: metav1.NewFieldsV1(`{"f:addressType":{},"f:endpoints":{},"f:metadata":{"f:annotations":{".":{}},"f:labels":{".":{}}},"f:ports":{}}`)}}
	for j := range endpoints {
		n := i*endpoints + j
		node, zone := fmt.Sprintf("node-%d", n%500), "zone-a"
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.%d.%d.%d", n>>16&255, n>>8&255, n&255)}, NodeName: &node, Zone: &zone,
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: fmt.Sprintf("web-%d-%d", i, j), UID: types.UID(fmt.Sprintf("9b1c2d3e-0000-4000-8000-%012d", n))},
		})
	}
	raw, err := s.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	out := &discoveryv1.EndpointSlice{}
	if err := out.Unmarshal(raw); err != nil {
		b.Fatal(err)
	}
	return out
}

func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

// BenchmarkHeap tells what stays in memory after 5,000 EndpointSlices of 100
// endpoints have come: in MiB here, in MiB as an informer's cache of whole objects
// (beside a Store, which it would feed), and as a share of the latter in percent.
func BenchmarkHeap(b *testing.B) {
	const count, endpoints = 5000, 100
	for b.Loop() {
		before := heap()
		store := cluster.NewStore("node-a")
		f := &follower{kind: endpointSlices(fake.NewClientset(), store), keys: map[cluster.Name]struct{}{},
			source: New(fake.NewClientset(), store, Options{}), pending: map[cluster.Name]struct{}{}}
		for i := range count {
			if err := f.take(watch.Event{Type: watch.Added, Object: wireSlice(b, i, endpoints)}); err != nil {
				b.Fatal(err)
			}
		}
		f.complete(f.pending)
		ours := heap() - before

		whole := map[string]*discoveryv1.EndpointSlice{}
		before = heap()
		for i := range count {
			whole[fmt.Sprintf("default/web-%d", i)] = wireSlice(b, i, endpoints)
		}
		untrimmed := heap() - before
		b.ReportMetric(ours, "MiB")
		b.ReportMetric(untrimmed, "MiB-untrimmed")
		b.ReportMetric(100*ours/untrimmed, "%-of-untrimmed")
		runtime.KeepAlive(f)
		runtime.KeepAlive(whole)
	}
}
