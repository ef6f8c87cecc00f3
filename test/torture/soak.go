package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"switchyard/proxier"
	"switchyard/test/netlab"
)

const (
	soakServices = 2000
	idleServices = 10_000
	// soakFiles is how many files they are in: an edit reads one of them.
	soakFiles = 200
	// soakChange is how often an endpoint changes.
	soakChange = 200 * time.Millisecond
	// idleAfter is how long after its sync a proxy is idle: it compares once what it
	// wrote, since the other family wrote beside it. idleWatch is for how long its
	// processor time is taken.
	idleAfter, idleWatch = time.Minute, time.Minute
	// idleShare is what it may use of a core, in percent.
	idleShare = 1
	// ticks is how many of /proc's units of processor time a second has.
	ticks = 100
)

// usage is what the proxy uses at one time.
type usage struct {
	at                               time.Time
	rss, goroutines, files, netlinks float64
	cpu                              time.Duration
}

// soak changes endpoints among 2,000 Services all the time and prints how what the
// proxy uses grows; then what it uses of a core with 10,000 and nothing to do.
func soak(ctx context.Context, o options, w io.Writer) error {
	var err error
	if !o.idle {
		err = soakBusy(ctx, o, w)
	}
	if err != nil && !errors.Is(err, errBroken) {
		return err
	}
	return errors.Join(err, soakIdle(ctx, o, w))
}

func soakBusy(ctx context.Context, o options, w io.Writer) (err error) {
	st, err := soakStage(ctx, o, soakServices)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	sleep(ctx, 5*time.Second)
	// A tenth of the time is for what fills up once: pools, caches.
	warm, end := time.Now().Add(o.soak/10), time.Now().Add(o.soak)
	var seen []usage
	for n := 0; time.Now().Before(end) && ctx.Err() == nil; n++ {
		if err := st.publishSoak(n%soakFiles, soakServices, n/soakFiles+1); err != nil {
			return err
		}
		if time.Now().After(warm) && n%10 == 0 {
			u, err := st.usage()
			if err != nil {
				return err
			}
			seen = append(seen, u)
		}
		sleep(ctx, soakChange)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return printSlopes(w, seen)
}

// growth is how much more than at the start there may be at the end: a part of it, or a
// few.
var growth = []struct {
	name  string
	of    func(usage) float64
	share float64
	few   float64
}{
	{"RSS, MiB", func(u usage) float64 { return u.rss / (1 << 20) }, 0.1, 10},
	{"goroutines", func(u usage) float64 { return u.goroutines }, 0, 5},
	{"file descriptors", func(u usage) float64 { return u.files }, 0, 5},
	{"netlink sockets", func(u usage) float64 { return u.netlinks }, 0, 3},
}

func printSlopes(w io.Writer, seen []usage) error {
	if len(seen) < 2 {
		return errors.New("soak: too short for a slope")
	}
	var broken error
	first, last := seen[0], seen[len(seen)-1]
	hours := last.at.Sub(first.at).Hours()
	for _, g := range growth {
		slope := slope(seen, g.of)
		fmt.Fprintf(w, "  %-18s %.1f at first, %.1f at last, %+.2f an hour\n", g.name, g.of(first), g.of(last), slope)
		if more := slope * hours; more > max(g.few, g.share*g.of(first)) {
			fmt.Fprintf(w, "  ✘ %s grew by %.1f in %s\n", g.name, more, last.at.Sub(first.at).Round(time.Second))
			broken = errBroken
		}
	}
	fmt.Fprintf(w, "  processor          %.2f %% of a core, at a change every %s\n",
		100*(last.cpu-first.cpu).Seconds()/last.at.Sub(first.at).Seconds(), soakChange)
	return broken
}

// slope is the growth in an hour, by least squares.
func slope(seen []usage, of func(usage) float64) float64 {
	var sx, sy, sxx, sxy float64
	for _, u := range seen {
		x, y := u.at.Sub(seen[0].at).Hours(), of(u)
		sx, sy, sxx, sxy = sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	n := float64(len(seen))
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}

func soakIdle(ctx context.Context, o options, w io.Writer) (err error) {
	st, err := soakStage(ctx, o, idleServices)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	var wait sync.WaitGroup
	defer wait.Wait()
	var share float64
	for _, look := range []struct {
		name string
		wait time.Duration
	}{{"settling", idleAfter}, {"idle", idleWatch}} {
		before, err := st.usage()
		if err != nil {
			return err
		}
		if o.profile != "" && look.name == "idle" {
			wait.Go(func() { st.saveProfile(o.profile, w) })
		}
		sleep(ctx, look.wait)
		now, err := st.usage()
		if err != nil {
			return err
		}
		share = 100 * (now.cpu - before.cpu).Seconds() / now.at.Sub(before.at).Seconds()
		fmt.Fprintf(w, "  %-8s at %d  %.2f %% of a core for %s, programs run by it counted; RSS %.0f MiB\n",
			look.name, idleServices, share, look.wait, now.rss/(1<<20))
	}
	if share >= idleShare {
		return errBroken
	}
	return ctx.Err()
}

// soakStage is a node with that many Services in sync, and nobody who connects.
func soakStage(ctx context.Context, o options, services int) (*stage, error) {
	st := &stage{pace: thisPace(), history: &history{pace: thisPace()}}
	err := st.soak(ctx, o, services)
	if err != nil {
		return nil, errors.Join(err, st.close())
	}
	return st, nil
}

func (st *stage) soak(ctx context.Context, o options, services int) (err error) {
	if st.kernel, err = newKernel(o.mode, o.flavour); err != nil {
		return err
	}
	if st.dir, err = os.MkdirTemp("", "switchyard-torture-"); err != nil {
		return err
	}
	files, err := newFiles(st.dir)
	if err != nil {
		return err
	}
	st.source = files
	for i := range soakFiles {
		if err := st.publishSoak(i, services, 0); err != nil {
			return err
		}
	}
	if st.lab, err = netlab.NewCluster("soak"); err != nil {
		return err
	}
	if st.wrap, err = newWrap(filepath.Join(st.dir, "wrap"), st.kernel.programs()); err != nil {
		return err
	}
	if st.proxy, err = newProxy(st.lab.Host(netlab.NodeA), o.binary, filepath.Join(st.dir, logFile)); err != nil {
		return err
	}
	st.proxy.env = st.wrap.env()
	st.proxy.args = append(append([]string{"run", "--profiling"}, common(o.mode)...), files.args()...)
	return st.awaitSoak(ctx)
}

// awaitSoak starts the proxy and waits until it has programmed everything.
func (st *stage) awaitSoak(ctx context.Context) error {
	if err := st.proxy.start(); err != nil {
		return err
	}
	for start := time.Now(); ; sleep(ctx, 100*time.Millisecond) {
		_, ok := st.proxy.synced()
		switch {
		case ok:
			return ctx.Err()
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Since(start) > 5*time.Minute || !st.proxy.running():
			return fmt.Errorf("soak: not in sync; the proxy said:%s", st.proxy.tail())
		}
	}
}

// publishSoak writes one file's share of the Services; turn moves their endpoints.
func (st *stage) publishSoak(file, services, turn int) error {
	var objects []any
	for i := file; i < services; i += soakFiles {
		at := uint32(i)
		vip := netip.AddrFrom4([4]byte{172, 30, byte(at >> 8), byte(at)})
		meta := metav1.ObjectMeta{Namespace: "soak", Name: fmt.Sprintf("s-%05d", i)}
		objects = append(objects, &corev1.Service{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: meta,
			Spec: corev1.ServiceSpec{ClusterIP: vip.String(), Ports: []corev1.ServicePort{
				{Name: portNames[0], Port: 80, Protocol: protocols[0]}, {Name: portNames[1], Port: 53, Protocol: protocols[1]}}},
		}, soakSlice(meta, i, turn))
	}
	return st.source.put(fmt.Sprintf("soak-%03d", file), objects...)
}

func soakSlice(meta metav1.ObjectMeta, i, turn int) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		TypeMeta:   metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: meta, AddressType: discoveryv1.AddressType(proxier.IPv4.String()),
	}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: meta.Name}
	port := int32(firstTarget)
	for n, protocol := range protocols {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &portNames[n], Protocol: &protocol, Port: &port})
	}
	for j := range 2 {
		n := i*3 + (j+turn)%3 + 1
		addr := netip.AddrFrom4([4]byte{10, 180, byte(2 + n>>8), byte(n)})
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{addr.String()}})
	}
	return slice
}

