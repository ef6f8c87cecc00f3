package load

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
)

// etcd is where the API server keeps its objects; it is reached as the API server is.
const etcd = "http://127.0.0.1:2379"

// together is how many Services are one transaction: etcd takes 128 operations and
// 1.5 MB at once.
const together = 25

// settling is how much later than its clients the API server's own controller of
// addresses may hear of them. What it hears too late it repairs, which is some work.
const settling = time.Second

// seed is one object as the API server stores it.
type seed struct {
	key    string
	object runtime.Object
}

// address is the object by which the API server knows that service i has its ClusterIP.
func address(i int, now metav1.Time) []seed {
	addr := VIP(i).Addr().String()
	return []seed{{"/registry/ipaddresses/" + addr, &networkingv1.IPAddress{
		TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "IPAddress"},
		ObjectMeta: metav1.ObjectMeta{Name: addr, UID: uid(3, i), CreationTimestamp: now,
			Labels: map[string]string{networkingv1.LabelIPAddressFamily: "IPv4", networkingv1.LabelManagedBy: "ipallocator.k8s.io"}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: Namespace, Name: Name(i)}},
	}}}
}

// seeds are service i and its slice.
func (l *Load) seeds(i int, now metav1.Time) []seed {
	svc, slice := Service(i), l.Slice(i)
	svc.UID, slice.UID = uid(1, i), uid(2, i)
	svc.CreationTimestamp, slice.CreationTimestamp = now, now
	svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	svc.Spec.IPFamilyPolicy = new(corev1.IPFamilyPolicySingleStack)
	svc.Spec.SessionAffinity = corev1.ServiceAffinityNone
	svc.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyCluster)
	return []seed{
		{"/registry/services/specs/" + Namespace + "/" + svc.Name, svc},
		{"/registry/endpointslices/" + Namespace + "/" + slice.Name, slice},
	}
}

func uid(kind, i int) types.UID {
	return types.UID(fmt.Sprintf("%08d-0000-4000-8000-%012d", kind, i))
}

// seedAll puts all Services and slices into etcd, from where the API server hears of
// them. Creating them one by one through it takes 10 ms of two cores for each: minutes
// for ten thousand, in which nothing is measured.
func (a *API) seedAll(ctx context.Context, l *Load, done func()) error {
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: a.dial}}
	defer client.CloseIdleConnections()
	now := metav1.Now()
	// Addresses first: a Service whose address it does not know is repaired, one by one.
	err := putAll(ctx, client, l.Services, func(i int) []seed { return address(i, now) })
	if err == nil {
		err = a.await(ctx, func(o metav1.ListOptions) (int, error) {
			o.FieldSelector = "metadata.name=" + VIP(l.Services-1).Addr().String()
			list, err := a.client.NetworkingV1().IPAddresses().List(ctx, o)
			return len(list.Items), err
		})
	}
	if err == nil {
		time.Sleep(settling)
		err = putAll(ctx, client, l.Services, func(i int) []seed { done(); return l.seeds(i, now) })
	}
	if err != nil {
		return err
	}
	return a.await(ctx, func(o metav1.ListOptions) (int, error) {
		o.FieldSelector = "metadata.name=" + Name(l.Services-1) + "-x"
		list, err := a.client.DiscoveryV1().EndpointSlices(Namespace).List(ctx, o)
		return len(list.Items), err
	})
}

// putAll puts what of makes of 0 to n-1.
func putAll(ctx context.Context, client *http.Client, n int, of func(int) []seed) error {
	for i := 0; i < n; i += together {
		var objects []seed
		for k := i; k < min(i+together, n); k++ {
			objects = append(objects, of(k)...)
		}
		if err := put(ctx, client, objects); err != nil {
			return fmt.Errorf("put what belongs to services from %d on into etcd: %w", i, err)
		}
	}
	return nil
}

// await returns when the API server knows the last object of many. It hears of all in
// their order.
func (a *API) await(ctx context.Context, count func(metav1.ListOptions) (int, error)) error {
	for {
		n, err := count(metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return fmt.Errorf("ask for the last object: %w", err)
		}
		if n > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// dialer reaches the API server's host.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// put writes objects in one transaction, by etcd's JSON gateway.
func put(ctx context.Context, client *http.Client, objects []seed) error {
	type pair struct {
		Key   []byte `json:"key"`
		Value []byte `json:"value"`
	}
	type operation struct {
		RequestPut pair `json:"requestPut"`
	}
	encoder := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	var all []operation
	for _, o := range objects {
		var value bytes.Buffer
		if err := encoder.Encode(o.object, &value); err != nil {
			return fmt.Errorf("encode %s: %w", o.key, err)
		}
		all = append(all, operation{pair{[]byte(o.key), value.Bytes()}})
	}
	body, err := json.Marshal(map[string]any{"success": all})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, etcd+"/v3/kv/txn", bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.200s", answer.Status, text)
	}
	return err
}
