package watch

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"

	"switchyard/proxier/cluster"
)

func gvk(version, kind string) schema.GroupVersionKind {
	return schema.FromAPIVersionAndKind(version, kind)
}

func service(name, ip string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}}}
}

func slice(name, service string, addrs ...string) *discoveryv1.EndpointSlice {
	port, none := int32(8080), ""
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name,
			Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &none, Port: &port}},
	}
	for _, addr := range addrs {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{addr}})
	}
	return s
}

func aNode(name, addr string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr}}}}
}

// text is a Store in one line: the node's addresses, then each Service with its
// address and its slices.
func text(store *cluster.Store) string {
	snap := store.Snapshot()
	var b strings.Builder
	if snap.Node != nil {
		fmt.Fprintf(&b, "node %v; ", snap.Node.Addresses)
	}
	for _, svc := range snap.Services.All() {
		fmt.Fprintf(&b, "%s %v", svc.Name.Name, svc.ClusterIPs)
		for _, s := range svc.Slices {
			fmt.Fprintf(&b, " %s", s.Name)
			for _, e := range s.Endpoints {
				fmt.Fprintf(&b, "=%s", e.Addr)
			}
		}
		b.WriteString("; ")
	}
	return strings.TrimSuffix(b.String(), "; ")
}

// running is a Source at work.
type running struct {
	*Source
	t     *testing.T
	store *cluster.Store
	calls atomic.Int64 // of changed
	logs  *lines
}

type lines struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(b)
}

func (l *lines) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.Buffer.String(), part)
}

func (l *lines) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.String()
}

func start(t *testing.T, server string, o Options) *running {
	t.Helper()
	client, err := NewClient("", server, ClientOptions{QPS: -1, ContentType: "application/json", AcceptContentTypes: "application/json"})
	if err != nil {
		t.Fatal(err)
	}
	if o.Retry == 0 {
		o.Retry = 2 * time.Millisecond
	}
	store := cluster.NewStore("node-a")
	return run(t, New(client, store, o), store)
}

func run(t *testing.T, s *Source, store *cluster.Store) *running {
	r := &running{Source: s, t: t, store: store, logs: &lines{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- s.Run(ctx, func() { r.calls.Add(1) }, slog.New(slog.NewTextHandler(r.logs, nil)))
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run returned %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("Run does not end")
		}
	})
	return r
}

// until waits for a condition.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came: %s", what)
		}
	}
}

