package watch

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// api is an API server for lists and watches of our four kinds, in JSON.
type api struct {
	*httptest.Server

	mu       sync.Mutex
	version  int
	objects  map[string]map[string]runtime.Object // by resource, then by name
	history  []change
	floor    int // versions below are forgotten
	next     chan struct{}
	requests []url.Values
	opened   int // connections of watches

	// What is wrong with it.
	status   int           // answers everything with it
	refusal  int           // answers requests to stream a list with it; 0: streams
	silent   bool          // watches say nothing more, and do not end
	pageSize int           // of lists; 0: whole
	old      bool          // has no ServiceCIDRs
	gate     chan struct{} // holds up all but the first lists until it is closed; nil: nothing
	cut      chan struct{}
}

type change struct {
	version        int
	resource, kind string
	object         json.RawMessage
}

func newAPI(t *testing.T) *api {
	a := &api{version: 100, objects: map[string]map[string]runtime.Object{}, next: make(chan struct{}), cut: make(chan struct{})}
	for _, resource := range []string{"services", "endpointslices", "nodes", "servicecidrs"} {
		a.objects[resource] = map[string]runtime.Object{}
	}
	a.Server = httptest.NewServer(a)
	t.Cleanup(func() { a.breakWatches(); a.Close() })
	return a
}

// change makes changes of the state and tells the watches.
func (a *api) change(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	close(a.next)
	a.next = make(chan struct{})
}

func resourceOf(object runtime.Object) (resource, version, kind string) {
	switch object.(type) {
	case *corev1.Service:
		return "services", "v1", "Service"
	case *discoveryv1.EndpointSlice:
		return "endpointslices", "discovery.k8s.io/v1", "EndpointSlice"
	case *networkingv1.ServiceCIDR:
		return "servicecidrs", "networking.k8s.io/v1", "ServiceCIDR"
	}
	return "nodes", "v1", "Node"
}

// put writes an object; drop deletes it; mark sends a bookmark to the watches of
// its kind.
func (a *api) put(object runtime.Object)  { a.write("", object) }
func (a *api) drop(object runtime.Object) { a.write("DELETED", object) }
func (a *api) mark(object runtime.Object) { a.write("BOOKMARK", object) }

func (a *api) write(what string, object runtime.Object) {
	a.change(func() {
		a.version++
		resource, version, kind := resourceOf(object)
		about, _ := meta.Accessor(object)
		about.SetResourceVersion(strconv.Itoa(a.version))
		object.GetObjectKind().SetGroupVersionKind(gvk(version, kind))
		if what == "" {
			what = "ADDED"
			if a.objects[resource][about.GetName()] != nil {
				what = "MODIFIED"
			}
			a.objects[resource][about.GetName()] = object
		} else if what == "DELETED" {
			delete(a.objects[resource], about.GetName())
		}
		raw, _ := json.Marshal(object)
		a.history = append(a.history, change{a.version, resource, what, raw})
	})
}

// forget drops the history, as compaction does, and breaks the watches.
func (a *api) forget() {
	a.change(func() { a.floor, a.history = a.version+1, nil; a.version++ })
	a.breakWatches()
}

// refuseStreams makes it a server that knows plain lists only.
func (a *api) refuseStreams(yes bool) {
	if yes {
		a.refusal = http.StatusUnprocessableEntity
	}
}

func (a *api) breakWatches() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.cut)
	a.cut = make(chan struct{})
}

// asked returns the queries of a resource so far, of watches or of lists.
func (a *api) asked(resource string, watch bool) (found []url.Values) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, q := range a.requests {
		if q.Get("resource") == resource && (q.Get("watch") == "true") == watch {
			found = append(found, q)
		}
	}
	return found
}

