package ipvs

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"switchyard/ipvs/ipset"
	"switchyard/ipvs/vs"
	"switchyard/proxier"
	"switchyard/test/netlab"
)

// Speeds are compared within one kernel and one run, each time in a network namespace
// of its own: the kernel keeps what was deleted for two minutes and walks over it at
// each destination that is added. The bounds are those that are promised; there is no
// margin on top of them.
const (
	maxColdStart = 1.3 // of the backend, against the bare calls
	maxChange    = 3.0 // likewise
	maxGrowth    = 1.5 // of a change among 5,000 Services, against one among 50
	maxConnect   = 1.1 // of a connect among 5,000 Services, against one among 10
)

// wide are n services with ten endpoints each.
func wide(n int) []*proxier.Service {
	var out []*proxier.Service
	for i := range n {
		var endpoints []string
		for j := range 10 {
			endpoints = append(endpoints, fmt.Sprintf("10.%d.%d.%d:8080", 180+j, i/256, i%256))
		}
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 30, byte(i >> 8), byte(i)}), 80)
		out = append(out, clusterIP(fmt.Sprintf("s%05d", i), at.String(), proxier.TCP, endpoints...))
	}
	return out
}

// unlocked runs f on a goroutine that has no thread of its own, unlike the test, as the
// engine's has none. Connections to the kernel stay in the test's namespace.
func unlocked(f func()) (took time.Duration) {
	done := make(chan struct{})
	start := time.Now()
	go func() {
		defer close(done)
		f()
	}()
	<-done
	return time.Since(start)
}

// testColdStart: 1,000 Services with 10 endpoints each. All that the first Apply does,
// rules, sets and sysctls too, is held against bare calls one by one. How its content
// alone compares with the same in as few system calls as there can be is only told:
// those calls have nothing to decide.
func testColdStart(t *testing.T) {
	want := stateOf(wide(1000)...)
	took := map[string]time.Duration{}
	calls := bareCalls(&Backend{config: Config{Scheduler: "rr"}}, want)
	measure := func(name string, prepare bool, fill func(*testing.T, *Backend)) {
		t.Run(name, func(t *testing.T) {
			netlab.Alone(t)
			b := realBackend(t)
			if !prepare { // the whole runs programs, which need the test's thread
				start := time.Now()
				fill(t, b)
				took[name] = shorter(took[name], time.Since(start))
				return
			}
			apply(t, b, stateOf())
			took[name] = shorter(took[name], unlocked(func() { fill(t, b) }))
		})
	}
	program := func(t *testing.T, b *Backend) { apply(t, b, want) }
	for i := range 3 {
		measure("whole", false, program)
		measure("content", true, program)
		measure("pipelined", true, func(t *testing.T, b *Backend) { calls.make(t, b, math.MaxInt) })
		if i == 0 { // it takes so long that once tells enough
			measure("plain", true, func(t *testing.T, b *Backend) { calls.make(t, b, 1) })
		}
	}
	t.Logf("1,000 Services × 10 endpoints: first Apply %s, its content alone %s; bare calls %s, pipelined %s",
		took["whole"], took["content"], took["plain"], took["pipelined"])
	r := ratio(took["whole"], took["plain"])
	t.Logf("whole against plain: %.2f; content against pipelined: %.2f", r, ratio(took["content"], took["pipelined"]))
	if r > maxColdStart {
		t.Errorf("a cold start takes %.2f times the bare calls, want %.1f at most", r, maxColdStart)
	}
}

func ratio(a, b time.Duration) float64 { return a.Seconds() / b.Seconds() }

