package proxiertest

import (
	"bytes"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// Objects is a cluster, as the API has it.
type Objects struct {
	Nodes    []*corev1.Node
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice
}

// All returns the objects: Nodes, Services, then EndpointSlices.
func (o Objects) All() []runtime.Object {
	var all []runtime.Object
	for _, n := range o.Nodes {
		all = append(all, n)
	}
	for _, s := range o.Services {
		all = append(all, s)
	}
	for _, s := range o.Slices {
		all = append(all, s)
	}
	return all
}

// YAML returns the objects as documents that a user could apply.
func (o Objects) YAML() ([]byte, error) {
	var docs [][]byte
	for _, obj := range o.All() {
		doc, err := yaml.Marshal(obj)
		if err != nil {
			return nil, fmt.Errorf("print %T: %w", obj, err)
		}
		docs = append(docs, doc)
	}
	return bytes.Join(docs, []byte("---\n")), nil
}

// DecodeObjects reads YAML documents strictly: an unknown or repeated field, or
// a kind other than Node, Service and EndpointSlice, is an error that tells the
// document's first line.
func DecodeObjects(data []byte) (Objects, error) {
	var out Objects
	line, start := 1, 1
	var doc []byte
	flush := func() error {
		defer func() { doc = nil }()
		if len(bytes.TrimSpace(doc)) == 0 {
			return nil
		}
		if err := out.decode(doc); err != nil {
			return fmt.Errorf("document at line %d: %w", start, err)
		}
		return nil
	}
	for text := range bytes.Lines(data) {
		line++
		if string(bytes.TrimSpace(text)) != "---" {
			doc = append(doc, text...)
			continue
		}
		if err := flush(); err != nil {
			return Objects{}, err
		}
		start = line
	}
	return out, flush()
}

func (o *Objects) decode(doc []byte) error {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(doc, &kind); err != nil {
		return err
	}
	switch kind.APIVersion + " " + kind.Kind {
	case "v1 Node":
		return decodeInto(doc, &o.Nodes)
	case "v1 Service":
		return decodeInto(doc, &o.Services)
	case "discovery.k8s.io/v1 EndpointSlice":
		return decodeInto(doc, &o.Slices)
	}
	return fmt.Errorf("apiVersion %q, kind %q: want a Node, Service or EndpointSlice", kind.APIVersion, kind.Kind)
}

func decodeInto[T any](doc []byte, list *[]*T) error {
	obj := new(T)
	if err := yaml.UnmarshalStrict(doc, obj); err != nil {
		return err
	}
	*list = append(*list, obj)
	return nil
}

// ServiceNamed returns a Service, nil if there is none of that name.
func (o Objects) ServiceNamed(namespace, name string) *corev1.Service {
	i := slices.IndexFunc(o.Services, func(s *corev1.Service) bool {
		return s.Namespace == namespace && s.Name == name
	})
	if i < 0 {
		return nil
	}
	return o.Services[i]
}