// becomes waits until the Store is as text says, and changed was called since.
func (r *running) becomes(want string) {
	r.t.Helper()
	end := time.Now().Add(10 * time.Second)
	for text(r.store) != want || r.calls.Load() == 0 {
		if time.Now().After(end) {
			r.t.Fatalf("the Store holds\n\t%s\nwant\n\t%s\nlog:\n%s", text(r.store), want, r.logs.all())
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// does runs an action and waits until the Store is as text says and changed was
// called for it.
func (r *running) does(action func(), want string) {
	r.t.Helper()
	before := r.calls.Load()
	action()
	r.becomes(want)
	until(r.t, "changed is called after "+want, func() bool { return r.calls.Load() > before })
}

func filled(t *testing.T) *api {
	a := newAPI(t)
	a.put(service("web", "172.30.0.41"))
	a.put(slice("web-1", "web", "10.180.0.2"))
	a.put(aNode("node-a", "192.168.0.2"))
	return a
}

const atFirst = "node [192.168.0.2]; web [172.30.0.41] web-1=10.180.0.2"

func TestObjectsArriveAndChange(t *testing.T) {
	for name, refusal := range map[string]int{
		"the server streams lists":                           0,
		"the server has pages only":                          http.StatusUnprocessableEntity,
		"the server has an etcd that is too old for streams": http.StatusInternalServerError,
	} {
		t.Run(name, func(t *testing.T) {
			a := filled(t)
			listOnly := refusal != 0
			a.refusal, a.pageSize = refusal, 1
			a.put(service("api", "172.30.0.42"))
			r := start(t, a.URL, Options{})
			r.becomes("node [192.168.0.2]; api [172.30.0.42]; web [172.30.0.41] web-1=10.180.0.2")
			r.does(func() { a.drop(service("api", "172.30.0.42")) }, atFirst)
			r.does(func() { a.put(slice("web-1", "web", "10.180.0.2", "10.180.0.3")) },
				"node [192.168.0.2]; web [172.30.0.41] web-1=10.180.0.2=10.180.0.3")
			r.does(func() { a.put(slice("web-2", "web", "10.180.1.2")) },
				"node [192.168.0.2]; web [172.30.0.41] web-1=10.180.0.2=10.180.0.3 web-2=10.180.1.2")
			r.does(func() { a.drop(slice("web-1", "web")) }, "node [192.168.0.2]; web [172.30.0.41] web-2=10.180.1.2")
			r.does(func() { a.drop(service("web", "")) }, "node [192.168.0.2]")
			if listOnly != (len(a.asked("services", false)) > 0) {
				t.Errorf("%d plain lists of services", len(a.asked("services", false)))
			}
		})
	}
}

func TestNodeGoesAndComesBack(t *testing.T) {
	a := newAPI(t)
	a.put(service("web", "172.30.0.41"))
	r := start(t, a.URL, Options{})
	r.becomes("web [172.30.0.41]") // a Node that does not exist holds nothing up
	r.does(func() { a.put(aNode("node-a", "192.168.0.2")) }, "node [192.168.0.2]; web [172.30.0.41]")
	r.does(func() { a.drop(aNode("node-a", "192.168.0.2")) }, "web [172.30.0.41]")
	r.does(func() { a.put(aNode("node-a", "192.168.0.9")) }, "node [192.168.0.9]; web [172.30.0.41]")
}

func TestServerSendsOnlyWhatIsAsked(t *testing.T) {
	for _, listOnly := range []bool{false, true} {
		a := filled(t)
		a.refuseStreams(listOnly)
		r := start(t, a.URL, Options{})
		r.becomes(atFirst)
		until(t, "watches", func() bool { return len(a.asked("nodes", true)) > 0 })
		for resource, want := range map[string][2]string{
			"services":       {"!service.kubernetes.io/service-proxy-name", "spec.clusterIP!=None"},
			"endpointslices": {"!service.kubernetes.io/headless", ""},
			"nodes":          {"", "metadata.name=node-a"},
		} {
			for _, q := range append(a.asked(resource, true), a.asked(resource, false)...) {
				if got := [2]string{q.Get("labelSelector"), q.Get("fieldSelector")}; got != want {
					t.Errorf("%s: selectors %q, want %q", resource, got, want)
				}
				if q.Get("watch") == "true" && (q.Get("allowWatchBookmarks") != "true" || len(q.Get("timeoutSeconds")) != 3) {
					t.Errorf("%s: a watch without bookmarks or timeout: %v", resource, q)
				}
			}
		}
	}
}

func TestListAfterExpiryDeletesWhatIsGone(t *testing.T) {
	for name, listOnly := range map[string]bool{"as a stream": false, "in pages": true} {
		t.Run(name, func(t *testing.T) {
			a := filled(t)
			a.refuseStreams(listOnly)
			a.put(service("old", "172.30.0.50"))
			r := start(t, a.URL, Options{})
			r.becomes("node [192.168.0.2]; old [172.30.0.50]; web [172.30.0.41] web-1=10.180.0.2")
			r.does(func() {
				a.change(func() { a.status = http.StatusServiceUnavailable })
				a.breakWatches()
				a.drop(service("old", "172.30.0.50"))
				a.drop(slice("web-1", "web"))
				a.drop(aNode("node-a", ""))
				a.put(service("new", "172.30.0.51"))
				a.forget()
				a.change(func() { a.status = 0 })
			}, "new [172.30.0.51]; web [172.30.0.41]")
			if listOnly {
				for i, q := range a.asked("services", false) {
					if got, first := q.Get("resourceVersion"), i == 0; (got == "0") != first {
						t.Errorf("list %d asks for version %q: only the first may be served from a cache", i, got)
					}
				}
			}
		})
	}
}

func TestRestartsCauseNoLists(t *testing.T) {
	a := filled(t)
	r := start(t, a.URL, Options{})
	r.becomes(atFirst)
	for i := range 20 {
		a.change(func() { a.status = []int{500, 503, 403, 429, 504}[i%5] })
		a.breakWatches()
		asked := len(a.asked("services", true))
		until(t, "a refused watch", func() bool { return len(a.asked("services", true)) > asked })
		a.change(func() { a.status = 0 })
		want := fmt.Sprintf("node [192.168.0.2]; web [172.30.0.%d] web-1=10.180.0.2", 100+i)
		r.does(func() { a.put(service("web", fmt.Sprintf("172.30.0.%d", 100+i))) }, want)
	}
	for _, resource := range []string{"services", "endpointslices", "nodes"} {
		if n := a.takenWhole(resource); n != 1 {
			t.Errorf("%s were taken whole %d times in 20 restarts, want once", resource, n)
		}
	}
}

func TestColdServerIsWaitedFor(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	r := start(t, "http://"+addr, Options{})
	until(t, "the hundredth failure is told", func() bool { return r.logs.count("times=100 ") > 0 })
	for _, times := range []string{"times=1 ", "times=10 ", "times=100 "} {
		if n := r.logs.count(times); n != 1 {
			t.Errorf("%d lines with %q, want 1:\n%s", n, times, r.logs.all())
		}
	}
	if n := r.logs.count("dial tcp " + addr + ": connect: connection refused"); n != 3 {
		t.Errorf("%d lines name the reason, want 3:\n%s", n, r.logs.all())
	}
	if n := r.logs.count(`missing="Services, EndpointSlices, Node"`); n != 3 {
		t.Errorf("%d lines name what is missing, want 3:\n%s", n, r.logs.all())
	}
	if r.calls.Load() != 0 {
		t.Error("changed was called before anything was known")
	}
	if l, err = net.Listen("tcp", addr); err != nil {
		t.Skip("another program has taken the port of the server meanwhile; run it again: ", err)
	}
	a := filled(t)
	go func() { _ = http.Serve(l, a) }()
	defer l.Close()
	r.becomes(atFirst)
	until(t, "the end is told", func() bool { return r.logs.count("followed again") == 1 })
}

func TestNothingIsProgrammedFromHalfTheTruth(t *testing.T) {
	a := filled(t)
	withoutSlices := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "endpointslices") {
			refuse(w, http.StatusForbidden, "not allowed")
			return
		}
		a.ServeHTTP(w, r)
	})
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	defer l.Close()
	go func() { _ = http.Serve(l, withoutSlices) }()
	r := start(t, "http://"+l.Addr().String(), Options{})
	until(t, "the refusal is told", func() bool { return r.logs.count("times=10 ") > 0 })
	if got := fmt.Sprint(r.Waits()); got != "[EndpointSlices]" || r.calls.Load() != 0 {
		t.Errorf("waits for %s, changed called %d times; want EndpointSlices and none", got, r.calls.Load())
	}
}

