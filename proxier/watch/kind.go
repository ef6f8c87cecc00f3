package watch

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"switchyard/proxier/cluster"
)

// kind is one kind of objects: where they come from, which of them, and where
// they go.
type kind struct {
	name           string
	labels, fields string // selectors, so that the server keeps the rest to itself
	optional       bool   // nothing waits for it
	// first lists those that everything else in the cluster needs; nil: none are.
	first  func(context.Context) (runtime.Object, error)
	list   func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch  func(context.Context, metav1.ListOptions) (watch.Interface, error)
	set    func(runtime.Object) (changed bool)
	delete func(cluster.Name) (changed bool)
}

// Selectors, which are upstream's: a Service of another proxy, a headless one and
// its slices are most of what some clusters send, and nothing to us.
const (
	notAnotherProxys = "!service.kubernetes.io/service-proxy-name"
	notHeadless      = "!" + corev1.IsHeadlessService
	hasClusterIP     = "spec.clusterIP!=" + corev1.ClusterIPNone
)

func kinds(client kubernetes.Interface, store *cluster.Store) []kind {
	return []kind{services(client, store), endpointSlices(client, store), node(client, store), serviceCIDRs(client, store)}
}

// The kinds, by the names that a Change has for them.
const (
	Services       = "Services"
	EndpointSlices = "EndpointSlices"
	Node           = "Node"
	ServiceCIDRs   = "ServiceCIDRs"
)

// First is the Service of the API server itself: what runs in pods finds the API
// through it.
var First = cluster.Name{Namespace: metav1.NamespaceDefault, Name: "kubernetes"}

func services(client kubernetes.Interface, store *cluster.Store) kind {
	api := client.CoreV1().Services(metav1.NamespaceAll)
	return kind{
		name: Services, labels: notAnotherProxys, fields: hasClusterIP,
		first: func(ctx context.Context) (runtime.Object, error) {
			byName := fields.OneTermEqualSelector(metav1.ObjectNameField, First.Name).String()
			return client.CoreV1().Services(First.Namespace).List(ctx, metav1.ListOptions{FieldSelector: byName, ResourceVersion: "0"})
		},
		list:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
		watch: api.Watch,
		set: func(object runtime.Object) bool {
			svc, _ := object.(*corev1.Service) // nil is ignored
			return store.SetService(svc)
		},
		delete: store.DeleteService,
	}
}

func endpointSlices(client kubernetes.Interface, store *cluster.Store) kind {
	api := client.DiscoveryV1().EndpointSlices(metav1.NamespaceAll)
	return kind{
		name: EndpointSlices, labels: notHeadless,
		first: func(ctx context.Context) (runtime.Object, error) {
			ofService := discoveryv1.LabelServiceName + "=" + First.Name
			return client.DiscoveryV1().EndpointSlices(First.Namespace).List(ctx, metav1.ListOptions{LabelSelector: ofService, ResourceVersion: "0"})
		},
		list:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
		watch: api.Watch,
		set: func(object runtime.Object) bool {
			slice, _ := object.(*discoveryv1.EndpointSlice) // nil is ignored
			return store.SetSlice(slice)
		},
		delete: store.DeleteSlice,
	}
}

func node(client kubernetes.Interface, store *cluster.Store) kind {
	api := client.CoreV1().Nodes()
	return kind{
		name:   Node,
		fields: fields.OneTermEqualSelector(metav1.ObjectNameField, store.NodeName()).String(),
		list:   func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
		watch:  api.Watch,
		set: func(object runtime.Object) bool {
			node, _ := object.(*corev1.Node) // nil is ignored
			return store.SetNode(node)
		},
		delete: func(name cluster.Name) bool { return name.Name == store.NodeName() && store.DeleteNode() },
	}
}

// serviceCIDRs are there from Kubernetes 1.33 on.
func serviceCIDRs(client kubernetes.Interface, store *cluster.Store) kind {
	api := client.NetworkingV1().ServiceCIDRs()
	return kind{
		name: ServiceCIDRs, optional: true,
		list:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
		watch: api.Watch,
		set: func(object runtime.Object) bool {
			cidr, _ := object.(*networkingv1.ServiceCIDR) // nil is ignored
			return store.SetServiceCIDR(cidr)
		},
		delete: func(name cluster.Name) bool { return store.DeleteServiceCIDR(name.Name) },
	}
}
