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
