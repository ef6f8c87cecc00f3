package proxiertest

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

func TestRandomIsDeterministic(t *testing.T) {
	if a, b := Random(7), Random(7); !equality.Semantic.DeepEqual(a, b) {
		t.Error("one seed gives two clusters")
	}
	if equality.Semantic.DeepEqual(Random(7), Random(8)) {
		t.Error("two seeds give one cluster")
	}
	o := Random(7)
	traffic := TrafficTo(o)
	for seed := range uint64(50) {
		a := RandomPacket(rand.New(rand.NewPCG(seed, 0)), o)
		b := traffic.Packet(rand.New(rand.NewPCG(seed, 0)))
		if a.Packet != b.Packet || !a.Src.IsValid() || !a.Dst.IsValid() {
			t.Fatalf("seed %d: %v and %v", seed, a, b)
		}
	}
}

func TestRandomSurvivesYAML(t *testing.T) {
	for seed := range uint64(20) {
		o := Random(seed)
		doc, err := o.YAML()
		if err != nil {
			t.Fatal(err)
		}
		back, err := DecodeObjects(doc)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, doc)
		}
		again, err := back.YAML()
		if err != nil || !bytes.Equal(doc, again) || len(back.All()) != len(o.All()) {
			t.Errorf("seed %d: %v, the objects change", seed, err)
		}
	}
}

// Rare things must not be so rare that a fuzz run never sees them.
func TestRandomHasEverything(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(300) {
		o := Random(seed)
		for _, s := range o.Services {
			seen[string(s.Spec.Type)]++
			seen["external "+string(s.Spec.ExternalTrafficPolicy)]++
			seen["affinity "+string(s.Spec.SessionAffinity)]++
			count(seen, "headless", s.Spec.ClusterIP == corev1.ClusterIPNone)
			count(seen, "label", len(s.Labels) > 0)
			count(seen, "weights", len(s.Annotations) > 0)
			count(seen, "external IP", len(s.Spec.ExternalIPs) > 0)
			count(seen, "ranges", len(s.Spec.LoadBalancerSourceRanges) > 0)
			count(seen, "internal Local", s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal)
			count(seen, "dual stack", len(s.Spec.ClusterIPs) == 2)
			count(seen, "health port", s.Spec.HealthCheckNodePort > 0)
			for _, p := range s.Spec.Ports {
				seen[string(p.Protocol)]++
			}
			for _, in := range s.Status.LoadBalancer.Ingress {
				count(seen, "proxy mode", in.IPMode != nil && *in.IPMode == corev1.LoadBalancerIPModeProxy)
				count(seen, "host name", in.Hostname != "")
			}
		}
		for _, s := range o.Slices {
			for _, ep := range s.Endpoints {
				count(seen, "nil condition", ep.Conditions.Ready == nil)
				count(seen, "terminating", ep.Conditions.Terminating != nil && *ep.Conditions.Terminating)
				count(seen, "zone hint", ep.Hints != nil && len(ep.Hints.ForZones) > 0)
				count(seen, "node hint", ep.Hints != nil && len(ep.Hints.ForNodes) > 0)
				count(seen, "no node", ep.NodeName == nil)
			}
		}
	}
	for _, word := range []string{"ClusterIP", "NodePort", "LoadBalancer", "ExternalName", "external Local", "external Cluster",
		"affinity ClientIP", "headless", "label", "weights", "external IP", "ranges", "internal Local", "dual stack", "health port",
		"TCP", "UDP", "SCTP", "proxy mode", "host name", "nil condition", "terminating", "zone hint", "node hint", "no node"} {
		if seen[word] < 10 {
			t.Errorf("%q occurs %d times in 300 clusters", word, seen[word])
		}
	}
}

func count(seen map[string]int, word string, yes bool) {
	if yes {
		seen[word]++
	}
}

func TestRandomPacketsHitServices(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	hits, all := 0, 0
	for seed := range uint64(100) {
		traffic := TrafficTo(Random(seed))
		for range 50 {
			p := traffic.Packet(rng)
			all++
			if slices.Contains(traffic.targets, target{p.Protocol, p.Dst}) {
				hits++
			}
		}
	}
	if hits*100 < all*88 {
		t.Errorf("%d of %d packets go where a Service may answer", hits, all)
	}
}

func TestRandomFlagsAreValid(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	modes := map[string]int{}
	for range 200 {
		f := RandomFlags(rng)
		if err := f.check(); err != nil {
			t.Fatal(err)
		}
		modes[f.DetectLocalMode]++
	}
	if len(modes) != 4 {
		t.Errorf("detect-local modes: %v", modes)
	}
}
