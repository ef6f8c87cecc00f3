package cluster

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var web, web1 = Name{"default", "web"}, Name{"default", "web-1"}

func named(name string) func(*corev1.Service) { return func(s *corev1.Service) { s.Name = name } }

func slices1(s *Store, name string) []*Slice {
	for _, svc := range s.Snapshot().Services.Slice() {
		if svc.Name.Name == name {
			return svc.Slices
		}
	}
	return nil
}

func TestEventsThatChangeNothing(t *testing.T) {
	tests := []struct {
		what string
		do   func(*Store) bool
	}{
		{"nil Service", func(s *Store) bool { return s.SetService(nil) }},
		{"nil slice", func(s *Store) bool { return s.SetSlice(nil) }},
		{"nil node", func(s *Store) bool { return s.SetNode(nil) }},
		{"another node", func(s *Store) bool { return s.SetNode(node(func(n *corev1.Node) { n.Name = "node-2" })) }},
		{"the same Service", func(s *Store) bool { return s.SetService(service()) }},
		{"the same slice", func(s *Store) bool { return s.SetSlice(slice()) }},
		{"the same node", func(s *Store) bool { return s.SetNode(node()) }},
		{"annotations and versions of a Service", func(s *Store) bool {
			return s.SetService(service(func(s *corev1.Service) {
				s.ResourceVersion, s.Annotations = "7", map[string]string{"a": "b"}
				s.Spec.Selector = map[string]string{"app": "web"}
				setLabel(&s.ObjectMeta, "team", "shop")
			}))
		}},
		{"annotations and versions of a slice", func(s *Store) bool {
			return s.SetSlice(slice(func(s *discoveryv1.EndpointSlice) {
				s.ResourceVersion, s.Annotations = "7", map[string]string{corev1.EndpointsLastChangeTriggerTime: "now"}
				s.Endpoints[0].TargetRef = &corev1.ObjectReference{Name: "web-0"}
			}))
		}},
		{"the heartbeat of the node", func(s *Store) bool {
			return s.SetNode(node(func(n *corev1.Node) {
				n.Status.Conditions = []corev1.NodeCondition{{LastHeartbeatTime: metav1.Now()}}
			}))
		}},
		{"a Service that is not served", func(s *Store) bool {
			return s.SetService(service(named("none"), func(s *corev1.Service) { s.Spec.ClusterIP = "None" }))
		}},
		{"a slice of an unknown Service", func(s *Store) bool {
			return s.SetSlice(slice(func(s *discoveryv1.EndpointSlice) {
				s.Name = "db-1"
				setLabel(&s.ObjectMeta, discoveryv1.LabelServiceName, "db")
			}))
		}},
		{"an unknown Service deleted", func(s *Store) bool { return s.DeleteService(Name{"default", "db"}) }},
		{"an unknown slice deleted", func(s *Store) bool { return s.DeleteSlice(Name{"default", "db-1"}) }},
	}
	for _, test := range tests {
		s := NewStore("node-1")
		s.SetService(service())
		s.SetSlice(slice())
		s.SetNode(node())
		before := s.Snapshot()
		if test.do(s) {
			t.Errorf("%s: reported as a change", test.what)
		}
		after := s.Snapshot()
		if !before.Services.Same(after.Services) || before.Node != after.Node || after.Services.Len() != 1 {
			t.Errorf("%s: another Snapshot", test.what)
		}
	}
}

func TestEventsThatChangeTheirServiceAlone(t *testing.T) {
	tests := []struct {
		what string
		do   func(*Store) bool
	}{
		{"a port", func(s *Store) bool {
			return s.SetService(service(func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 }))
		}},
		{"an endpoint more", func(s *Store) bool { return s.SetSlice(slice(addresses("10.1.0.1", "10.1.0.2"))) }},
		{"a condition", func(s *Store) bool {
			return s.SetSlice(slice(func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Conditions.Ready = new(false) }))
		}},
		{"a hint", func(s *Store) bool {
			return s.SetSlice(slice(func(s *discoveryv1.EndpointSlice) {
				s.Endpoints[0].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}}}
			}))
		}},
		{"a problem", func(s *Store) bool {
			return s.SetService(service(func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"x"} }))
		}},
		{"a second slice", func(s *Store) bool {
			return s.SetSlice(slice(func(s *discoveryv1.EndpointSlice) { s.Name = "web-0" }))
		}},
		{"its slice deleted", func(s *Store) bool { return s.DeleteSlice(web1) }},
		{"its slice made headless", func(s *Store) bool {
			return s.SetSlice(slice(func(s *discoveryv1.EndpointSlice) { setLabel(&s.ObjectMeta, corev1.IsHeadlessService, "") }))
		}},
	}
	for _, test := range tests {
		s := NewStore("node-1")
		for _, name := range []string{"api", "web", "zoo"} {
			s.SetService(service(named(name)))
		}
		s.SetSlice(slice())
		before := s.Snapshot().Services.Slice()
		if !test.do(s) {
			t.Errorf("%s: not reported as a change", test.what)
		}
		after := s.Snapshot().Services.Slice()
		if len(after) != 3 || after[0] != before[0] || after[2] != before[2] {
			t.Fatalf("%s: other Services changed", test.what)
		}
		if after[1] == before[1] || after[1].Name != web {
			t.Errorf("%s: the Service kept its pointer", test.what)
		}
		if !slices.IsSortedFunc(after[1].Slices, func(a, b *Slice) int { return Name{"", a.Name}.Compare(Name{"", b.Name}) }) {
			t.Errorf("%s: slices not sorted", test.what)
		}
	}
}

