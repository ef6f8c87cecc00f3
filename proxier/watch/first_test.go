package watch

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The API server's own Service is known before the thousands of others.
func TestKubernetesComesFirst(t *testing.T) {
	a := filled(t)
	a.put(service("kubernetes", "172.30.0.1"))
	a.put(slice("kubernetes", "kubernetes", "192.168.0.9"))
	a.gate = make(chan struct{})
	early := make(chan struct{}, 2)
	r := start(t, a.URL, Options{Early: func() { early <- struct{}{} }})
	<-early
	if got, want := text(r.store), "kubernetes [172.30.0.1] kubernetes=192.168.0.9"; got != want {
		t.Errorf("early: %s, want %s", got, want)
	}
	if r.calls.Load() != 0 || len(r.Waits()) != 3 {
		t.Errorf("changed was called %d times, waits for %q", r.calls.Load(), r.Waits())
	}
	close(a.gate)
	r.becomes("node [192.168.0.2]; kubernetes [172.30.0.1] kubernetes=192.168.0.9; web [172.30.0.41] web-1=10.180.0.2")
	if len(early) != 0 {
		t.Error("Early was called twice")
	}
}

// What came first and was deleted before everything else came does not stay.
func TestFirstThatIsGoneGoes(t *testing.T) {
	for _, refusal := range []int{0, 422} {
		a := filled(t)
		a.refusal = refusal
		a.put(service("kubernetes", "172.30.0.1"))
		a.put(slice("kubernetes", "kubernetes", "192.168.0.9"))
		a.gate = make(chan struct{})
		early := make(chan struct{})
		r := start(t, a.URL, Options{Early: func() { close(early) }})
		<-early
		a.drop(service("kubernetes", ""))
		a.drop(slice("kubernetes", "kubernetes"))
		close(a.gate)
		r.becomes(atFirst)
	}
}

// A cluster without that Service, or with half of it, starts as any other.
func TestNoKubernetesNoEarly(t *testing.T) {
	a := filled(t)
	a.put(service("kubernetes", "172.30.0.1"))
	var early atomic.Bool
	r := start(t, a.URL, Options{Early: func() { early.Store(true) }})
	r.becomes("node [192.168.0.2]; kubernetes [172.30.0.1]; web [172.30.0.41] web-1=10.180.0.2")
	if early.Load() {
		t.Error("Early was called for a Service without EndpointSlices")
	}
}

func serviceCIDR(name string, cidrs ...string) *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
}

func TestServiceCIDRsAreFollowed(t *testing.T) {
	a := filled(t)
	r := start(t, a.URL, Options{})
	ranges := func(n int) func() bool {
		return func() bool { return len(r.store.Snapshot().ServiceCIDRs) == n }
	}
	r.becomes(atFirst)
	a.put(serviceCIDR("kubernetes", "172.30.0.0/16", "fd00:172:30::/108"))
	until(t, "two ranges", ranges(2))
	a.drop(serviceCIDR("kubernetes"))
	until(t, "none", ranges(0))
}

// A server from before ServiceCIDRs holds nothing up, and is named once.
func TestServerWithoutServiceCIDRs(t *testing.T) {
	a := filled(t)
	a.old = true
	r := start(t, a.URL, Options{})
	r.becomes(atFirst)
	until(t, "a line", func() bool { return r.logs.count("going on without") == 1 })
	time.Sleep(20 * time.Millisecond) // ten pauses of other failures
	if n := len(a.asked("servicecidrs", true)); n > 2 {
		t.Errorf("asked %d times", n)
	}
	if n := r.logs.count("level=WARN"); n > 0 {
		t.Errorf("warnings:\n%s", r.logs.all())
	}
}

func TestChangesAreObserved(t *testing.T) {
	a := filled(t)
	var mu sync.Mutex
	var seen []Change
	r := start(t, a.URL, Options{Observe: func(c Change) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, c)
	}})
	has := func(c Change) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return slices.Contains(seen, c)
		}
	}
	r.becomes(atFirst)
	for _, kind := range []string{"Services", "Node"} {
		until(t, kind, has(Change{Kind: kind}))
	}
	changed := slice("web-1", "web", "10.180.0.3")
	changed.Annotations = map[string]string{"endpoints.kubernetes.io/last-change-trigger-time": "2026-03-01T10:00:00.25Z"}
	a.put(changed)
	until(t, "the trigger", has(Change{"EndpointSlices", time.Date(2026, 3, 1, 10, 0, 0, 250e6, time.UTC)}))
}

// A slice counts when it comes before its Service, and when it goes after it.
func TestSlicesWithoutTheirServiceAreChanges(t *testing.T) {
	a := filled(t)
	var slices atomic.Int64
	r := start(t, a.URL, Options{Observe: func(c Change) {
		if c.Kind == EndpointSlices {
			slices.Add(1)
		}
	}})
	r.becomes(atFirst)
	before := slices.Load()
	for i, act := range []func(){
		func() { a.put(slice("late-1", "late", "10.180.0.9")) },
		func() { a.drop(slice("late-1", "late")) },
	} {
		act()
		until(t, "a change", func() bool { return slices.Load() == before+int64(i)+1 })
	}
}
