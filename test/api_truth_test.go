package test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/proxier/proxiertest"
	"switchyard/test/kubeapi"
	"switchyard/test/netlab"
	"switchyard/test/subject"
)

// TestTruthAPI plays the scenarios with the built binary on node-a, which gets them
// from a real API server: each object is written to it, real packets are sent. What
// the API server does not take (tag legacy) and what it owns itself
// (default/kubernetes) cannot come this way.
func TestTruthAPI(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	apiserver, err := filepath.Abs("../bin/kube-apiserver")
	if _, statErr := os.Stat(apiserver); err != nil || statErr != nil {
		t.Skip("missing: bin/kube-apiserver; build it in test/apiserver")
	}
	d := &director{t: t, written: map[string]func(context.Context) error{}, namespaces: map[string]bool{"default": true, "kube-system": true}}
	d.theatre = newTheatre(t, troupe{flavour: ruleset.NFT, perform: d.perform})
	d.open(apiserver)
	refused := 0
	for _, s := range scenarios(t) {
		owned := func(s *corev1.Service) bool { return s.Name == "kubernetes" && s.Namespace == "default" }
		if slices.ContainsFunc(objectsOf(t, s).Services, owned) {
			continue
		}
		if s.Has("feature legacy") || slices.Contains(notTaken, s.Name) {
			refused++
			continue
		}
		t.Run(s.Name, func(t *testing.T) { d.play(t, s) })
	}
	t.Logf("%d packets sent, %d scenarios of objects that an API server does not take today", d.sent, refused)
	if d.sent < 900 || refused > 9 {
		t.Errorf("%d packets were sent, %d scenarios left out", d.sent, refused)
	}
}

// notTaken are further scenarios of objects that an API server does not take today:
// two Services with one node port number, and ranges with host bits.
var notTaken = []string{"conflict-nodeport", "lb-shared-address", "lb-source-ranges-host-bits", "nodeport-same-number-protocols"}

// director has the scenarios performed by way of an API server.
type director struct {
	*theatre
	t      *testing.T
	server *kubeapi.Server
	client kubernetes.Interface
	binary string

	flags      []string // of the program that runs
	stop       func()
	written    map[string]func(context.Context) error // how to delete what was written
	namespaces map[string]bool
	marks      int
}

var apiServerAddr = netip.MustParseAddr("192.168.0.10")

// open starts the API server beside the nodes.
func (d *director) open(apiserver string) {
	t := d.t
	host, err := d.AddHost("cp")
	must(t, err)
	fabric := d.Host("fabric")
	must(t, errors.Join(
		netlab.Wire(netlab.End{Host: host, Device: netlab.Uplink}, netlab.End{Host: fabric, Device: "cp"}),
		fabric.Plug("cp", "br0"), host.AddAddr(netlab.Uplink, netip.PrefixFrom(apiServerAddr, 24))))
	d.binary = subject.Build(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	d.server, err = kubeapi.Start(ctx, kubeapi.Options{
		Host: host, Addr: apiServerAddr, Dir: t.TempDir(), Binary: apiserver,
		ServiceCIDRs: "172.30.0.0/16,fd00:172:30::/112",
	})
	must(t, err)
	t.Cleanup(func() {
		if d.stop != nil {
			d.stop()
		}
		must(t, syscall.Kill(d.server.Pid(), syscall.SIGKILL)) // it takes ten seconds else
		must(t, errors.Join(d.server.StopAPI(), d.server.Close()))
	})
	config, err := d.server.Config(d.server.Kubeconfig())
	must(t, err)
	config.ContentType = runtime.ContentTypeProtobuf
	d.client, err = kubernetes.NewForConfig(config)
	must(t, err)
}

// perform writes a scenario's objects and waits until the program has them all.
func (d *director) perform(t *testing.T, s proxiertest.Scenario) {
	t.Helper()
	d.clear(t)
	objects := objectsOf(t, s)
	for _, o := range withNodeA(objects.Nodes) {
		must(t, d.node(o))
	}
	for _, o := range objects.Services {
		must(t, d.service(o))
	}
	for _, o := range objects.Slices {
		must(t, d.slice(o))
	}
	d.cast(t, s)
	d.mark(t)
}

// withNodeA gives node-a an address where a scenario does not care: a proxy waits for it
// half a minute.
func withNodeA(nodes []*corev1.Node) []*corev1.Node {
	i := slices.IndexFunc(nodes, func(n *corev1.Node) bool { return n.Name == proxiertest.NodeName })
	if i < 0 {
		nodes = append(nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: proxiertest.NodeName}})
		i = len(nodes) - 1
	}
	if len(nodes[i].Status.Addresses) == 0 {
		for _, f := range families {
			nodes[i].Status.Addresses = append(nodes[i].Status.Addresses,
				corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: proxiertest.LabOf(f).Node.String()})
		}
	}
	return nodes
}