// shorter is the shorter of two times; 0 is none yet.
func shorter(a, b time.Duration) time.Duration {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// calls are the writes that the content of a State takes, and nothing else.
type calls struct {
	entries map[string][]ipset.Entry
	writes  []vs.Write
	addrs   []netip.Addr
}

func bareCalls(b *Backend, want *proxier.State) calls {
	m := newMemory(want.Family, &b.config)
	m.move(want)
	c := calls{entries: map[string][]ipset.Entry{}, addrs: m.addrs.pending(true)}
	for _, e := range m.entries.pending(true) {
		name := e.set.name(want.Family)
		c.entries[name] = append(c.entries[name], e.entry)
	}
	for key, s := range m.servers {
		c.writes = append(c.writes, vs.Write{Op: vs.AddServer, Key: key, Server: s.want.Server})
		for _, d := range s.want.pool {
			c.writes = append(c.writes, vs.Write{Op: vs.AddDestination, Key: key, Destination: d})
		}
	}
	return c
}

// make makes the calls, n at once.
func (c calls) make(t *testing.T, b *Backend, n int) {
	var errs []error
	for name, list := range c.entries {
		for part := range slices.Chunk(list, min(n, len(list))) {
			errs = append(errs, b.sets.Change(name, part, nil))
		}
	}
	for part := range slices.Chunk(c.writes, min(n, len(c.writes))) {
		errs = append(errs, b.servers.Batch(part)...)
	}
	for part := range slices.Chunk(c.addrs, min(n, len(c.addrs))) {
		errs = append(errs, b.device.Change(part, nil))
	}
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

// attempts are how often a ratio is measured until it is within its bound: a machine
// that has other things to do makes it worse, never better.
const attempts = 3

// within measures until all ratios are within their bounds, and fails if they never
// are.
func within(t *testing.T, bounds []float64, measure func() []float64) {
	t.Helper()
	var ratios []float64
	for range attempts {
		ratios = measure()
		if slices.EqualFunc(ratios, bounds, func(r, bound float64) bool { return r <= bound }) {
			return
		}
	}
	t.Errorf("ratios %.2f, want %.1f at most", ratios, bounds)
}

// testChange: an endpoint more, and less, of one Service among few and among many.
func testChange(t *testing.T) {
	within(t, []float64{maxChange, maxGrowth}, func() []float64 { return changeRatios(t) })
}

// changeRatios are those of a change to bare calls, and of one among many Services to
// one among few.
func changeRatios(t *testing.T) []float64 {
	took := map[int]time.Duration{}
	var plain time.Duration
	for _, n := range []int{50, 5000} {
		t.Run(fmt.Sprint(n, " Services"), func(t *testing.T) {
			netlab.Alone(t)
			b := realBackend(t)
			want := stateOf(many(n)...)
			apply(t, b, want)
			took[n], plain = changes(t, b, want)
		})
	}
	few, many := took[50], took[5000]
	t.Logf("one endpoint more or less: among 50 Services %s, among 5,000 %s, ratio %.2f; bare calls among 5,000 %s, ratio %.2f",
		few, many, ratio(many, few), plain, ratio(many, plain))
	return []float64{ratio(many, plain), ratio(many, few)}
}

// changes are the middle times of an endpoint that comes and goes, by the backend and
// by bare calls, one after the other.
func changes(t *testing.T, b *Backend, want *proxier.State) (ours, bare time.Duration) {
	t.Helper()
	var all, plain []time.Duration
	unlocked(func() {
		for i := range 40 {
			ep := addrPort(fmt.Sprintf("10.250.0.%d:8080", i+1))
			next := withEndpoint(want, ep)
			for _, s := range []*proxier.State{next, want} {
				start := time.Now()
				apply(t, b, s)
				all = append(all, time.Since(start))
			}
			plain = append(plain, bareChange(t, b, want, addrPort(fmt.Sprintf("10.251.0.%d:8080", i+1)))...)
		}
	})
	slices.Sort(all)
	slices.Sort(plain)
	return all[len(all)/2], plain[len(plain)/2]
}

// withEndpoint is a State whose first service has an endpoint more.
func withEndpoint(want *proxier.State, ep netip.AddrPort) *proxier.State {
	next := *want
	next.Services = slices.Clone(want.Services)
	s := *next.Services[0]
	s.Cluster = append(slices.Clone(s.Cluster), proxier.Endpoint{Addr: ep})
	next.Services[0] = &s
	return &next
}

// bareChange makes by hand the calls that such a change takes: a destination of the
// ClusterIP and one of the short way, and an entry of KUBE-LOOP-BACK.
func bareChange(t *testing.T, b *Backend, want *proxier.State, ep netip.AddrPort) (took []time.Duration) {
	first := want.Services[0]
	keys := []vs.Key{vs.At(first.Protocol, first.Frontends[0].Addr),
		vs.At(first.Protocol, netip.AddrPortFrom(alternate(first.Frontends[1].Addr.Addr()), first.Frontends[1].Addr.Port()))}
	d := vs.Destination{Addr: ep, Weight: 1}
	set := hairpins.name(want.Family)
	entries := []ipset.Entry{{Addr: ep.Addr(), Protocol: first.Protocol, Port: ep.Port(), Addr2: ep.Addr()}}
	for _, step := range []func() error{
		func() error {
			return errors.Join(b.sets.Change(set, entries, nil), b.servers.AddDestination(keys[0], d), b.servers.AddDestination(keys[1], d))
		},
		func() error {
			return errors.Join(b.servers.DeleteDestination(keys[0], d), b.servers.DeleteDestination(keys[1], d), b.sets.Change(set, nil, entries))
		},
	} {
		start := time.Now()
		if err := step(); err != nil {
			t.Error(err)
		}
		took = append(took, time.Since(start))
	}
	return took
}

// testConnect: how long a connection takes until its endpoint has answered, among few
// Services and among many, in turn.
func testConnect(t *testing.T) {
	few, many := street(t, 10), street(t, 5000)
	within(t, []float64{maxConnect}, func() []float64 { return []float64{connectRatio(t, few, many)} })
}

func connectRatio(t *testing.T, few, many netns.NsHandle) float64 {
	var quick, slow []time.Duration
	for range 500 {
		quick, slow = append(quick, connect(t, few)), append(slow, connect(t, many))
	}
	slices.Sort(quick)
	slices.Sort(slow)
	among10, among5000 := quick[len(quick)/2], slow[len(slow)/2]
	t.Logf("an endpoint answers after %s among 10 Services, %s among 5,000, ratio %.2f", among10, among5000, ratio(among5000, among10))
	return ratio(among5000, among10)
}

// street is a network namespace with n Services beside the one that is asked.
func street(t *testing.T, n int) netns.NsHandle {
	t.Helper()
	netlab.Alone(t)
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = here.Close() })
	hall(t)
	apply(t, realBackend(t), stateOf(append(many(n), clusterIP("web", "172.29.0.1:80", proxier.TCP, endpointsOfHall...))...))
	return here
}

func connect(t *testing.T, in netns.NsHandle) time.Duration {
	t.Helper()
	if err := netns.Set(in); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	c, _, err := dial(addr("10.181.1.1"), "172.29.0.1:80", 10*time.Second)
	took := time.Since(start)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	return took
}
