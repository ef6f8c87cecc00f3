package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// Sink is where a load is written so that contestants see it.
type Sink interface {
	// Fill writes everything, once. Each service that stands is told to done.
	Fill(ctx context.Context, l *Load, node netip.Addr, done func()) error
	// Write writes the slice of service i as it is now, and returns the moment from
	// which on a contestant can have seen it: what was written has been accepted.
	Write(ctx context.Context, l *Load, i int) (time.Time, error)
}

// API writes to an API server.
type API struct {
	client kubernetes.Interface
	dial   dialer
}

// NewAPI makes a sink of an API server. The requests are as fast as it answers.
func NewAPI(config *rest.Config) (*API, error) {
	c := rest.CopyConfig(config)
	c.QPS = -1
	c.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	return &API{client, config.Dial}, nil
}

// Fill creates the namespace, the node, all Services and their slices.
func (a *API) Fill(ctx context.Context, l *Load, node netip.Addr, done func()) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace}}
	_, err := a.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{})
	if err == nil {
		_, err = a.client.CoreV1().Nodes().Create(ctx, Node(node), metav1.CreateOptions{})
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("fill the API server: %w", err)
	}
	return a.seedAll(ctx, l, done)
}

// Write replaces the slice of service i. The moment is that of the API server's
// answer, so what it took to write is not counted.
func (a *API) Write(ctx context.Context, l *Load, i int) (time.Time, error) {
	defer l.alone(i)()
	_, err := a.client.DiscoveryV1().EndpointSlices(Namespace).Update(ctx, l.Slice(i), metav1.UpdateOptions{})
	if err != nil {
		return time.Time{}, fmt.Errorf("write the slice of %s: %w", Name(i), err)
	}
	return time.Now(), nil
}

// Files writes a directory of manifests, one file for each Service.
type Files struct{ Dir string }

// Fill writes all files.
func (f Files) Fill(_ context.Context, l *Load, node netip.Addr, done func()) error {
	text, err := yaml.Marshal(Node(node))
	if err == nil {
		err = os.WriteFile(filepath.Join(f.Dir, "node.yaml"), text, 0o644)
	}
	for i := 0; i < l.Services && err == nil; i++ {
		err = f.write(l, i)
		done()
	}
	if err != nil {
		return fmt.Errorf("fill the manifests: %w", err)
	}
	return nil
}

// Write replaces the file of service i at once.
func (f Files) Write(_ context.Context, l *Load, i int) (time.Time, error) {
	defer l.alone(i)()
	if err := f.write(l, i); err != nil {
		return time.Time{}, fmt.Errorf("write the manifest of %s: %w", Name(i), err)
	}
	return time.Now(), nil
}

func (f Files) write(l *Load, i int) error {
	svc, err := yaml.Marshal(Service(i))
	slice, err2 := yaml.Marshal(l.Slice(i))
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	final := filepath.Join(f.Dir, Name(i)+".yaml")
	part := filepath.Join(f.Dir, "."+Name(i)+".part")
	if err := os.WriteFile(part, bytes.Join([][]byte{svc, slice}, []byte("---\n")), 0o644); err != nil {
		return err
	}
	return os.Rename(part, final)
}
