package load

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"switchyard/proxier/cluster"
	"switchyard/proxier/manifest"
)

// No two services share a ClusterIP and no two endpoints an address, and all are in
// the ranges that the lab answers for.
func TestAddressesDiffer(t *testing.T) {
	l, err := New(50_000, 20)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[netip.Addr]bool{}
	take := func(a netip.Addr, ranges ...netip.Prefix) {
		inside := false
		for _, r := range ranges {
			inside = inside || r.Contains(a)
		}
		if !inside || seen[a] {
			t.Fatalf("%s: inside its range %v, seen before %v", a, inside, seen[a])
		}
		seen[a] = true
	}
	for i := range l.Services {
		take(VIP(i).Addr(), ServiceCIDR())
		for _, pod := range l.Pods(i) {
			take(pod, EndpointRanges()...)
		}
	}
	for k := range 50_000 {
		take(l.Turn(k%3), EndpointRanges()...)
	}
}

// A turn replaces one endpoint, another each time, so that M turns replace all.
func TestTurn(t *testing.T) {
	l, err := New(3, 4)
	if err != nil {
		t.Fatal(err)
	}
	first, other := l.Pods(1), l.Pods(2)
	for k := range 4 {
		pod := l.Turn(1)
		now := l.Pods(1)
		if now[k] != pod {
			t.Errorf("turn %d: %v, want %s at place %d", k, now, pod, k)
		}
		for j := k + 1; j < 4; j++ {
			if now[j] != first[j] {
				t.Errorf("turn %d replaced place %d too", k, j)
			}
		}
	}
	for j, pod := range l.Pods(2) {
		if pod != other[j] {
			t.Error("the turns of one service changed another")
		}
	}
}

func TestTooMuch(t *testing.T) {
	for _, c := range []struct{ n, m int }{{0, 1}, {1, 0}, {MaxServices + 1, 1}, {MaxServices, 5}} {
		if _, err := New(c.n, c.m); err == nil {
			t.Errorf("a load of %d services of %d endpoints was made", c.n, c.m)
		}
	}
}

// What Files writes is what the proxy's own reader finds, before and after a change.
func TestFiles(t *testing.T) {
	l, err := New(3, 2)
	if err != nil {
		t.Fatal(err)
	}
	files, done := Files{t.TempDir()}, 0
	if err := files.Fill(t.Context(), l, netip.MustParseAddr("192.168.0.2"), func() { done++ }); err != nil || done != 3 {
		t.Fatal(done, err)
	}
	read := func() map[string]bool {
		store := cluster.NewStore(NodeName)
		if err := manifest.New(files.Dir, store).Load(); err != nil {
			t.Fatal(err)
		}
		pods := map[string]bool{}
		for _, s := range store.Snapshot().Services.All() {
			for _, e := range s.Slices[0].Endpoints {
				pods[e.Addr.String()] = true
			}
		}
		return pods
	}
	before := read()
	pod := l.Turn(1)
	if _, err := files.Write(t.Context(), l, 1); err != nil {
		t.Fatal(err)
	}
	after := read()
	if len(before) != 6 || len(after) != 6 || before[pod.String()] || !after[pod.String()] {
		t.Errorf("before %v, after %v, which should have %s", before, after, pod)
	}
	if left, _ := filepath.Glob(filepath.Join(files.Dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := os.Stat(filepath.Join(files.Dir, "node.yaml")); err != nil {
		t.Error(err)
	}
}
