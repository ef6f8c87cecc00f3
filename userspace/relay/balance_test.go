package relay

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"switchyard/proxier"
)

func specOf(scheduler string, weights ...uint16) *proxier.Service {
	s := &proxier.Service{Scheduler: scheduler}
	for i, w := range weights {
		s.Cluster = append(s.Cluster, proxier.Endpoint{Weight: w,
			Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 80)})
	}
	return s
}

// TestShares holds how many of a number of connections, which all stay, go where.
func TestShares(t *testing.T) {
	now := time.Now()
	for _, test := range []struct {
		scheduler string
		weights   []uint16
		open      []int64 // connections before
		want      string
	}{
		{"", []uint16{0, 0, 0}, nil, "[4 4 4]"},
		{"rr", []uint16{0, 0}, []int64{100, 0}, "[6 6]"},
		{"rr", []uint16{1, 2, 3}, nil, "[2 4 6]"},
		{"wrr", []uint16{5, 1}, nil, "[10 2]"},
		{"lc", []uint16{0, 0}, []int64{12, 0}, "[0 12]"},
		{"wlc", []uint16{2, 1}, nil, "[8 4]"},
		{"lc", []uint16{0, 0, 0}, nil, "[4 4 4]"},
		{"mh,mh-port", []uint16{0, 0}, nil, "[6 6]"},
	} {
		s := &service{}
		p := s.update(specOf(test.scheduler, test.weights...)).cluster
		for i, n := range test.open {
			p.endpoints[i].active.Store(n)
		}
		got := make([]int, len(p.endpoints))
		for range 12 {
			e := p.choose(now, nil)
			e.active.Add(1)
			got[e.addr.Addr().As4()[3]]++
		}
		if fmt.Sprint(got) != test.want {
			t.Errorf("%q %v with %v: %v, want %s", test.scheduler, test.weights, test.open, got, test.want)
		}
	}
}

// TestShunned holds that an endpoint that failed is chosen last, and again when that is
// forgotten; also by the next version of its service.
func TestShunned(t *testing.T) {
	now := time.Now()
	s := &service{}
	p := s.update(specOf("", 0, 0)).cluster
	p.endpoints[0].shun(now)
	p = s.update(specOf("", 0, 0, 0)).cluster
	for range 6 {
		if e := p.choose(now, nil); e == p.endpoints[0] {
			t.Error("the endpoint that failed was chosen")
		}
	}
	tried := p.endpoints[1:]
	if e := p.choose(now, tried); e != p.endpoints[0] {
		t.Error("the endpoint that failed was not chosen although there is no other")
	}
	if e := p.choose(now, p.endpoints); e != nil {
		t.Error("an endpoint was chosen twice")
	}
	seen := map[*endpoint]bool{}
	for range 3 {
		seen[p.choose(now.Add(shunTime), nil)] = true
	}
	if len(seen) != 3 {
		t.Error("a failure is not forgotten")
	}
}

// TestPinsAreBounded holds the memory of affinity under a sweep of clients.
func TestPinsAreBounded(t *testing.T) {
	var a affinity
	now := time.Now()
	e := &endpoint{}
	for i := range 4 * maxPins {
		a.set(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), e, now, time.Hour)
	}
	if len(a.pins) > maxPins {
		t.Errorf("%d pins", len(a.pins))
	}
	last := netip.AddrFrom4([4]byte{10, 3, 255, 255})
	if a.get(last, now.Add(59*time.Minute), time.Hour) != e || a.get(last, now.Add(time.Hour), time.Hour) != nil {
		t.Error("the last client is not known for an hour, or longer")
	}
}

// TestNotes holds what a person is told.
func TestNotes(t *testing.T) {
	for _, test := range []struct {
		spec proxier.Service
		want int
	}{
		{proxier.Service{Protocol: proxier.TCP, Scheduler: "wlc"}, 0},
		{proxier.Service{Protocol: proxier.TCP, Scheduler: "mh"}, 1},
		{proxier.Service{Protocol: proxier.SCTP}, 1},
		{proxier.Service{Protocol: proxier.UDP, ProxyProtocol: true}, 1},
	} {
		if got := notesOn(&test.spec); len(got) != test.want {
			t.Errorf("%+v: %v", test.spec, got)
		}
	}
}
