package cluster

import (
	"net/netip"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestAnnotations(t *testing.T) {
	weight := func(addr string, w uint16) Weight { return Weight{netip.MustParseAddr(addr), w} }
	for _, c := range []struct {
		name        string
		annotations map[string]string
		want        Balance
		problems    []string
	}{
		{name: "none"},
		{"a scheduler", map[string]string{"switchyard.dev/ipvs-scheduler": "LC"}, Balance{Scheduler: "lc"}, nil},
		{"with flags", map[string]string{"switchyard.dev/ipvs-scheduler": "mh, mh-port,mh-fallback"},
			Balance{Scheduler: "mh,mh-port,mh-fallback"}, nil},
		{"kube-router's", map[string]string{"kube-router.io/service.scheduler": "sh", "kube-router.io/service.schedflags": "sh-port"},
			Balance{Scheduler: "sh,sh-port"}, nil},
		{"ours before kube-router's", map[string]string{"kube-router.io/service.scheduler": "sh", "switchyard.dev/ipvs-scheduler": "sed"},
			Balance{Scheduler: "sed"}, nil},
		{"a scheduler nobody knows is the backend's to refuse", map[string]string{"switchyard.dev/ipvs-scheduler": "zz"},
			Balance{Scheduler: "zz"}, nil},
		{"a very long scheduler", map[string]string{"switchyard.dev/ipvs-scheduler": string(make([]byte, 65))}, Balance{},
			[]string{`metadata.annotations[switchyard.dev/ipvs-scheduler]: "` + nuls(64) + `"…: longer than any scheduler with its flags`}},
		{"weights of both families", map[string]string{"switchyard.dev/endpoint-weights": `{"fd00::7": 65535, "10.244.1.7": 0}`},
			Balance{Weights: []Weight{weight("10.244.1.7", 0), weight("fd00::7", 65535)}}, nil},
		{"weights that are none are left out", map[string]string{"switchyard.dev/endpoint-weights": `{"10.0.0.1": 65536, "10.0.0.2": -1, "10.0.0.3": "5", "10.0.0.4": null, "10.0.0.5": 2.5, "here": 1, "10.0.0.6": 6}`},
			Balance{Weights: []Weight{weight("10.0.0.6", 6)}},
			[]string{
				`metadata.annotations[switchyard.dev/endpoint-weights]: 10.0.0.1: 65536: not a weight: 0 to 65535`,
				`metadata.annotations[switchyard.dev/endpoint-weights]: 10.0.0.2: -1: not a weight: 0 to 65535`,
				`metadata.annotations[switchyard.dev/endpoint-weights]: 10.0.0.3: "\"5\"": not a weight: 0 to 65535`,
				`metadata.annotations[switchyard.dev/endpoint-weights]: 10.0.0.4: null: not a weight: 0 to 65535`,
				`metadata.annotations[switchyard.dev/endpoint-weights]: 10.0.0.5: 2.5: not a weight: 0 to 65535`,
				`metadata.annotations[switchyard.dev/endpoint-weights]: here: not an IP address`,
			}},
		{"no JSON", map[string]string{"switchyard.dev/endpoint-weights": `10.0.0.1=3`}, Balance{},
			[]string{`metadata.annotations[switchyard.dev/endpoint-weights]: 10.0.0.1=3: not a JSON map of addresses to weights such as {"10.244.1.7": 3}`}},
		{"PROXY protocol", map[string]string{"switchyard.dev/proxy-protocol": "v2"}, Balance{ProxyProtocol: true}, nil},
		{"PROXY protocol of another version", map[string]string{"switchyard.dev/proxy-protocol": "v1"}, Balance{},
			[]string{`metadata.annotations[switchyard.dev/proxy-protocol]: v1: must be v2`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			svc := trimService(&corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Annotations: c.annotations},
				Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.1"},
			})
			if !reflect.DeepEqual(svc.Balance, c.want) {
				t.Errorf("got %+v, want %+v", svc.Balance, c.want)
			}
			var problems []string
			for _, p := range svc.Problems {
				problems = append(problems, p.Field+": "+p.Reason)
			}
			if !reflect.DeepEqual(problems, c.problems) {
				t.Errorf("problems\n%q, want\n%q", problems, c.problems)
			}
		})
	}
}

func nuls(n int) (s string) {
	for range n {
		s += `\x00`
	}
	return s
}
