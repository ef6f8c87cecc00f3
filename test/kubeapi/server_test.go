package kubeapi

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"switchyard/proxier/cluster"
	"switchyard/proxier/watch"
	"switchyard/test/netlab"
)

// started is an API server on a host of its own.
func started(t *testing.T) *Server {
	t.Helper()
	binary, _ := filepath.Abs("../../bin/kube-apiserver")
	if _, err := os.Stat(binary); err != nil {
		t.Skip("missing: bin/kube-apiserver; build it in test/apiserver")
	}
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Skip("missing: etcd; install the package etcd-server")
	}
	if os.Geteuid() != 0 {
		t.Skip("missing: root, for network namespaces")
	}
	lab, err := netlab.New("sywkubeapi")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, lab.Close()) })
	host, err := lab.AddHost("cp")
	check(t, err)
	node, err := lab.AddHost("node-a")
	check(t, err)
	check(t, netlab.Wire(netlab.End{Host: host, Device: "eth0"}, netlab.End{Host: node, Device: "eth0"}))
	check(t, host.AddAddr("eth0", netip.MustParsePrefix("192.168.0.10/24")))
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	began := time.Now()
	s, err := Start(ctx, Options{Host: host, Addr: netip.MustParseAddr("192.168.0.10"), Dir: t.TempDir(), Binary: binary})
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	t.Logf("ready after %v", time.Since(began))
	return s
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// relay makes the server reachable from the namespace of the test.
func relay(t *testing.T, s *Server) (master string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			server, err := s.dial(context.Background(), "tcp", netip.AddrPortFrom(s.options.Addr, 6443).String())
			if err != nil {
				conn.Close()
				continue
			}
			go copyAndClose(server, conn)
			go copyAndClose(conn, server)
		}
	}()
	return "https://" + l.Addr().String()
}

func copyAndClose(to, from net.Conn) {
	_, _ = io.Copy(to, from) // ends when either side does
	to.Close()
}

func TestStoreFollowsARealServer(t *testing.T) {
	s := started(t)
	master := relay(t, s)
	client, err := watch.NewClient(s.Kubeconfig(), master, watch.ClientOptions{})
	check(t, err)
	store := cluster.NewStore("node-a")
	source := watch.New(client, store, watch.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	var calls atomic.Int64
	var running sync.WaitGroup
	log := &output{t: t}
	running.Go(func() {
		_ = source.Run(ctx, func() { calls.Add(1) }, slog.New(slog.NewTextHandler(log, nil)))
	})
	defer running.Wait()
	defer cancel()
	find := func(name string) *cluster.Service {
		list := store.Snapshot().Services
		if i, ok := list.Find(cluster.Name{Namespace: "default", Name: name}); ok {
			return list.Slice()[i]
		}
		return nil
	}
	until(t, "the Service kubernetes with its slice", func() bool {
		svc := find("kubernetes")
		return calls.Load() > 0 && svc != nil && len(svc.Slices) == 1
	})

	web := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
	_, err = client.CoreV1().Services("default").Create(ctx, web, metav1.CreateOptions{})
	check(t, err)
	headless := web.DeepCopy()
	headless.Name, headless.Spec.ClusterIP = "headless", corev1.ClusterIPNone
	_, err = client.CoreV1().Services("default").Create(ctx, headless, metav1.CreateOptions{})
	check(t, err)
	name, port := "http", int32(8080)
	slices := client.DiscoveryV1().EndpointSlices("default")
	slice, err := slices.Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.180.0.2"}}},
	}, metav1.CreateOptions{})
	check(t, err)
	until(t, "web with an endpoint", func() bool {
		svc := find("web")
		return svc != nil && len(svc.Slices) == 1 && len(svc.Slices[0].Endpoints) == 1
	})
	if find("headless") != nil {
		t.Error("a headless Service is in the Store")
	}

	check(t, s.StopAPI())
	time.Sleep(3 * time.Second)
	if svc := find("web"); svc == nil || len(svc.Slices) != 1 {
		t.Fatal("the Store lost the Service while the API server was away")
	}
	again, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	check(t, s.StartAPI(again))
	back := time.Now()
	slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{"10.180.1.2"}})
	until(t, "the change is accepted", func() bool {
		_, err := slices.Update(ctx, slice, metav1.UpdateOptions{})
		return err == nil
	})
	until(t, "the second endpoint", func() bool { return len(find("web").Slices[0].Endpoints) == 2 })
	t.Logf("followed again %v after the server was ready; age %v", time.Since(back), source.Age())
	check(t, client.CoreV1().Services("default").Delete(ctx, "web", metav1.DeleteOptions{}))
	until(t, "web is gone", func() bool { return find("web") == nil })
}

// output writes a log into the test's.
type output struct{ t *testing.T }

func (o *output) Write(b []byte) (int, error) {
	o.t.Log(strings.TrimSpace(string(bytes.TrimPrefix(b, []byte("time=")))))
	return len(b), nil
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(40 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came: %s", what)
		}
	}
}
