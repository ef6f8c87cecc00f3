package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"switchyard/iptables"
	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/proxier/cluster"
	"switchyard/proxier/compile"
	"switchyard/test/netlab"
)

// The addresses of a cluster at scale: ClusterIPs as an API server gives them
// out, all over a /12, and endpoints side by side in a /10.
var (
	scaleVIPs = netip.MustParsePrefix("10.96.0.0/12")
	scalePods = netip.MustParsePrefix("10.128.0.0/10")
)

// scaleService is the i-th Service and its slice of m endpoints. Its ClusterIP is
// spread over the range by a constant that has no factor in common with its size.
func scaleService(i, m int) (*corev1.Service, *discoveryv1.EndpointSlice) {
	vip := nth(scaleVIPs, uint32(i)*2654435761%(1<<20))
	name := fmt.Sprintf("service-%05d", i)
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "scale", Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: vip.String(), ClusterIPs: []string{vip.String()},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "scale", Name: name + "-x",
			Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Protocol: new(corev1.ProtocolTCP), Port: new(int32(8080))}},
	}
	for j := range m {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{nth(scalePods, uint32(i*m+j)).String()},
			NodeName:  new(fmt.Sprintf("node-%d", (i+j)%100)),
		})
	}
	return svc, slice
}

// nth is an address of a range, counted from its first usable one.
func nth(p netip.Prefix, n uint32) netip.Addr {
	b := p.Addr().As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += n + 1
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

func scaleStore(n, m int) *cluster.Store {
	store := cluster.NewStore("node-0")
	for i := range n {
		svc, slice := scaleService(i, m)
		store.SetService(svc)
		store.SetSlice(slice)
	}
	return store
}

var scaleNode = proxier.Node{
	Name: "node-0", PodRanges: []netip.Prefix{scalePods},
	NodePorts: proxier.NodePorts{Any: true, Localhost: true},
	Local:     []netip.Addr{netip.MustParseAddr("192.168.0.2")},
}

func scaleState(n, m int) *proxier.State {
	return compile.New(proxier.IPv4, compile.Options{}).Compile(scaleStore(n, m).Snapshot(), scaleNode)
}

// BenchmarkCompileAndRenderAll is a start at 10,000 services of 5 endpoints,
// without the kernel, on one core: from a snapshot to the text for
// iptables-restore.
func BenchmarkCompileAndRenderAll(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	snap := scaleStore(10_000, 5).Snapshot()
	for b.Loop() {
		state := compile.New(proxier.IPv4, compile.Options{}).Compile(snap, scaleNode)
		text, err := iptables.RenderIn(state, proxier.Settings{MasqueradeBit: 14}, 2000)
		if err != nil || len(text) < 1<<20 {
			b.Fatal(len(text), err)
		}
	}
}

// inNamespace runs f on a host of its own.
func inNamespace(b testing.TB, f func() error) {
	b.Helper()
	lab, err := netlab.New("scale")
	if err != nil {
		b.Fatal(err)
	}
	defer lab.Close()
	host, err := lab.AddHost("node")
	if err != nil {
		b.Fatal(err)
	}
	if err := host.Do(f); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkColdLoad is a first Apply of 10,000 services of 2 endpoints, beside
// the best that iptables-restore does with the same rules, and in how many rules
// a COMMIT that is; both from a fresh namespace, one after the other.
func BenchmarkColdLoad(b *testing.B) {
	state := scaleState(10_000, 2)
	settings := proxier.Settings{MasqueradeBit: 14}
	for _, f := range []struct {
		flavour ruleset.Flavour
		sizes   []int
	}{{ruleset.NFT, []int{1000, 2000, 4000}}, {ruleset.Legacy, []int{0}}} {
		b.Run(string(f.flavour), func(b *testing.B) {
			var ours, bare []float64
			for b.Loop() {
				inNamespace(b, func() error { return timeApply(&ours, f.flavour, state, settings) })
				best := 0.0
				for _, size := range f.sizes {
					var took []float64
					inNamespace(b, func() error { return timeRestore(&took, f.flavour, state, settings, size) })
					if best == 0 || took[0] < best {
						best = took[0]
					}
				}
				bare = append(bare, best)
			}
			b.ReportMetric(median(ours), "s/apply")
			b.ReportMetric(median(bare), "s/restore")
			b.ReportMetric(median(ours)/median(bare), "ratio")
		})
	}
}

func timeApply(took *[]float64, flavour ruleset.Flavour, state *proxier.State, s proxier.Settings) error {
	tool, err := ruleset.Find(context.Background(), state.Family, flavour)
	if err != nil {
		return err
	}
	backend := iptables.New(tool, s)
	start := time.Now()
	report, err := backend.Apply(context.Background(), state)
	*took = append(*took, time.Since(start).Seconds())
	if err == nil && len(report.SetAside) > 0 {
		err = report.SetAside[0].Reason
	}
	return err
}

// timeRestore feeds the same chains to iptables-restore, in COMMITs of so many
// rules, chains that others point at first; the ways to them come in the last one.
func timeRestore(took *[]float64, flavour ruleset.Flavour, state *proxier.State, s proxier.Settings, perCommit int) error {
	tool, err := ruleset.Find(context.Background(), state.Family, flavour)
	if err != nil {
		return err
	}
	input, err := iptables.RenderIn(state, s, perCommit)
	if err != nil {
		return err
	}
	last := bytes.LastIndex(input, []byte("COMMIT\n"))
	input = append(input[:last:last], "-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n"+
		"-A POSTROUTING -j KUBE-POSTROUTING\nCOMMIT\n"...)
	start := time.Now()
	err = tool.Restore(context.Background(), input)
	*took = append(*took, time.Since(start).Seconds())
	return err
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// BenchmarkFirstConnect is the time of a TCP connect through a ClusterIP on a
// node with 10,000 services and on one with 10, in turns.
func BenchmarkFirstConnect(b *testing.B) {
	const connects = 2000
	for _, flavour := range []ruleset.Flavour{ruleset.NFT, ruleset.Legacy} {
		b.Run(string(flavour), func(b *testing.B) {
			small, big := newAvenue(b, flavour, 10), newAvenue(b, flavour, 10_000)
			var few, many []float64
			for b.Loop() {
				for i := range connects {
					few = append(few, small.connect(b, i))
					many = append(many, big.connect(b, i))
				}
			}
			b.ReportMetric(median(few)*1e6, "µs/10")
			b.ReportMetric(median(many)*1e6, "µs/10000")
			b.ReportMetric(median(many)/median(few), "ratio")
		})
	}
}

// avenue is a client, a node with n services, and a server that answers at every
// endpoint's address.
type avenue struct {
	client *netlab.Host
	n      int
}

func newAvenue(b *testing.B, flavour ruleset.Flavour, n int) *avenue {
	b.Helper()
	lab, err := netlab.New(fmt.Sprintf("avenue%d", n))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { lab.Close() })
	a := &avenue{n: n}
	hosts := map[string]*netlab.Host{}
	for _, name := range []string{"client", "node", "server"} {
		if hosts[name], err = lab.AddHost(name); err != nil {
			b.Fatal(err)
		}
	}
	a.client = hosts["client"]
	pave(b, hosts)
	err = hosts["node"].Do(func() error {
		var took []float64
		return timeApply(&took, flavour, scaleState(n, 2), proxier.Settings{MasqueradeBit: 14})
	})
	if err != nil {
		b.Fatal(err)
	}
	l, err := hosts["server"].Listen("tcp", "0.0.0.0:8080")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	return a
}

// pave joins client, node and server in a row.
func pave(b *testing.B, hosts map[string]*netlab.Host) {
	b.Helper()
	prefix := netip.MustParsePrefix
	addr := netip.MustParseAddr
	node := hosts["node"]
	check := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	check(netlab.Wire(netlab.End{Host: hosts["client"], Device: "eth0"}, netlab.End{Host: node, Device: "out"}))
	check(netlab.Wire(netlab.End{Host: hosts["server"], Device: "eth0"}, netlab.End{Host: node, Device: "in"}))
	check(hosts["client"].AddAddr("eth0", prefix("192.168.1.2/24")))
	check(node.AddAddr("out", prefix("192.168.1.1/24")))
	check(node.AddAddr("in", prefix("192.168.2.1/24")))
	check(hosts["server"].AddAddr("eth0", prefix("192.168.2.2/24")))
	check(node.Sysctl(netlab.Setting{Path: "net/ipv4/ip_forward", Value: "1"}))
	anywhere := prefix("0.0.0.0/0")
	check(hosts["client"].AddRoute(netlab.Route{To: anywhere, Device: "eth0", Via: addr("192.168.1.1")}))
	check(hosts["server"].AddRoute(netlab.Route{To: anywhere, Device: "eth0", Via: addr("192.168.2.1")}))
	check(node.AddRoute(netlab.Route{To: scalePods, Device: "in", Via: addr("192.168.2.2")}))
	_, err := hosts["server"].Output(context.Background(), "ip", "route", "add", "local", scalePods.String(), "dev", "lo")
	check(err)
}

// connect is the time of one connect, in seconds, to a service that differs from
// one i to the next. It blocks in the system call: no scheduler is measured.
func (a *avenue) connect(b *testing.B, i int) float64 {
	svc, _ := scaleService(i*7919%a.n, 0)
	dst := &unix.SockaddrInet4{Port: 80, Addr: netip.MustParseAddr(svc.Spec.ClusterIP).As4()}
	var took time.Duration
	err := a.client.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		start := time.Now()
		err = unix.Connect(fd, dst)
		took = time.Since(start)
		return errors.Join(err, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	})
	if err != nil {
		b.Fatalf("connect to %s: %v", svc.Spec.ClusterIP, err)
	}
	return took.Seconds()
}
