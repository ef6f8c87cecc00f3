package iptables

import (
	"fmt"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/proxier/cluster"
	"switchyard/proxier/compile"
)

// BenchmarkRenderAll is the cold start: from a State to the input, nothing standing.
func BenchmarkRenderAll(b *testing.B) {
	s := plainState(10_000, 5)
	h := ruleset.NewHasher()
	b.ReportAllocs()
	for b.Loop() {
		p := newPlan(emptyMemory(), s, testConfig, h)
		in := ruleset.Print(p.changes(), nftCommit)
		p.learn()
		b.ReportMetric(float64(in.Lines), "lines")
	}
}

// BenchmarkOneEndpointChange is from one State to the input for the next one, in
// which one service has an endpoint less or more.
func BenchmarkOneEndpointChange(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			more := plainState(n, 5)
			less := edited(more, n/2, lessOne)
			benchmarkBetween(b, more, less)
		})
	}
}

// BenchmarkServiceChange is the same for a service that comes and goes.
func BenchmarkServiceChange(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			more := plainState(n, 5)
			benchmarkBetween(b, more, stateWithout(more, more.Services[n/2]))
		})
	}
}

func benchmarkBetween(b *testing.B, one, other *proxier.State) {
	h := ruleset.NewHasher()
	mem := newPlan(emptyMemory(), one, testConfig, h).learn()
	next := other
	lines, rounds := 0, 0
	b.ReportAllocs()
	for b.Loop() {
		p := newPlan(mem, next, testConfig, h)
		in := ruleset.Print(p.changes(), nftCommit)
		mem = p.learn()
		if next == one {
			next = other
		} else {
			next = one
		}
		lines, rounds = lines+in.Lines, rounds+1
	}
	b.ReportMetric(float64(lines)/float64(rounds), "lines")
}

// plainObjects are plainService's objects, with node names and everything else
// that an API server has to say.
func plainObjects(i, k int) (*corev1.Service, *discoveryv1.EndpointSlice) {
	plain := plainService(i, k)
	vip := plain.Frontends[0].Addr.Addr().String()
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: plain.Name.Service},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: vip, ClusterIPs: []string{vip},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: plain.Name.Service + "-x",
			Labels: map[string]string{discoveryv1.LabelServiceName: plain.Name.Service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Protocol: new(corev1.ProtocolTCP), Port: new(int32(8080))}},
	}
	for j, ep := range plain.Cluster {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{ep.Addr.Addr().String()},
			NodeName:  new(fmt.Sprintf("node-%d", (i+j)%100)),
			Zone:      new("zone-a"),
		})
	}
	return svc, slice
}

func plainStore(n, k int) *cluster.Store {
	store := cluster.NewStore("node-a")
	for i := range n {
		svc, slice := plainObjects(i, k)
		store.SetService(svc)
		store.SetSlice(slice)
	}
	return store
}

// BenchmarkEventToInput is the whole way of one endpoint change: from the event
// of the API to the input for iptables-restore.
func BenchmarkEventToInput(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			store := plainStore(n, 5)
			compiler := compile.New(proxier.IPv4, compile.Options{})
			h := ruleset.NewHasher()
			mem := newPlan(emptyMemory(), compiler.Compile(store.Snapshot(), plainNode()), testConfig, h).learn()
			_, slice := plainObjects(n/2, 5)
			all := slice.Endpoints
			lines, rounds := 0, 0
			b.ReportAllocs()
			for b.Loop() {
				slice.Endpoints = all[:4+rounds%2]
				store.SetSlice(slice)
				p := newPlan(mem, compiler.Compile(store.Snapshot(), plainNode()), testConfig, h)
				lines += ruleset.Print(p.changes(), nftCommit).Lines
				mem = p.learn()
				rounds++
			}
			b.ReportMetric(float64(lines)/float64(rounds), "lines/op")
		})
	}
}

// BenchmarkLiveHeap is what snapshot, state and the backend's memory hold at
// 10,000 services of 10 endpoints.
func BenchmarkLiveHeap(b *testing.B) {
	var ms runtime.MemStats
	heap := func() float64 {
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&ms)
		return float64(ms.HeapAlloc) / (1 << 20)
	}
	for b.Loop() {
		before := heap()
		store := plainStore(10_000, 10)
		afterStore := heap()
		compiler := compile.New(proxier.IPv4, compile.Options{})
		state := compiler.Compile(store.Snapshot(), plainNode())
		afterState := heap()
		mem := newPlan(emptyMemory(), state, testConfig, ruleset.NewHasher()).learn()
		afterAll := heap()
		b.ReportMetric(afterStore-before, "MB-snapshot")
		b.ReportMetric(afterState-afterStore, "MB-state")
		b.ReportMetric(afterAll-afterState, "MB-backend")
		b.ReportMetric(afterAll-before, "MB")
		runtime.KeepAlive(store)
		runtime.KeepAlive(compiler)
		runtime.KeepAlive(mem)
	}
}
