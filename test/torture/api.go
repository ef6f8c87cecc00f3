package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"switchyard/test/kubeapi"
	"switchyard/test/netlab"
)

const (
	// apiLimit is how long a request to the API server may take, its start included.
	apiLimit = time.Minute
	// apiPort is where the proxy finds the relay.
	apiPort = 8080
)

// apiAddr is the control plane's address, on the network of the nodes.
var apiAddr = netip.MustParseAddr("192.168.0.10")

// api is a real API server, of which the proxy knows only what passes a relay that fails.
//
//	player ─put─► kube-apiserver ◄── relay ◄── kube-proxy
//	                                 stops, lags, repeats, closes, forgets
type api struct {
	server *kubeapi.Server
	client kubernetes.Interface
	relay  *relay
	config string           // the proxy's kubeconfig
	last   map[string][]any // what was put by each name
}

func newAPI(lab *netlab.Cluster, dir, binary string) (a *api, err error) {
	a = &api{last: map[string][]any{}, config: filepath.Join(dir, "kubeconfig")}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	host, err := controlPlane(lab)
	if err != nil {
		return a, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), apiLimit)
	defer cancel()
	a.server, err = kubeapi.Start(ctx, kubeapi.Options{
		Host: host, Addr: apiAddr, Dir: dir, Binary: binary, ServiceCIDRs: "172.30.0.0/16,fd00:172:30::/108",
	})
	if err != nil {
		return a, err
	}
	config, err := a.server.Config(a.server.Kubeconfig())
	if err != nil {
		return a, err
	}
	config.WarningHandler = rest.NoWarnings{}
	if a.client, err = kubernetes.NewForConfig(config); err != nil {
		return a, err
	}
	if a.relay, err = newRelay(host, netip.AddrPortFrom(apiAddr, apiPort), config); err != nil {
		return a, err
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://%s:%d"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
users: [{name: u, user: {}}]
`, apiAddr, apiPort)
	return a, os.WriteFile(a.config, []byte(text), 0o600)
}

// controlPlane is a host beside the nodes.
func controlPlane(lab *netlab.Cluster) (*netlab.Host, error) {
	host, err := lab.AddHost("cp")
	if err != nil {
		return nil, err
	}
	fabric := lab.Host("fabric")
	return host, errors.Join(
		netlab.Wire(netlab.End{Host: host, Device: netlab.Uplink}, netlab.End{Host: fabric, Device: "cp"}),
		fabric.Plug("cp", "br0"), host.AddAddr(netlab.Uplink, netip.PrefixFrom(apiAddr, 24)))
}

func (a *api) args() []string { return []string{"--kubeconfig", a.config} }

// own are the objects that the server has by itself.
func (a *api) own() (objects []any, cidr *networkingv1.ServiceCIDR, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), apiLimit)
	defer cancel()
	for ; err == nil && ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		svc, errS := a.client.CoreV1().Services(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
		slice, errE := a.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
		cidr, errC := a.client.NetworkingV1().ServiceCIDRs().Get(ctx, "kubernetes", metav1.GetOptions{})
		if err = errors.Join(errS, errE, errC); apierrors.IsNotFound(errS) || apierrors.IsNotFound(errE) || apierrors.IsNotFound(errC) {
			err = nil // not yet
			continue
		}
		svc.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}
		slice.TypeMeta = metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}
		return []any{svc, slice}, cidr, err
	}
	return nil, nil, errors.Join(err, ctx.Err())
}

// put brings what was put by a name before to what it is now: endpoints come before
// the Service that leads to them, and go after it.
func (a *api) put(name string, objects ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), apiLimit)
	defer cancel()
	before := a.last[name]
	a.last[name] = objects
	for _, slices := range []bool{true, false} {
		for _, o := range objects {
			if _, is := o.(*discoveryv1.EndpointSlice); is == slices && !contains(before, o) {
				if err := a.write(ctx, o); err != nil {
					return fmt.Errorf("write %T: %w", o, err)
				}
			}
		}
	}
	for _, o := range before { // the Service is the first
		if !slices.ContainsFunc(objects, func(n any) bool { return nameOf(n) == nameOf(o) }) {
			if err := a.remove(ctx, o); err != nil {
				return fmt.Errorf("delete %T: %w", o, err)
			}
		}
	}
	return nil
}

// replaces reports whether the Service that was put by a name is another one now.
func (a *api) replaces(name string, objects []any) bool {
	before := a.last[name]
	return len(before) > 0 && len(objects) > 0 && nameOf(before[0]) != nameOf(objects[0])
}

func contains(list []any, o any) bool {
	return slices.ContainsFunc(list, func(n any) bool { return reflect.DeepEqual(n, o) })
}

func nameOf(o any) string {
	if m, ok := o.(metav1.Object); ok {
		return fmt.Sprintf("%T %s", o, m.GetName())
	}
	return ""
}

// write creates or updates an object, its status too.
func (a *api) write(ctx context.Context, o any) error {
	switch o := o.(type) {
	case *corev1.Service:
		return a.writeService(ctx, o.DeepCopy())
	case *discoveryv1.EndpointSlice:
		c := a.client.DiscoveryV1().EndpointSlices(o.Namespace)
		return createOrUpdate(func() error { _, err := c.Create(ctx, o, metav1.CreateOptions{}); return err },
			func() error { _, err := c.Update(ctx, o, metav1.UpdateOptions{}); return err })
	case *corev1.Node:
		c := a.client.CoreV1().Nodes()
		err := createOrUpdate(func() error { _, err := c.Create(ctx, o, metav1.CreateOptions{}); return err },
			func() error { _, err := c.Update(ctx, o, metav1.UpdateOptions{}); return err })
		if err == nil {
			_, err = c.UpdateStatus(ctx, o, metav1.UpdateOptions{})
		}
		return err
	}
	return errors.New("of a kind that is not known")
}

func createOrUpdate(create, update func() error) error {
	err := create()
	if apierrors.IsAlreadyExists(err) {
		return update()
	}
	return err
}

func (a *api) writeService(ctx context.Context, o *corev1.Service) error {
	c := a.client.CoreV1().Services(o.Namespace)
	// To create what is there already fails for its addresses first.
	is, err := c.Get(ctx, o.Name, metav1.GetOptions{})
	switch {
	case err == nil:
		o.ResourceVersion, o.UID = is.ResourceVersion, is.UID
		is, err = c.Update(ctx, o.DeepCopy(), metav1.UpdateOptions{})
	case apierrors.IsNotFound(err):
		is, err = c.Create(ctx, o.DeepCopy(), metav1.CreateOptions{})
	}
	if err != nil || reflect.DeepEqual(is.Status.LoadBalancer, o.Status.LoadBalancer) {
		return err
	}
	is.Status.LoadBalancer = o.Status.LoadBalancer
	_, err = c.UpdateStatus(ctx, is, metav1.UpdateOptions{})
	return err
}

func (a *api) remove(ctx context.Context, o any) error {
	var err error
	switch o := o.(type) {
	case *corev1.Service:
		err = a.client.CoreV1().Services(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{})
	case *discoveryv1.EndpointSlice:
		err = a.client.DiscoveryV1().EndpointSlices(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{})
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (a *api) close() error {
	var errs []error
	if a.relay != nil {
		errs = append(errs, a.relay.close())
	}
	if a.server != nil {
		errs = append(errs, a.server.Close())
	}
	return errors.Join(errs...)
}
