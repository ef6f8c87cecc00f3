package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
)

// create writes the objects of a manifest through the API. They go when the test
// ends.
func (c *cluster) create(t *testing.T, manifest string) {
	t.Helper()
	for document := range strings.SplitSeq(manifest, "\n---\n") {
		object, _, err := scheme.Codecs.UniversalDeserializer().Decode([]byte(document), nil, nil)
		if err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		remove, err := c.write(t.Context(), object)
		if err != nil {
			t.Fatalf("%v: create\n%s", err, document)
		}
		// It may be gone already, and the API server may be.
		t.Cleanup(func() { _ = remove(context.Background()) })
	}
}

// write creates one object and returns how to delete it.
func (c *cluster) write(ctx context.Context, object any) (remove func(context.Context) error, err error) {
	var now metav1.CreateOptions
	var gone metav1.DeleteOptions
	switch o := object.(type) {
	case *corev1.Service:
		api := c.admin.CoreV1().Services(metav1.NamespaceDefault)
		status := o.Status
		if o, err = api.Create(ctx, o, now); err == nil && len(status.LoadBalancer.Ingress) > 0 {
			o.Status = status
			_, err = api.UpdateStatus(ctx, o, metav1.UpdateOptions{})
		}
		return func(ctx context.Context) error { return api.Delete(ctx, o.Name, gone) }, err
	case *discoveryv1.EndpointSlice:
		api := c.admin.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
		_, err = api.Create(ctx, o, now)
		return func(ctx context.Context) error { return api.Delete(ctx, o.Name, gone) }, err
	case *corev1.Node:
		api := c.admin.CoreV1().Nodes()
		_, err = api.Create(ctx, o, now)
		return func(ctx context.Context) error { return api.Delete(ctx, o.Name, gone) }, err
	case *corev1.Secret:
		api := c.admin.CoreV1().Secrets(metav1.NamespaceSystem)
		_, err = api.Create(ctx, o, now)
		return func(ctx context.Context) error { return api.Delete(ctx, o.Name, gone) }, err
	case *corev1.ServiceAccount:
		api := c.admin.CoreV1().ServiceAccounts(metav1.NamespaceSystem)
		_, err = api.Create(ctx, o, now)
		return func(ctx context.Context) error { return api.Delete(ctx, o.Name, gone) }, err
	case *rbacv1.ClusterRoleBinding:
		api := c.admin.RbacV1().ClusterRoleBindings()
		_, err = api.Create(ctx, o, now)
		return func(ctx context.Context) error { return api.Delete(ctx, o.Name, gone) }, err
	}
	return nil, fmt.Errorf("no test has needed a %T yet", object)
}

// node is the Node object of a host, as a kubelet registers it.
func node(name, addr string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Node
metadata: {name: %s, labels: {topology.kubernetes.io/zone: here}}
status: {addresses: [{type: InternalIP, address: %s}]}`, name, addr)
}

// registerNodeA makes the Node object of node-a.
func (c *cluster) registerNodeA(t *testing.T) {
	t.Helper()
	c.create(t, node("node-a", "192.168.0.2"))
}

// slice is an EndpointSlice of a Service with the pods of these addresses.
func slice(service string, pods ...netip.Addr) string {
	return fmt.Sprintf(`apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-x, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: %[2]s`, service, endpoints(pods...))
}

// endpoints are pods as JSON.
func endpoints(pods ...netip.Addr) string {
	list := []map[string]any{}
	for _, pod := range pods {
		on := "node-a"
		if netip.MustParsePrefix("10.180.1.0/24").Contains(pod) {
			on = "node-b"
		}
		list = append(list, map[string]any{"addresses": []string{pod.String()}, "nodeName": on, "conditions": map[string]bool{"ready": true}})
	}
	text, _ := json.Marshal(list) // strings and maps: nothing to fail
	return string(text)
}

// point makes pods the endpoints of a Service, in place of those it had.
func (c *cluster) point(t *testing.T, service string, pods ...netip.Addr) {
	t.Helper()
	patch := `{"endpoints":` + endpoints(pods...) + `}`
	_, err := c.admin.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Patch(t.Context(), service+"-x",
		types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	check(t, err)
}

// patchNode changes a Node; part is "" or "status".
func (c *cluster) patchNode(t *testing.T, name, part, patch string) {
	t.Helper()
	var parts []string
	if part != "" {
		parts = []string{part}
	}
	_, err := c.admin.CoreV1().Nodes().Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, parts...)
	check(t, err)
}

// token asks for a token of the program's account, as the kubelet does. One that is
// bound to a Secret ends with it; "": it is bound to nothing.
func (c *cluster) token(t *testing.T, secret string) string {
	t.Helper()
	seconds := int64(3600)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	if secret != "" {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Secret", APIVersion: "v1", Name: secret}
	}
	answer, err := c.admin.CoreV1().ServiceAccounts(metav1.NamespaceSystem).CreateToken(t.Context(), "kube-proxy", request, metav1.CreateOptions{})
	check(t, err)
	return answer.Status.Token
}

// event waits for an Event on an object that came since a time, and returns it.
func (c *cluster) event(t *testing.T, since time.Time, reason, on string) eventsv1.Event {
	t.Helper()
	var found eventsv1.Event
	until(t, fmt.Sprintf("an Event %s on %s", reason, on), func() bool {
		list, err := c.admin.EventsV1().Events(metav1.NamespaceAll).List(t.Context(), metav1.ListOptions{})
		check(t, err)
		for _, e := range list.Items {
			if e.Reason == reason && e.Regarding.Kind+" "+e.Regarding.Name == on && !e.EventTime.Time.Before(since) {
				found = e
			}
		}
		return found.Reason != ""
	})
	return found
}
