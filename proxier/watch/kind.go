package watch

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
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
	list           func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch          func(context.Context, metav1.ListOptions) (watch.Interface, error)
	set            func(runtime.Object) (changed bool)
	delete         func(cluster.Name) (changed bool)
}

// Selectors, which are upstream's: a Service of another proxy, a headless one and
// its slices are most of what some clusters send, and nothing to us.
const (
	notAnotherProxys = "!service.kubernetes.io/service-proxy-name"
	notHeadless      = "!" + corev1.IsHeadlessService
	hasClusterIP     = "spec.clusterIP!=" + corev1.ClusterIPNone
)

func kinds(client kubernetes.Interface, store *cluster.Store) []kind {
	return []kind{services(client, store), endpointSlices(client, store), node(client, store)}
}

func services(client kubernetes.Interface, store *cluster.Store) kind {
	api := client.CoreV1().Services(metav1.NamespaceAll)
	return kind{
		name: "Services", labels: notAnotherProxys, fields: hasClusterIP,
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
		name: "EndpointSlices", labels: notHeadless,
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
		name:   "Node",
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