// takenWhole counts the times that all objects of a resource were asked for.
func (a *api) takenWhole(resource string) int {
	n := 0
	for _, q := range append(a.asked(resource, true), a.asked(resource, false)...) {
		if (q.Get("watch") != "true" || q.Get("sendInitialEvents") == "true") && q.Get("continue") == "" {
			n++
		}
	}
	return n
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q, resource := r.URL.Query(), path.Base(r.URL.Path)
	q.Set("resource", resource)
	if strings.Contains(r.URL.Path, "/namespaces/default/") {
		q.Set("resource", "first "+resource)
	}
	a.mu.Lock()
	a.requests = append(a.requests, q)
	status, refusal := a.status, a.refusal
	a.mu.Unlock()
	if a.gate != nil && !strings.HasPrefix(q.Get("resource"), "first ") {
		<-a.gate
	}
	version, _ := strconv.Atoi(q.Get("resourceVersion"))
	switch {
	case status != 0:
		refuse(w, status, "made to fail")
	case resource == "servicecidrs" && a.old:
		refuse(w, http.StatusNotFound, "the server could not find the requested resource")
	case q.Get("watch") != "true":
		a.serveList(w, resource, q)
	case q.Get("sendInitialEvents") == "true" && refusal != 0:
		refuse(w, refusal, "the required storage feature is disabled")
	case q.Get("sendInitialEvents") == "true":
		a.serveWatch(w, r, resource, -1)
	case version < a.oldest():
		refuse(w, http.StatusGone, "too old resource version")
	default:
		a.serveWatch(w, r, resource, version)
	}
}

func (a *api) oldest() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.floor
}

func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	reason := map[int]metav1.StatusReason{410: metav1.StatusReasonExpired, 422: metav1.StatusReasonInvalid,
		403: metav1.StatusReasonForbidden, 404: metav1.StatusReasonNotFound, 500: metav1.StatusReasonInternalError}[status]
	_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status: metav1.StatusFailure, Code: int32(status), Reason: reason, Message: message})
}

func (a *api) serveList(w http.ResponseWriter, resource string, q url.Values) {
	a.mu.Lock()
	defer a.mu.Unlock()
	names := slices.Sorted(maps.Keys(a.objects[resource]))
	from, _ := strconv.Atoi(q.Get("continue"))
	to, rest := len(names), ""
	if a.pageSize > 0 && q.Get("limit") != "" && from+a.pageSize < to {
		to = from + a.pageSize
		rest = strconv.Itoa(to)
	}
	items := []runtime.Object{}
	for _, name := range names[from:to] {
		if first := strings.HasPrefix(q.Get("resource"), "first "); !first || strings.HasPrefix(name, "kubernetes") {
			items = append(items, a.objects[resource][name])
		}
	}
	_, version, kind := resourceOf(blank(resource))
	kind += "List"
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": kind, "apiVersion": version, "items": items,
		"metadata": map[string]string{"resourceVersion": strconv.Itoa(a.version), "continue": rest}})
}

// serveWatch sends the changes after a version; -1: everything first.
func (a *api) serveWatch(w http.ResponseWriter, r *http.Request, resource string, version int) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	a.mu.Lock()
	a.opened++
	cut := a.cut
	if version < 0 {
		for _, name := range slices.Sorted(maps.Keys(a.objects[resource])) {
			raw, _ := json.Marshal(a.objects[resource][name])
			send(w, "ADDED", raw)
		}
		send(w, "BOOKMARK", a.endOfList(resource))
		version = a.version
	}
	a.mu.Unlock()
	w.(http.Flusher).Flush()
	for {
		a.mu.Lock()
		next, silent := a.next, a.silent
		for _, c := range a.history {
			if c.version > version && c.resource == resource && !silent {
				send(w, c.kind, c.object)
				version = c.version
			}
		}
		a.mu.Unlock()
		w.(http.Flusher).Flush()
		select {
		case <-next:
		case <-cut:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func blank(resource string) runtime.Object {
	return map[string]runtime.Object{
		"services": &corev1.Service{}, "endpointslices": &discoveryv1.EndpointSlice{},
		"nodes": &corev1.Node{}, "servicecidrs": &networkingv1.ServiceCIDR{},
	}[resource]
}

func (a *api) endOfList(resource string) json.RawMessage {
	object := blank(resource)
	_, version, kind := resourceOf(object)
	object.GetObjectKind().SetGroupVersionKind(gvk(version, kind))
	about, _ := meta.Accessor(object)
	about.SetResourceVersion(strconv.Itoa(a.version))
	about.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	raw, _ := json.Marshal(object)
	return raw
}

func send(w http.ResponseWriter, kind string, object json.RawMessage) {
	fmt.Fprintf(w, `{"type":%q,"object":%s}`+"\n", kind, object)
}
