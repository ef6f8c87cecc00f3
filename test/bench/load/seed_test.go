package load_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"switchyard/test/bench/load"
	"switchyard/test/bench/street"
	"switchyard/test/kubeapi"
)

// What was put into etcd is what the API server answers with, as if it had been created
// through it: a Service that it is asked to create beside has the same fields, and a
// slice can be changed.
func TestFillThroughEtcd(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	binary, err := filepath.Abs("../../../bin/kube-apiserver")
	if err == nil {
		_, err = os.Stat(binary)
	}
	if err != nil {
		t.Skip("needs an API server: make bin/kube-apiserver")
	}
	plane, err := street.NewControlPlane()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	server, err := kubeapi.Start(ctx, kubeapi.Options{Host: plane.Host, Addr: street.ControlPlaneAddr,
		Dir: t.TempDir(), Binary: binary, ServiceCIDRs: load.ServiceCIDR().String()})
	if err != nil {
		t.Fatal(errors.Join(err, plane.Close()))
	}
	defer func() {
		if err := errors.Join(server.Close(), plane.Close()); err != nil {
			t.Error(err)
		}
	}()
	config, err := server.Config(server.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	sink, err := load.NewAPI(config)
	if err != nil {
		t.Fatal(err)
	}
	l, err := load.New(60, 2)
	if err == nil {
		err = sink.Fill(t.Context(), l, street.NodeAddr, func() {})
	}
	if err != nil {
		t.Fatal(err)
	}
	client := kubernetes.NewForConfigOrDie(config)
	services := client.CoreV1().Services(load.Namespace)
	list, err := services.List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 60 {
		t.Fatalf("%d services, %v", len(list.Items), err)
	}
	created, err := services.Create(t.Context(), load.Service(60), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	put := list.Items[59].DeepCopy()
	put.Spec.ClusterIP, put.Spec.ClusterIPs = created.Spec.ClusterIP, created.Spec.ClusterIPs
	if !reflect.DeepEqual(created.Spec, put.Spec) {
		t.Errorf("created: %+v\nput:     %+v", created.Spec, put.Spec)
	}
	addresses, err := client.NetworkingV1().IPAddresses().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(addresses.Items) < 61 {
		t.Errorf("%d addresses, %v", len(addresses.Items), err)
	}
	pod := l.Turn(7)
	if _, err := sink.Write(t.Context(), l, 7); err != nil {
		t.Fatal(err)
	}
	slice, err := client.DiscoveryV1().EndpointSlices(load.Namespace).Get(t.Context(), load.Name(7)+"-x", metav1.GetOptions{})
	if err != nil || slice.Endpoints[0].Addresses[0] != pod.String() {
		t.Errorf("%v, %v: want %s first", slice, err, pod)
	}
}
