package cluster

import (
	"encoding/json"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Whatever Service the API holds: no panic, an object set twice changes nothing,
// and nothing is left of it once it is deleted.
func FuzzService(f *testing.F) {
	f.Add([]byte(`{"metadata":{"namespace":"default","name":"web"},"spec":{"clusterIP":"10.96.0.1","ports":[{"port":80}]}}`))
	f.Add([]byte(`{"spec":{"clusterIP":"x","clusterIPs":["","::ffff:1.2.3.4","1.2.3.4%a"],"type":"LoadBalancer",
		"externalTrafficPolicy":"Local","healthCheckNodePort":-1,"ports":[{"port":80,"nodePort":70000},{"port":80}],
		"sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":null}},
		"loadBalancerSourceRanges":[" ","01.2.3.4/8","::/0"],"externalIPs":["..."]},
		"status":{"loadBalancer":{"ingress":[{"ip":"1.1.1.1","ipMode":"Proxy"},{"hostname":"a"},{"ip":"::"}]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var svc corev1.Service
		if json.Unmarshal(data, &svc) != nil {
			return
		}
		untouched := svc.DeepCopy()
		s := NewStore("node-1")
		set := s.SetService(&svc)
		if s.Snapshot().Services.Len() > 0 != set || s.SetService(&svc) {
			t.Fatal("Store and Snapshot disagree")
		}
		if !reflect.DeepEqual(&svc, untouched) {
			t.Fatal("the object was written to")
		}
		if s.DeleteService(Name{svc.Namespace, svc.Name}) != set {
			t.Fatal("deleting it is a change if it was served, else not")
		}
		if s.Snapshot().Services.Len()+len(s.Problems()) > 0 || len(s.entries) > 0 {
			t.Fatal("something is left")
		}
	})
}

// Whatever EndpointSlice the API holds: as for a Service, and no endpoint of
// another family or on the node itself gets through.
func FuzzSlice(f *testing.F) {
	f.Add([]byte(`{"metadata":{"namespace":"default","name":"web-1","labels":{"kubernetes.io/service-name":"web"}},
		"addressType":"IPv4","ports":[{"name":"","port":80}],"endpoints":[{"addresses":["10.1.0.1"],"nodeName":"a"}]}`))
	f.Add([]byte(`{"metadata":{"namespace":"default","labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv6",
		"ports":[{},{"port":0,"name":""},{"protocol":"x"}],"endpoints":[{"addresses":[]},{"addresses":["::1"],
		"conditions":{"ready":null},"hints":{"forZones":[{"name":"a"}],"forNodes":[{}]}},{"addresses":["::ffff:127.0.0.1"]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var in discoveryv1.EndpointSlice
		if json.Unmarshal(data, &in) != nil {
			return
		}
		s := NewStore("node-1")
		s.SetService(service(func(svc *corev1.Service) {
			svc.Namespace, svc.Name = in.Namespace, in.Labels[discoveryv1.LabelServiceName]
		}))
		set := s.SetSlice(&in)
		svc := s.Snapshot().Services.Slice()[0]
		if len(svc.Slices) > 0 != set || s.SetSlice(&in) {
			t.Fatal("Store and Snapshot disagree")
		}
		for _, slice := range svc.Slices {
			for _, e := range slice.Endpoints {
				if why := unfit(e.Addr, slice.Family); why != "" || e.Addr.Zone() != "" {
					t.Fatal(e.Addr, why)
				}
			}
		}
		if s.DeleteSlice(Name{in.Namespace, in.Name}) != set || len(s.owners)+len(s.Problems()) > 0 {
			t.Fatal("something is left")
		}
	})
}

// Whatever Node the API holds: no panic, an object set twice changes nothing, and no
// address means the host itself.
func FuzzNode(f *testing.F) {
	f.Add([]byte(`{"metadata":{"name":"node-1","labels":{"topology.kubernetes.io/zone":"a"}},"spec":{"podCIDRs":["10.244.1.0/24","fd00::/80"],
		"taints":[{"key":"ToBeDeletedByClusterAutoscaler"}]},"status":{"addresses":[{"type":"InternalIP","address":"192.168.0.2"}]}}`))
	f.Add([]byte(`{"metadata":{"name":"node-1"},"spec":{"podCIDR":"x","podCIDRs":["","::/129"]},"status":{"addresses":[{"type":"ExternalIP","address":"fe80::1%eth0"},{"address":"::ffff:1.2.3.4"}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var node corev1.Node
		if json.Unmarshal(data, &node) != nil {
			return
		}
		s := NewStore("node-1")
		s.SetNode(&node)
		if s.SetNode(&node) {
			t.Fatal("the same Node is a change")
		}
		if n := s.Snapshot().Node; n != nil {
			for _, a := range n.Addresses {
				if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
					t.Fatalf("address %v", a)
				}
			}
		}
	})
}

// Whatever a person writes into the annotations: a balance, or a problem that says why
// not.
func FuzzAnnotations(f *testing.F) {
	f.Add("mh,mh-port", `{"10.0.0.1": 3, "fd00::1": 0}`, "v2")
	f.Add("", `{"10.0.0.1": 65536}`, "v1")
	f.Fuzz(func(t *testing.T, scheduler, weights, proxy string) {
		var p problems
		b := trimBalance(map[string]string{annotationScheduler: scheduler, annotationWeights: weights, annotationProxy: proxy}, &p)
		if len(b.Scheduler) > maxScheduler {
			t.Fatalf("a scheduler of %d bytes", len(b.Scheduler))
		}
		for i, w := range b.Weights {
			if i > 0 && b.Weights[i-1].Addr.Compare(w.Addr) >= 0 {
				t.Fatalf("weights are not sorted: %v", b.Weights)
			}
		}
	})
}