// usage reads what the proxy uses now.
func (st *stage) usage() (u usage, err error) {
	proc := fmt.Sprintf("/proc/%d", st.proxy.pid())
	u.at = time.Now()
	stat, err := os.ReadFile(proc + "/stat")
	if err != nil {
		return u, fmt.Errorf("the proxy ended by itself: %w; it said:%s", err, st.proxy.tail())
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	words := strings.Fields(rest) // from the third field, proc(5)
	pages, _ := strconv.Atoi(words[21])
	for _, word := range words[11:15] { // its own, and that of programs that ended
		n, _ := strconv.Atoi(word)
		u.cpu += time.Duration(n) * time.Second / ticks
	}
	u.rss = float64(pages * os.Getpagesize())
	open, err := os.ReadDir(proc + "/fd")
	if err != nil {
		return u, err
	}
	u.files = float64(len(open))
	u.netlinks = float64(netlinkSockets(proc))
	u.goroutines, err = st.metric("go_goroutines")
	return u, err
}

// netlinkSockets counts those of the process's namespace that are its own.
func netlinkSockets(proc string) (n int) {
	text, _ := os.ReadFile(proc + "/net/netlink")
	inodes := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 9 {
			inodes["socket:["+f[9]+"]"] = true
		}
	}
	open, _ := os.ReadDir(proc + "/fd")
	for _, fd := range open {
		if to, err := os.Readlink(filepath.Join(proc, "fd", fd.Name())); err == nil && inodes[to] {
			n++
		}
	}
	return n
}

// saveProfile writes down what an idle proxy does.
func (st *stage) saveProfile(path string, w io.Writer) {
	body, err := st.get(fmt.Sprintf("/debug/pprof/profile?seconds=%d", int(idleWatch.Seconds())))
	if err == nil {
		err = os.WriteFile(path, body, 0o644)
	}
	if err != nil {
		fmt.Fprintln(w, "  no profile:", err)
	}
}

// metric reads one of the proxy's metrics that has no labels.
func (st *stage) metric(name string) (float64, error) {
	body, err := st.get("/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("the proxy has no metric %s", name)
}

// get asks the proxy's metrics server.
func (st *stage) get(path string) ([]byte, error) {
	client := http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return st.proxy.host.Dial(ctx, network, netip.AddrPort{}, netip.MustParseAddrPort(addr))
		}}}
	resp, err := client.Get("http://127.0.0.1:10249" + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}
