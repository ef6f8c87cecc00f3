package events

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"switchyard/proxier/cluster"
)

// sent waits for the Events that a Recorder made. The real API server takes the
// same in test/e2e.
func sent(t *testing.T, client *fake.Clientset, n int) []eventsv1.Event {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		list, err := client.EventsV1().Events(metav1.NamespaceAll).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Items) >= n {
			return list.Items
		}
		if time.Now().After(end) {
			t.Fatalf("%d Events came, want %d", len(list.Items), n)
		}
	}
}

func running(t *testing.T, client *fake.Clientset) *Recorder {
	r := New(client, "node-a")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

func TestEventsNameTheirObject(t *testing.T) {
	web := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "uid-of-web"}}
	for _, c := range []struct {
		name string
		say  func(*Recorder)
		want eventsv1.Event
	}{
		{"a Node, as the kubelet names it", func(r *Recorder) {
			r.Node(Event{Normal: true, Reason: Starting, Action: "StartKubeProxy"})
		}, eventsv1.Event{
			Type: "Normal", Reason: "Starting", Action: "StartKubeProxy",
			Regarding: corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: "node-a", UID: "node-a"},
		}},
		{"a Service, with its UID", func(r *Recorder) {
			about := cluster.Object{Kind: "Service", Name: cluster.Name{Namespace: "shop", Name: "web"}}
			r.Object(about, Event{Reason: NotAsAsked, Action: "Sync", Note: "100% of it"})
		}, eventsv1.Event{
			Type: "Warning", Reason: "NotAsAsked", Action: "Sync", Note: "100% of it",
			Regarding: corev1.ObjectReference{Kind: "Service", APIVersion: "v1", Namespace: "shop", Name: "web", UID: "uid-of-web"},
		}},
		{"a Service that is gone", func(r *Recorder) {
			about := cluster.Object{Kind: "Service", Name: cluster.Name{Namespace: "shop", Name: "old"}}
			r.Object(about, Event{Reason: NotProgrammed, Action: "Sync", Note: strings.Repeat("x", 2000)})
		}, eventsv1.Event{
			Type: "Warning", Reason: "NotProgrammed", Action: "Sync", Note: strings.Repeat("x", 1020) + " …",
			Regarding: corev1.ObjectReference{Kind: "Service", APIVersion: "v1", Namespace: "shop", Name: "old"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := fake.NewClientset(web)
			c.say(running(t, client))
			got := sent(t, client, 1)[0]
			if got.Type != c.want.Type || got.Reason != c.want.Reason || got.Action != c.want.Action ||
				got.Note != c.want.Note || got.Regarding != c.want.Regarding || got.ReportingController != "kube-proxy" {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// Without an API server there is nobody to tell.
func TestNoRecorder(t *testing.T) {
	var r *Recorder
	r.Node(Event{Reason: Starting})
	r.Object(cluster.Object{}, Event{})
	r.Run(t.Context())
}

// An API server that does not answer stops nobody.
func TestFullQueueDrops(t *testing.T) {
	r := New(fake.NewClientset(), "node-a")
	for range 3 * queueSize {
		r.Node(Event{Reason: Starting})
	}
	if len(r.queue) != queueSize {
		t.Errorf("%d wait", len(r.queue))
	}
}
