package events

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"

	"switchyard/proxier/cluster"
)

// The reasons of Events. Those of the first group are upstream's.
const (
	Starting               = "Starting"                        // Normal, on the Node
	HealthzNotServed       = "FailedToStartProxierHealthcheck" // on the Node
	MetricsNotServed       = "FailedToStartMetricServer"       // on the Node
	HealthNodePortNotBound = "FailedToStartServiceHealthcheck" // on the Service

	NotProgrammed     = "NotProgrammed"        // a Service port that the kernel does not take
	NotAsAsked        = "NotAsAsked"           // a wish of a Service that is met in another way
	InvalidField      = "InvalidField"         // a part of an object that is left out
	InvalidConfigFile = "InvalidConfiguration" // on the Node
)

const (
	controller = "kube-proxy"
	maxNote    = 1024 // bytes, by the API's validation
	queueSize  = 256
	// resolveWithin bounds the question for an object's UID. Without it the Event is
	// made all the same, and only `kubectl get events` shows it.
	resolveWithin = 5 * time.Second
)

// Event is one thing to say. A normal one is no trouble.
type Event struct {
	Normal bool
	Reason string
	Action string // what was tried: "StartKubeProxy", "Listen", "Sync"
	Note   string
}

// Recorder sends Events. A nil one sends none: where there is no API server.
type Recorder struct {
	client kubernetes.Interface
	node   string
	queue  chan message
}

type message struct {
	about cluster.Object
	Event
}

// New returns a Recorder for the node of that name. It sends nothing before Run.
func New(client kubernetes.Interface, node string) *Recorder {
	return &Recorder{client: client, node: node, queue: make(chan message, queueSize)}
}

// Node says something of this node. It never blocks.
func (r *Recorder) Node(e Event) {
	if r != nil {
		r.Object(cluster.Object{Kind: "Node", Name: cluster.Name{Name: r.node}}, e)
	}
}

// Object says something of a Service, an EndpointSlice or a Node. It never blocks.
func (r *Recorder) Object(about cluster.Object, e Event) {
	if r == nil {
		return
	}
	select {
	case r.queue <- message{about, e}:
	default: // hundreds wait: one more helps nobody
	}
}

// Run sends Events until the context ends.
func (r *Recorder) Run(ctx context.Context) {
	if r == nil {
		return
	}
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: r.client.EventsV1()})
	defer broadcaster.Shutdown()
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return
	}
	recorder := broadcaster.NewRecorder(scheme.Scheme, controller)
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-r.queue:
			kind := corev1.EventTypeWarning
			if m.Normal {
				kind = corev1.EventTypeNormal
			}
			recorder.Eventf(r.reference(ctx, m.about), nil, kind, m.Reason, m.Action, "%s", shortened(m.Note))
		}
	}
}

// reference names an object as `kubectl describe` looks for it: a Node by its name
// in place of the UID, as the kubelet does, any other with its UID.
func (r *Recorder) reference(ctx context.Context, o cluster.Object) *corev1.ObjectReference {
	ref := &corev1.ObjectReference{Kind: o.Kind, APIVersion: "v1", Namespace: o.Name.Namespace, Name: o.Name.Name}
	if o.Kind == "EndpointSlice" {
		ref.APIVersion = "discovery.k8s.io/v1"
	}
	if o.Kind == "Node" {
		ref.UID = types.UID(o.Name.Name)
		return ref
	}
	ref.UID = r.uid(ctx, o)
	return ref
}

// uid asks by a list, since the role system:node-proxier may not get these objects.
func (r *Recorder) uid(ctx context.Context, o cluster.Object) types.UID {
	ctx, cancel := context.WithTimeout(ctx, resolveWithin)
	defer cancel()
	options := metav1.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector(metav1.ObjectNameField, o.Name.Name).String(),
		ResourceVersion: "0",
	}
	switch o.Kind {
	case "Service":
		list, err := r.client.CoreV1().Services(o.Name.Namespace).List(ctx, options)
		if err == nil && len(list.Items) == 1 && list.Items[0].Name == o.Name.Name {
			return list.Items[0].UID
		}
	case "EndpointSlice":
		list, err := r.client.DiscoveryV1().EndpointSlices(o.Name.Namespace).List(ctx, options)
		if err == nil && len(list.Items) == 1 && list.Items[0].Name == o.Name.Name {
			return list.Items[0].UID
		}
	}
	return ""
}

// shortened is a note that the API takes.
func shortened(note string) string {
	if len(note) <= maxNote {
		return note
	}
	const more = " …"
	return strings.ToValidUTF8(note[:maxNote-len(more)], "") + more
}