func TestSilentWatchIsReopened(t *testing.T) {
	a := filled(t)
	r := start(t, a.URL, Options{Silence: 300 * time.Millisecond})
	r.becomes(atFirst)
	a.change(func() { a.silent = true })
	a.put(service("web", "172.30.0.77"))
	if text(r.store) != atFirst {
		t.Fatal("the server is not silent")
	}
	asked := len(a.asked("services", true))
	until(t, "the watch is opened anew, again and again", func() bool { return len(a.asked("services", true)) > asked+3 })
	if n := r.logs.count("level=WARN"); n > 0 {
		t.Errorf("a kind of which nothing changes is no trouble:\n%s", r.logs.all())
	}
	if age := r.Age(); age < 200*time.Millisecond {
		t.Errorf("age %v after a silence of 300 ms", age)
	}
	if text(r.store) != atFirst {
		t.Errorf("the silence changed the Store: %s", text(r.store))
	}
	r.does(func() { a.change(func() { a.silent = false }) }, strings.Replace(atFirst, ".41", ".77", 1))
	if n := a.takenWhole("services"); n != 1 {
		t.Errorf("services were taken whole %d times, want once", n)
	}
	if age := r.Age(); age > 200*time.Millisecond {
		t.Errorf("age %v although the server speaks again", age)
	}
}

func TestBookmarksKeepAWatch(t *testing.T) {
	a := filled(t)
	r := start(t, a.URL, Options{Silence: time.Second})
	r.becomes(atFirst)
	asked := len(a.asked("services", true))
	for range 10 {
		time.Sleep(200 * time.Millisecond)
		a.mark(&corev1.Service{})
	}
	if n := len(a.asked("services", true)); n != asked {
		t.Errorf("a watch with bookmarks was reopened %d times", n-asked)
	}
	if n := r.calls.Load(); n > 3 {
		t.Errorf("changed was called %d times, bookmarks are no changes", n)
	}
	// The version of the last bookmark is where the next watch begins.
	a.breakWatches()
	until(t, "the next watch", func() bool { return len(a.asked("services", true)) > asked })
	all := a.asked("services", true)
	if got := all[len(all)-1].Get("resourceVersion"); got != "113" {
		t.Errorf("the next watch begins at %s, want at the last bookmark, 113", got)
	}
}

func TestChangesAreToldOnceForMany(t *testing.T) {
	a := newAPI(t)
	for i := range 500 {
		a.put(service(fmt.Sprintf("web-%d", i), fmt.Sprintf("172.30.%d.%d", i/250, 1+i%250)))
	}
	r := start(t, a.URL, Options{})
	until(t, "all services", func() bool { return r.calls.Load() > 0 && r.store.Snapshot().Services.Len() == 500 })
	if n := r.calls.Load(); n > 3 {
		t.Errorf("changed was called %d times for the first lists", n)
	}
	before := r.calls.Load()
	same := service("web-7", "172.30.0.8")
	same.Annotations = map[string]string{"nothing": "to us"}
	a.put(same)
	a.put(service("web-500", "172.30.9.9")) // comes behind it on the same watch
	until(t, "one more service", func() bool { return r.store.Snapshot().Services.Len() == 501 && r.calls.Load() > before })
	if n := r.calls.Load(); n != before+1 {
		t.Errorf("changed was called %d times for an annotation and a new Service, want once", n-before)
	}
}

// A clientset for tests has no bookmarks, so lists cannot come as streams.
func TestClientsetForTests(t *testing.T) {
	client := fake.NewClientset(service("web", "172.30.0.41"), slice("web-1", "web", "10.180.0.2"), aNode("node-a", "192.168.0.2"))
	store := cluster.NewStore("node-a")
	r := run(t, New(client, store, Options{Retry: time.Millisecond}), store)
	r.becomes(atFirst)
}
