package main

import (
	"fmt"
	"slices"

	"switchyard/test/netlab"
)

const (
	// slots is how many Services there are at most, at as many addresses: enough for
	// every kind to meet every fault, few enough for one machine to be at them all.
	slots = 12
	// firstTarget is the endpoints' port of slot 0: a port tells its slot.
	firstTarget = 8000
	// firstNodePort is the node port of slot 0 for TCP; that for UDP is as much above
	// it as there are slots.
	firstNodePort = 30000
)

// phase is how an endpoint is.
type phase string

// The phases of an endpoint.
const (
	absent      phase = "absent"
	ready       phase = "ready"
	unready     phase = "unready"
	terminating phase = "terminating" // and serves
	ending      phase = "ending"      // terminates and serves no more
)

var phases = []phase{absent, ready, unready, terminating, ending}

// world is what the API would say, by what can be changed of it. It holds no API
// object: those are made from it.
type world struct {
	slots [slots]slot
	zone  string // of the node
	far   bool   // the node's object lists a second address
}

// slot is one set of addresses, and the Service that has it.
type slot struct {
	name     string // of the Service; "": there is none
	born     int    // how many Services had the slot
	kind     string // ClusterIP, NodePort, LoadBalancer
	port     int    // of the Service, for TCP; UDP has the same
	external string // externalTrafficPolicy: Cluster, Local
	internal string // internalTrafficPolicy
	affinity bool
	ranges   bool // loadBalancerSourceRanges, which hold the client outside
	eip      bool // an external IP
	single   bool // IPv4 only
	pods     []phase
}

var (
	kinds    = []string{"ClusterIP", "NodePort", "LoadBalancer"}
	policies = []string{"Cluster", "Local"}
)

// newWorld is what every script starts from: a Service in each slot but the last
// three, of all kinds, with two endpoints on each node.
func newWorld() *world {
	w := &world{zone: "zone-a"}
	for i := range slots {
		s := &w.slots[i]
		s.pods = slices.Repeat([]phase{absent}, len(netlab.StandardPods()))
		s.port, s.external, s.internal = 80, policies[0], policies[0]
		s.kind = kinds[i%3]
		if i >= slots-3 {
			continue
		}
		s.appear()
		s.eip = i%4 == 2
		for _, p := range []int{i % 6, (i + 1) % 6, (i + 3) % 6, (i + 4) % 6} {
			s.pods[p] = ready
		}
	}
	return w
}

// appear has a Service of a new name take the slot.
func (s *slot) appear() {
	s.born++
	s.name = fmt.Sprintf("s-%d", s.born)
}

// change makes one step's change and reports whether there was any to make. A step
// that means nothing now is none.
func (w *world) change(st Step) bool {
	if st.Verb == "node" {
		return w.changeNode(st)
	}
	if st.Verb != "slot" {
		return false
	}
	s := &w.slots[st.index(0, slots)]
	before := fmt.Sprint(*s)
	s.change(st)
	return fmt.Sprint(*s) != before
}

func (w *world) changeNode(st Step) bool {
	before := *w
	switch st.arg(0) {
	case "zone":
		w.zone = st.arg(1)
	case "far":
		w.far = st.arg(1) == "on"
	}
	return before.zone != w.zone || before.far != w.far
}

func (s *slot) change(st Step) {
	value := st.arg(2)
	switch st.arg(1) {
	case "appear":
		if s.name == "" {
			s.appear()
		}
	case "vanish":
		s.name = ""
	case "rename": // the same addresses under another name, in one change
		if s.name != "" {
			s.appear()
		}
	case "kind":
		s.kind = oneOf(kinds, value, s.kind)
	case "port":
		s.port = max(1, st.index(2, 1000))
	case "external":
		s.external = oneOf(policies, value, s.external)
	case "internal":
		s.internal = oneOf(policies, value, s.internal)
	case "affinity":
		s.affinity = value == "on"
	case "ranges":
		s.ranges = value == "on"
	case "eip":
		s.eip = value == "on"
	case "single":
		s.single = value == "on"
	case "pod":
		s.pods[st.index(2, len(s.pods))] = oneOf(phases, phase(st.arg(3)), ready)
	case "pods": // a phase for each
		for i := range s.pods {
			s.pods[i] = oneOf(phases, phase(st.arg(2+i)), s.pods[i])
		}
	}
}

// oneOf is the value if it is one of the list, else what was.
func oneOf[T ~string](list []T, value, was T) T {
	if slices.Contains(list, value) {
		return value
	}
	return was
}
