package ipvs

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

func TestDrained(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, c := range []struct {
		name     string
		protocol proxier.Protocol
		leaving  leaving
		want     bool
	}{
		{"TCP without connections", proxier.TCP, leaving{since: now}, true},
		{"TCP with one", proxier.TCP, leaving{connections: 1, since: now}, false},
		{"TCP just before the limit", proxier.TCP, leaving{connections: 1, since: now.Add(time.Second - maxDrain)}, false},
		{"TCP at the limit", proxier.TCP, leaving{connections: 1, since: now.Add(-maxDrain)}, true},
		{"TCP that still serves, past the limit", proxier.TCP, leaving{connections: 1, since: now.Add(-2 * maxDrain), kept: true}, false},
		{"UDP", proxier.UDP, leaving{connections: 9, since: now}, true},
		{"UDP that still serves", proxier.UDP, leaving{connections: 9, since: now, kept: true}, false},
		{"UDP that still serves, without flows", proxier.UDP, leaving{since: now, kept: true}, true},
		{"SCTP", proxier.SCTP, leaving{connections: 1, since: now}, true},
	} {
		if got := c.leaving.drained(c.protocol, now); got != c.want {
			t.Errorf("%s: drained %t", c.name, got)
		}
	}
}

// stage is a backend with one service, in a bubble of time.
type stage struct {
	*testing.T
	k *fakeKernel
	b *Backend
}

func newStage(t *testing.T) *stage {
	k := newFake()
	return &stage{t, k, k.backend(proxier.IPv4)}
}

// web is the service with some of its endpoints.
func web(protocol proxier.Protocol, hosts ...int) *proxier.Service {
	var eps []string
	for _, h := range hosts {
		eps = append(eps, fmt.Sprintf("10.180.0.%d:8080", h))
	}
	return clusterIP("web", "172.30.0.1:80", protocol, eps...)
}

// connect gives a destination some connections.
func (s *stage) connect(protocol proxier.Protocol, host, n int) {
	s.Helper()
	pool := s.k.servers[vs.At(protocol, addrPort("172.30.0.1:80"))].pool
	a := addrPort(fmt.Sprintf("10.180.0.%d:8080", host))
	d, ok := pool[a]
	if !ok {
		s.Fatalf("no destination %s", a)
	}
	d.Active = n
	pool[a] = d
}

// pass lets time go by, second by second, as the engine does.
func (s *stage) pass(d time.Duration) {
	s.Helper()
	for range int(d / time.Second) {
		time.Sleep(time.Second)
		if what, err := s.b.Drifted(s.Context()); what != "" || err != nil {
			s.Fatalf("drifted: %q, %v", what, err)
		}
	}
}

// expect compares the pool with "2:1 3:0": host and weight.
func (s *stage) expect(protocol proxier.Protocol, want string) {
	s.Helper()
	server := s.k.servers[vs.At(protocol, addrPort("172.30.0.1:80"))]
	got := "no server"
	if server != nil {
		var parts []string
		for _, a := range slices.SortedFunc(maps.Keys(server.pool), netip.AddrPort.Compare) {
			parts = append(parts, fmt.Sprintf("%d:%d", a.Addr().As4()[3], server.pool[a].Weight))
		}
		got = strings.Join(parts, " ")
	}
	if got != want {
		s.Errorf("destinations %q, want %q", got, want)
	}
}