func TestEventsThatCancelEachOther(t *testing.T) {
	s := NewStore("node-1")
	s.SetService(service())
	s.SetSlice(slice())
	snap := s.Snapshot().Services
	before := snap.Slice()
	s.SetSlice(slice(addresses("10.1.0.9")))
	s.SetService(service(func(s *corev1.Service) { s.Spec.Ports = nil }))
	s.DeleteSlice(web1)
	s.DeleteService(web)
	s.SetSlice(slice())
	s.SetService(service())
	if !s.Snapshot().Services.Same(snap) {
		t.Error("another Snapshot after changes that were taken back")
	}
	if !s.SetSlice(slice(addresses("10.1.0.9"))) || len(s.Snapshot().Services.Slice()[0].Slices) != 1 {
		t.Error("a change after them is lost")
	}
	if before[0].Slices[0].Endpoints[0].Addr.String() != "10.1.0.1" {
		t.Error("an old Snapshot changed")
	}
}

func TestSliceBeforeItsService(t *testing.T) {
	s := NewStore("node-1")
	if s.SetSlice(slice()) {
		t.Error("a slice alone reported as a change")
	}
	if !s.SetService(service()) || len(slices1(s, "web")) != 1 {
		t.Error("the Service does not find its slice")
	}
}

func TestSliceMovesToAnotherService(t *testing.T) {
	s := NewStore("node-1")
	s.SetService(service())
	s.SetService(service(named("api")))
	s.SetSlice(slice())
	before := s.Snapshot().Services.Slice()
	if !s.SetSlice(slice(func(s *discoveryv1.EndpointSlice) { setLabel(&s.ObjectMeta, discoveryv1.LabelServiceName, "api") })) {
		t.Error("not reported as a change")
	}
	after := s.Snapshot().Services.Slice()
	if len(after[0].Slices) != 1 || len(after[1].Slices) != 0 || len(before[1].Slices) != 1 {
		t.Error("the slice did not move from web to api")
	}
	if !s.DeleteSlice(web1) || len(slices1(s, "api")) != 0 {
		t.Error("the moved slice cannot be deleted")
	}
}

func TestServiceLeavesAndComesBack(t *testing.T) {
	leave := map[string]func(*Store) bool{
		"becomes an ExternalName": func(s *Store) bool {
			return s.SetService(service(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }))
		},
		"is given to another proxy": func(s *Store) bool {
			return s.SetService(service(func(s *corev1.Service) { setLabel(&s.ObjectMeta, labelProxyName, "x") }))
		},
		"is deleted": func(s *Store) bool { return s.DeleteService(web) },
	}
	for how, do := range leave {
		s := NewStore("node-1")
		s.SetService(service())
		s.SetSlice(slice(addresses("127.0.0.1", "10.1.0.1")))
		if len(s.Problems()) != 1 {
			t.Errorf("problems %v, want 1", s.Problems())
		}
		if !do(s) || s.Snapshot().Services.Len() != 0 || len(s.Problems()) != 0 {
			t.Errorf("%s: still there: %v", how, s.Problems())
		}
		if !s.SetService(service()) || len(slices1(s, "web")) != 1 || len(s.Problems()) != 1 {
			t.Errorf("%s: not back with its slice", how)
		}
	}
}

func TestNodeComesAndGoes(t *testing.T) {
	s := NewStore("node-1")
	if s.Snapshot().Node != nil || s.DeleteNode() {
		t.Error("a node before it is known")
	}
	if !s.SetNode(node()) || s.Snapshot().Node == nil {
		t.Error("the node is not taken")
	}
	if !s.SetNode(node(func(n *corev1.Node) { setLabel(&n.ObjectMeta, corev1.LabelTopologyZone, "a") })) {
		t.Error("a new zone is no change")
	}
	if !s.DeleteNode() || s.Snapshot().Node != nil {
		t.Error("the node stays")
	}
}

func TestProblemsAreSortedAndCurrent(t *testing.T) {
	s := NewStore("node-1")
	bad := func(svc *corev1.Service) { svc.Spec.ExternalIPs = []string{"y", "x"} }
	s.SetService(service(named("b"), bad))
	s.SetService(service(named("a"), bad))
	s.SetSlice(slice(addresses("::1"), func(s *discoveryv1.EndpointSlice) {
		setLabel(&s.ObjectMeta, discoveryv1.LabelServiceName, "a")
	}))
	want := `EndpointSlice default/web-1: endpoints[0].addresses[0]: ::1: a loopback address cannot be an endpoint: it leads every host to itself
Service default/a: spec.externalIPs[0]: y: not an IP address
Service default/a: spec.externalIPs[1]: x: not an IP address
Service default/b: spec.externalIPs[0]: y: not an IP address
Service default/b: spec.externalIPs[1]: x: not an IP address
`
	if got := lines(s.Problems()); got != want {
		t.Errorf("problems:\n%swant:\n%s", got, want)
	}
	s.SetService(service(named("a")))
	s.DeleteService(Name{"default", "b"})
	if got := len(s.Problems()); got != 1 {
		t.Errorf("%d problems after the Services were mended, want that of the slice", got)
	}
}