func (d *director) clear(t *testing.T) {
	t.Helper()
	for name, remove := range d.written {
		if err := remove(t.Context()); err != nil && !apierrors.IsNotFound(err) {
			t.Fatalf("delete %s: %v", name, err)
		}
	}
	clear(d.written)
}

// cast starts the program with the scenario's flags, if it does not run with them.
func (d *director) cast(t *testing.T, s proxiertest.Scenario) {
	t.Helper()
	flags := append(arguments(s.Flags),
		"--kubeconfig="+d.server.Kubeconfig(), "--iptables-min-sync-period=0s", "--metrics-bind-address=")
	if slices.Equal(flags, d.flags) {
		return
	}
	if d.stop != nil {
		d.stop()
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := d.Host(netlab.NodeA).Command(ctx, d.binary, flags...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	var log strings.Builder
	cmd.Stderr = &log
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	d.flags, d.stop = flags, func() {
		cancel()
		<-ended
		if d.t.Failed() {
			d.t.Logf("log of %q:\n%s", flags, log.String())
		}
	}
}

// mark writes a Service that nobody asked for, after all others, and waits until
// node-a answers there in both families: what came before it is programmed then.
func (d *director) mark(t *testing.T) {
	t.Helper()
	d.marks++
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "zz-mark"}}
	svc.Spec.Ports = []corev1.ServicePort{{Port: 80}}
	svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	both := corev1.IPFamilyPolicyRequireDualStack
	svc.Spec.IPFamilyPolicy = &both
	var vips []netip.AddrPort
	for _, f := range families {
		lab := proxiertest.LabOf(f)
		vip := lab.ClusterIPs.Addr().As16()
		vip[14], vip[15] = 0xf0|byte(d.marks>>8), byte(d.marks)
		addr := netip.AddrFrom16(vip)
		if f == proxier.IPv4 {
			addr = addr.Unmap()
		}
		vips = append(vips, netip.AddrPortFrom(addr, 80))
		svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, addr.String())
	}
	svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
	must(t, d.service(svc))
	for i, f := range families {
		pod := netip.AddrPortFrom(proxiertest.LabOf(f).PodAt(9), 8081)
		d.serve(t, proxier.TCP, pod)
		name, port := "", int32(8081)
		must(t, d.slice(&discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("zz-mark-%d", i),
				Labels: map[string]string{discoveryv1.LabelServiceName: "zz-mark"}},
			AddressType: discoveryv1.AddressType(f.String()),
			Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{pod.Addr().String()}}},
		}))
	}
	for _, vip := range vips {
		d.await(t, vip)
	}
}

func (d *director) await(t *testing.T, vip netip.AddrPort) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		p := netlab.Probe{Protocol: proxier.TCP, Dst: vip, Timeout: 100 * time.Millisecond}
		if d.Host(netlab.NodeA).Probe(t.Context(), p).Verdict == netlab.Answered {
			return
		}
	}
	t.Fatalf("%s never answers", vip)
}

func (d *director) node(n *corev1.Node) error {
	api, status := d.client.CoreV1().Nodes(), n.Status
	made, err := api.Create(d.t.Context(), n, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	d.written["Node "+n.Name] = func(ctx context.Context) error { return api.Delete(ctx, n.Name, metav1.DeleteOptions{}) }
	made.Status = status
	_, err = api.UpdateStatus(d.t.Context(), made, metav1.UpdateOptions{})
	return err
}

func (d *director) service(s *corev1.Service) error {
	if err := d.namespace(s.Namespace); err != nil {
		return err
	}
	api, status := d.client.CoreV1().Services(s.Namespace), s.Status
	made, err := api.Create(d.t.Context(), s, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	d.written["Service "+s.Namespace+"/"+s.Name] = func(ctx context.Context) error { return api.Delete(ctx, s.Name, metav1.DeleteOptions{}) }
	if len(status.LoadBalancer.Ingress) == 0 {
		return nil
	}
	made.Status = status
	_, err = api.UpdateStatus(d.t.Context(), made, metav1.UpdateOptions{})
	return err
}

func (d *director) slice(s *discoveryv1.EndpointSlice) error {
	if err := d.namespace(s.Namespace); err != nil {
		return err
	}
	api := d.client.DiscoveryV1().EndpointSlices(s.Namespace)
	if _, err := api.Create(d.t.Context(), s, metav1.CreateOptions{}); err != nil {
		return err
	}
	d.written["EndpointSlice "+s.Namespace+"/"+s.Name] = func(ctx context.Context) error { return api.Delete(ctx, s.Name, metav1.DeleteOptions{}) }
	return nil
}

func (d *director) namespace(name string) error {
	if d.namespaces[name] {
		return nil
	}
	d.namespaces[name] = true
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	_, err := d.client.CoreV1().Namespaces().Create(d.t.Context(), ns, metav1.CreateOptions{})
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
