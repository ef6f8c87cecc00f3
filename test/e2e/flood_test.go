package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"switchyard/test/netlab"
)

const (
	many  = 2000 // Services that come and go
	burst = 500
	// enough is the most memory that it may take, in MiB. The race detector takes
	// three times as much.
	enough = 100
)

// flood: 2,000 Services with an endpoint each come and go in bursts, while
// connections to ten others are made all the time. None of these fails.
func (c *cluster) flood(t *testing.T) {
	c.registerNodeA(t)
	var tens []netip.AddrPort
	for i := range 10 {
		name, addr := fmt.Sprintf("steady-%d", i), fmt.Sprintf("172.30.1.%d", i+1)
		c.create(t, fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {clusterIP: %s, ports: [{port: 80}]}", name, addr))
		c.create(t, slice(name, podA1, podA2, podB1))
		tens = append(tens, netip.MustParseAddrPort(addr+":80"))
	}
	p := c.program(t, c.lab.Host(netlab.NodeA))
	p.start()
	p.inSync()
	until(t, "the steady Services answer", func() bool { return len(c.ask(netlab.Outside, tens[9].String())) > 9 })
	before := p.chains()
	counters := []string{"kubeproxy_sync_proxy_rules_service_changes_total", "kubeproxy_sync_proxy_rules_endpoint_changes_total"}
	counted := map[string]float64{}
	for _, counter := range counters {
		counted[counter] = p.metric(counter)
	}
	flows := []*flow{c.flow(t, netlab.Outside, tens...), c.flow(t, "pod-a3", tens...)}

	began := time.Now()
	for from := 0; from < many; from += burst {
		c.burst(t, from, c.createOne)
	}
	t.Logf("%d Services written in %s", many, time.Since(began).Round(time.Millisecond))
	took := p.until("all are in the kernel", func() bool { return p.chains() == before+many })
	t.Logf("all in the kernel %s after the last was written", took.Round(time.Millisecond))
	for i := 0; i < many; i += many / 10 {
		c.answersAt(t, i)
	}
	began = time.Now()
	for from := 0; from < many; from += burst {
		c.burst(t, from, c.deleteOne)
	}
	t.Logf("deleted in %s", time.Since(began).Round(time.Millisecond))
	took = p.until("all are out of the kernel", func() bool { return p.chains() == before })
	t.Logf("all out of the kernel %s after the last was deleted", took.Round(time.Millisecond))
	for _, f := range flows {
		f.end(t, 1000)
	}
	for _, counter := range counters {
		if got := p.metric(counter) - counted[counter]; got != 2*many {
			t.Errorf("%s rose by %v, want %d", counter, got, 2*many)
		}
	}
	most := enough
	if raced {
		most *= 3
	}
	if got := p.memory(); got > most {
		t.Errorf("it took %d MiB, more than %d", got, most)
	} else {
		t.Logf("it took %d MiB at most", got)
	}
}

// chains counts the Services in the kernel.
func (p *program) chains() int {
	p.t.Helper()
	return strings.Count(p.rules(), "\n:KUBE-SVC-")
}

// burst does something to Services, eight at a time.
func (c *cluster) burst(t *testing.T, from int, do func(t *testing.T, i int) error) {
	t.Helper()
	next, failed := make(chan int), make(chan error, burst)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for i := range next {
				if err := do(t, i); err != nil {
					failed <- err
				}
			}
		})
	}
	for i := from; i < from+burst; i++ {
		next <- i
	}
	close(next)
	workers.Wait()
	close(failed)
	check(t, <-failed)
}

func floodName(i int) string { return fmt.Sprintf("flood-%d", i) }

// floodAddr is 172.30.100.1 and so on: addresses that the API server does not give
// away by itself before it has to.
func floodAddr(i int) string { return fmt.Sprintf("172.30.%d.%d", 100+i/250, 1+i%250) }

func floodPod(i int) netip.Addr { return []netip.Addr{podA1, podA2, podB1}[i%3] }

func (c *cluster) createOne(t *testing.T, i int) error {
	name, port := floodName(i), int32(8080)
	_, err := c.admin.CoreV1().Services(metav1.NamespaceDefault).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: floodAddr(i), Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = c.admin.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Create(t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Port: &port}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{floodPod(i).String()}}},
	}, metav1.CreateOptions{})
	return err
}

func (c *cluster) deleteOne(t *testing.T, i int) error {
	err := c.admin.CoreV1().Services(metav1.NamespaceDefault).Delete(t.Context(), floodName(i), metav1.DeleteOptions{})
	if err != nil {
		return err
	}
	return c.admin.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Delete(t.Context(), floodName(i)+"-x", metav1.DeleteOptions{})
}

func (c *cluster) answersAt(t *testing.T, i int) {
	t.Helper()
	c.reaches(t, netlab.Outside, floodAddr(i)+":80", floodPod(i))
}