// TestDrain tells the life of endpoints that go.
func TestDrain(t *testing.T) {
	const tcp, udp = proxier.TCP, proxier.UDP
	for _, c := range []struct {
		name string
		play func(s *stage)
	}{
		{"without connections it goes at once", func(s *stage) {
			apply(s.T, s.b, stateOf(web(tcp, 2)))
			s.expect(tcp, "2:1")
		}},
		{"with connections it stays until they end", func(s *stage) {
			s.connect(tcp, 3, 1)
			apply(s.T, s.b, stateOf(web(tcp, 2)))
			s.expect(tcp, "2:1 3:0")
			s.pass(time.Minute)
			s.expect(tcp, "2:1 3:0")
			s.connect(tcp, 3, 0)
			s.pass(drainEvery)
			s.expect(tcp, "2:1")
		}},
		{"at most for the limit", func(s *stage) {
			s.connect(tcp, 3, 1)
			apply(s.T, s.b, stateOf(web(tcp, 2)))
			s.pass(maxDrain - time.Second)
			s.expect(tcp, "2:1 3:0")
			s.pass(drainEvery)
			s.expect(tcp, "2:1")
		}},
		{"a resync does not begin the limit anew", func(s *stage) {
			s.connect(tcp, 3, 1)
			apply(s.T, s.b, stateOf(web(tcp, 2)))
			s.pass(maxDrain / 2)
			s.b.Forget()
			apply(s.T, s.b, stateOf(web(tcp, 2)))
			s.expect(tcp, "2:1 3:0")
			s.pass(maxDrain/2 + drainEvery)
			s.expect(tcp, "2:1")
		}},
		{"one that comes back has its weight at once", func(s *stage) {
			s.connect(tcp, 3, 1)
			apply(s.T, s.b, stateOf(web(tcp, 2)))
			apply(s.T, s.b, stateOf(web(tcp, 2, 3)))
			s.expect(tcp, "2:1 3:1")
			s.pass(2 * maxDrain)
			s.expect(tcp, "2:1 3:1")
		}},
		{"also after a restart", func(s *stage) {
			s.connect(tcp, 3, 1)
			apply(s.T, s.b, stateOf(web(tcp, 2)))
			s.b = s.k.backend(proxier.IPv4)
			apply(s.T, s.b, stateOf(web(tcp, 2, 3)))
			s.expect(tcp, "2:1 3:1")
		}},
		{"a restart goes on draining", func(s *stage) {
			s.connect(tcp, 3, 1)
			apply(s.T, s.b, stateOf(web(tcp, 2)))
			s.b = s.k.backend(proxier.IPv4)
			if r := apply(s.T, s.b, stateOf(web(tcp, 2))); r.Operations != 0 {
				s.Errorf("%d operations", r.Operations)
			}
			s.expect(tcp, "2:1 3:0")
			s.connect(tcp, 3, 0)
			s.pass(drainEvery + time.Second)
			s.expect(tcp, "2:1")
		}},
		{"removed while the process was down", func(s *stage) {
			s.connect(tcp, 3, 1)
			s.b = s.k.backend(proxier.IPv4)
			apply(s.T, s.b, stateOf(web(tcp, 2)))
			s.expect(tcp, "2:1 3:0")
		}},
		{"one that still serves keeps its connections past the limit", func(s *stage) {
			s.connect(tcp, 3, 1)
			kept := web(tcp, 2)
			kept.Kept = []netip.AddrPort{addrPort("10.180.0.3:8080")}
			apply(s.T, s.b, stateOf(kept))
			s.pass(2 * maxDrain)
			s.expect(tcp, "2:1 3:0")
		}},
		{"UDP goes at once", func(s *stage) {
			apply(s.T, s.b, stateOf(web(udp, 2, 3)))
			s.connect(udp, 3, 5)
			apply(s.T, s.b, stateOf(web(udp, 2)))
			s.expect(udp, "2:1")
		}},
		{"UDP that still serves keeps its flows", func(s *stage) {
			apply(s.T, s.b, stateOf(web(udp, 2, 3)))
			s.connect(udp, 3, 5)
			kept := web(udp, 2)
			kept.Kept = []netip.AddrPort{addrPort("10.180.0.3:8080")}
			apply(s.T, s.b, stateOf(kept))
			s.expect(udp, "2:1 3:0")
		}},
		{"dh has no place for weight 0", func(s *stage) {
			hashed := web(tcp, 2, 3)
			hashed.Scheduler = "dh"
			apply(s.T, s.b, stateOf(hashed))
			s.connect(tcp, 3, 1)
			less := *hashed
			less.Cluster = hashed.Cluster[:1]
			apply(s.T, s.b, stateOf(&less))
			s.expect(tcp, "2:1")
		}},
		{"the last endpoint", func(s *stage) {
			s.connect(tcp, 2, 1)
			apply(s.T, s.b, stateOf(web(tcp)))
			s.expect(tcp, "2:0")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				apply(t, s.b, stateOf(web(tcp, 2, 3)))
				c.play(s)
			})
		})
	}
}

// TestDrainDeletedService keeps what the connections of a deleted service need, over
// a restart too, and nothing after them.
func TestDrainDeletedService(t *testing.T) {
	for _, restart := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newStage(t)
			apply(t, s.b, stateOf(web(proxier.TCP, 2, 3)))
			s.connect(proxier.TCP, 2, 1)
			apply(t, s.b, stateOf())
			if restart {
				s.b = s.k.backend(proxier.IPv4)
				if r := apply(t, s.b, stateOf()); r.Operations != 0 {
					t.Errorf("%d operations after a restart: %v", r.Operations, s.k.log[len(s.k.log)-r.Operations:])
				}
			}
			s.expect(proxier.TCP, "2:0")
			for _, name := range []string{"KUBE-CLUSTER-IP", "KUBE-IPVS-IPS"} {
				if len(s.k.sets[name].entries) != 1 {
					t.Errorf("%s lost the address", name)
				}
			}
			if !s.k.addrs[addr("172.30.0.1")] {
				t.Error("kube-ipvs0 lost the address")
			}
			s.connect(proxier.TCP, 2, 0)
			s.pass(drainEvery + time.Second)
			if got, want := s.k.String(), fresh(t, stateOf()); got != want {
				t.Errorf("when all have ended:\n%s", difference(got, want))
			}
		})
	}
}

// TestDrainAgain has a deleted service come back while its connections last.
func TestDrainAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		apply(t, s.b, stateOf(web(proxier.TCP, 2)))
		s.connect(proxier.TCP, 2, 1)
		apply(t, s.b, stateOf())
		want := stateOf(web(proxier.TCP, 2))
		apply(t, s.b, want)
		if got, want := s.k.String(), fresh(t, want); got != want {
			t.Errorf("%s", difference(got, want))
		}
		apply(t, s.b, stateOf())
		s.connect(proxier.TCP, 2, 0)
		s.pass(drainEvery + time.Second)
		if got, want := s.k.String(), fresh(t, stateOf()); got != want {
			t.Errorf("deleted again:\n%s", difference(got, want))
		}
	})
}
