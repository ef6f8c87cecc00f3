package compile_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
	"switchyard/proxier/compile"
	"switchyard/proxier/proxiertest"
)

func labNode(f proxier.Family) proxier.Node {
	lab := proxiertest.LabOf(f)
	return proxier.Node{
		Name: proxiertest.NodeName, PodRanges: []netip.Prefix{lab.Pods}, Local: lab.Local(),
		NodePorts: proxier.NodePorts{Any: true},
	}
}

// feed sets objects in a store, in an order of its own.
func feed(store *cluster.Store, o proxiertest.Objects, rng *rand.Rand) {
	var do []func()
	for _, n := range o.Nodes {
		do = append(do, func() { store.SetNode(n) })
	}
	for _, s := range o.Services {
		do = append(do, func() { store.SetService(s) })
	}
	for _, s := range o.Slices {
		do = append(do, func() { store.SetSlice(s) })
	}
	rng.Shuffle(len(do), func(i, j int) { do[i], do[j] = do[j], do[i] })
	for _, f := range do {
		f()
	}
}

// TestIncrementalIsFresh holds that a Compiler that lived through a cluster's
// changes gives the State of one that sees only their end, conflicts of addresses
// included, and that what did not change keeps its pointer.
func TestIncrementalIsFresh(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		store := cluster.NewStore(proxiertest.NodeName)
		old := map[proxier.Family]*compile.Compiler{}
		for _, f := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
			old[f] = compile.New(f, compile.Options{})
		}
		for step := range 12 {
			// Services of other clusters come beside, or in place of, those there.
			feed(store, proxiertest.Random(seed*100+rng.Uint64N(5)), rng)
			if rng.IntN(3) == 0 {
				if snap := store.Snapshot(); snap.Services.Len() > 0 {
					store.DeleteService(snap.Services.Slice()[rng.IntN(snap.Services.Len())].Name)
				}
			}
			for f, c := range old {
				node := labNode(f)
				if step%5 == 4 {
					node.PodRanges = nil
				}
				compareWithFresh(t, fmt.Sprintf("seed %d, step %d, %s", seed, step, f), c, store.Snapshot(), node)
			}
		}
	}
}

func compareWithFresh(t *testing.T, what string, c *compile.Compiler, snap cluster.Snapshot, node proxier.Node) {
	t.Helper()
	fresh := compile.New(familyOf(node), compile.Options{})
	want, got := fresh.Compile(snap, node), c.Compile(snap, node)
	if want.String() != got.String() || !reflect.DeepEqual(want.Node, got.Node) {
		t.Fatalf("%s: compiled step by step\n%s\nafresh\n%s", what, got, want)
	}
	if !slices.Equal(c.Problems(), fresh.Problems()) {
		t.Fatalf("%s: problems step by step\n%v\nafresh\n%v", what, c.Problems(), fresh.Problems())
	}
	if c.Compile(snap, node) != got {
		t.Fatalf("%s: another State although nothing changed", what)
	}
}

func familyOf(n proxier.Node) proxier.Family { return proxier.FamilyOf(n.Local[0]) }

// TestUnchangedKeepsItsPointer holds that one Service's change leaves all others
// as they were, and that a change that means nothing leaves the State.
func TestUnchangedKeepsItsPointer(t *testing.T) {
	store := cluster.NewStore(proxiertest.NodeName)
	service := func(name string, ports ...int32) *corev1.Service {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
		svc.Spec.ClusterIP = "172.30.0." + name
		for _, p := range ports {
			svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: fmt.Sprintf("p%d", p), Port: p})
		}
		return svc
	}
	for _, name := range []string{"1", "2", "3"} {
		store.SetService(service(name, 80))
	}
	c, node := compile.New(proxier.IPv4, compile.Options{}), labNode(proxier.IPv4)
	before := c.Compile(store.Snapshot(), node)

	store.SetService(service("2", 80, 443))
	after := c.Compile(store.Snapshot(), node)
	if len(before.Services) != 3 || len(after.Services) != 4 {
		t.Fatalf("%d services, then %d", len(before.Services), len(after.Services))
	}
	for i, j := range map[int]int{0: 0, 1: 2, 2: 3} { // shop/2:p443 comes before shop/2:p80
		if before.Services[i] != after.Services[j] {
			t.Errorf("%s has another pointer", before.Services[i].Name)
		}
	}

	same := service("2", 80, 443)
	same.Annotations = map[string]string{"a": "b"}
	same.ResourceVersion = "17"
	store.SetService(same)
	if c.Compile(store.Snapshot(), node) != after {
		t.Error("another State after a change that means nothing")
	}
}
