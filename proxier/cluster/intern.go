package cluster

import (
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// maxInterned bounds what an interner remembers. It leaves room for the
// largest cluster that Kubernetes supports (5,000 nodes) to be replaced six times.
const maxInterned = 1 << 15

// interner makes equal values share memory: a hundred thousand endpoints name
// the same few nodes and zones. What it forgets costs a second copy, no more.
type interner struct {
	strings map[string]string
	hinted  map[string]*Hints
}

func newInterner() *interner {
	return &interner{strings: map[string]string{}, hinted: map[string]*Hints{}}
}

// string returns an equal string that keeps no API object alive.
func (in *interner) string(s string) string {
	if s == "" {
		return ""
	}
	if known, ok := in.strings[s]; ok {
		return known
	}
	if len(in.strings) >= maxInterned {
		clear(in.strings)
	}
	s = strings.Clone(s)
	in.strings[s] = s
	return s
}

// hints returns the hints of an endpoint, nil if there are none.
func (in *interner) hints(hints *discoveryv1.EndpointHints) *Hints {
	if hints == nil || len(hints.ForZones)+len(hints.ForNodes) == 0 {
		return nil
	}
	var key strings.Builder
	for i := range hints.ForZones {
		key.WriteString("z" + hints.ForZones[i].Name + "\x00")
	}
	for i := range hints.ForNodes {
		key.WriteString("n" + hints.ForNodes[i].Name + "\x00")
	}
	if known, ok := in.hinted[key.String()]; ok {
		return known
	}
	if len(in.hinted) >= maxInterned {
		clear(in.hinted)
	}
	out := &Hints{Zones: make([]string, len(hints.ForZones)), Nodes: make([]string, len(hints.ForNodes))}
	for i := range hints.ForZones {
		out.Zones[i] = in.string(hints.ForZones[i].Name)
	}
	for i := range hints.ForNodes {
		out.Nodes[i] = in.string(hints.ForNodes[i].Name)
	}
	in.hinted[key.String()] = out
	return out
}
