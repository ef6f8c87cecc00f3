package conntrack

import (
	"fmt"
	"testing"

	"switchyard/proxier"
)

const (
	dns  = "udp dns vip:53 ext:53 lb:53 port:30053 > pod1:53 pod2:53"
	none = "udp dns vip:53 ext:53 lb:53 port:30053 >"
)

// Each row is one step from a State to the next and one flow.
var staleRows = []struct {
	why        string
	last, next []string // Services; last nil: not known
	flow       string
	stale      bool
}{
	// (i) The endpoint was replaced.
	{"cluster IP, endpoint gone", []string{dns}, []string{"udp dns vip:53 > pod2:53"}, "udp client:4000 vip:53 pod1:53", true},
	{"external IP, endpoint gone", []string{dns}, []string{"udp dns ext:53 > pod2:53"}, "udp client:4000 ext:53 pod1:53", true},
	{"load balancer, endpoint gone", []string{dns}, []string{"udp dns lb:53 > pod2:53"}, "udp client:4000 lb:53 pod1:53", true},
	{"node port, endpoint gone", []string{dns}, []string{"udp dns port:30053 > pod2:53"}, "udp client:4000 node:30053 pod1:53", true},
	{"endpoint still there", []string{dns}, []string{"udp dns vip:53 > pod2:53"}, "udp client:4000 vip:53 pod2:53", false},
	{"same pod, other port", []string{dns}, []string{"udp dns vip:53 > pod1:54 pod2:53"}, "udp client:4000 vip:53 pod1:53", true},
	{"local endpoint only", []string{dns}, []string{"udp dns vip:53 > local pod1:53"}, "udp client:4000 vip:53 pod1:53", false},
	{"not a local endpoint", []string{dns}, []string{"udp dns vip:53 > local pod1:53"}, "udp client:4000 vip:53 pod2:53", true},

	// (ii) The Service was scaled to zero.
	{"cluster IP, none left", []string{dns}, []string{none}, "udp client:4000 vip:53 pod1:53", true},
	{"external IP, none left", []string{dns}, []string{none}, "udp client:4000 ext:53 pod1:53", true},
	{"load balancer, none left", []string{dns}, []string{none}, "udp client:4000 lb:53 pod1:53", true},
	{"node port, none left", []string{dns}, []string{none}, "udp client:4000 node:30053 pod1:53", true},
	{"none left, was never translated", []string{dns}, []string{none}, "udp client:4000 vip:53 vip:53", false},

	// (iii) The Service was deleted, or one of its addresses.
	{"cluster IP of a deleted Service", []string{dns}, nil, "udp client:4000 vip:53 pod1:53", true},
	{"node port of a deleted Service", []string{dns}, nil, "udp client:4000 node:30053 pod1:53", true},
	{"deleted Service, was never translated", []string{dns}, nil, "udp client:4000 vip:53 vip:53", false},
	{"deleted Service, somebody else's translation", []string{dns}, nil, "udp client:4000 vip:53 pod3:53", false},
	{"deleted Service, node port at another machine", []string{dns}, nil, "udp client:4000 faraway:30053 pod1:53", false},
	{"external IP withdrawn", []string{dns}, []string{"udp dns vip:53 > pod1:53 pod2:53"}, "udp client:4000 ext:53 pod1:53", true},
	{"other address of it stays", []string{dns}, []string{"udp dns vip:53 > pod1:53 pod2:53"}, "udp client:4000 vip:53 pod1:53", false},
	{"port renumbered", []string{dns}, []string{"udp dns vip:5353 > pod1:53 pod2:53"}, "udp client:4000 vip:53 pod1:53", true},
	{"node port renumbered", []string{dns}, []string{"udp dns vip:53 port:30054 > pod1:53 pod2:53"}, "udp client:4000 node:30053 pod1:53", true},
	{"protocol changed", []string{dns}, []string{"tcp dns vip:53 > pod1:53 pod2:53"}, "udp client:4000 vip:53 pod1:53", true},
	{"address taken over by another Service", []string{dns}, []string{"udp new vip:53 > pod3:53"}, "udp client:4000 vip:53 pod1:53", true},
	{"taken over, goes to the new one", []string{dns}, []string{"udp new vip:53 > pod3:53"}, "udp client:4000 vip:53 pod3:53", false},
	{"taken over with the same endpoint", []string{dns}, []string{"udp new vip:53 > pod1:53"}, "udp client:4000 vip:53 pod1:53", false},

	// (iv) The packet came before the rules.
	{"cluster IP, before the rules", []string{none}, []string{dns}, "udp client:4000 vip:53 vip:53", true},
	{"external IP, before the rules", []string{}, []string{dns}, "udp client:4000 ext:53 ext:53", true},
	{"load balancer, before the rules", []string{}, []string{dns}, "udp client:4000 lb:53 lb:53", true},
	{"node port, before the rules", []string{}, []string{dns}, "udp client:4000 node:30053 node:30053", true},
	{"before the rules, at the start", nil, []string{dns}, "udp client:4000 vip:53 vip:53", true},
	{"endpoint at the very address", []string{}, []string{"udp dns node:53 > node:53"}, "udp client:4000 node:53 node:53", false},

	// At the start nothing is known of before.
	{"restart, right endpoint", nil, []string{dns}, "udp client:4000 vip:53 pod1:53", false},
	{"restart, wrong endpoint", nil, []string{dns}, "udp client:4000 vip:53 pod3:53", true},
	{"restart, not ours", nil, []string{dns}, "udp client:4000 vip2:53 pod1:53", false},

	// A flow (QUIC, a session) whose endpoint drains stays with it.
	{"endpoint gets no new flows", []string{dns}, []string{"udp dns vip:53 port:30053 > pod2:53 kept pod1:53"}, "udp client:4000 vip:53 pod1:53", false},
	{"the same by node port", []string{dns}, []string{"udp dns vip:53 port:30053 > pod2:53 kept pod1:53"}, "udp client:4000 node:30053 pod1:53", false},
	{"only draining ones left", []string{dns}, []string{"udp dns vip:53 > kept pod1:53"}, "udp client:4000 vip:53 pod1:53", false},
	{"only draining ones left, was never translated", []string{dns}, []string{"udp dns vip:53 > kept pod1:53"}, "udp client:4000 vip:53 vip:53", false},

	// Others' flows.
	{"node port at another machine", []string{dns}, []string{none}, "udp client:4000 faraway:30053 pod1:53", false},
	{"another port of the address", []string{dns}, []string{none}, "udp client:4000 vip:54 pod1:53", false},
	{"straight to the pod", []string{dns}, []string{none}, "udp client:4000 pod1:53 pod1:53", false},
	{"somebody else's translation", []string{dns}, []string{none}, "udp client:4000 vip2:53 pod1:53", false},
	{"TCP", []string{"tcp web vip:80 > pod1:80"}, []string{"tcp web vip:80 >", "udp other vip2:53 > pod1:53"}, "tcp client:4000 vip:80 pod1:80", false},
	{"TCP at the port of a UDP Service", []string{dns}, []string{none}, "tcp client:4000 vip:53 pod1:53", false},
	{"SCTP", []string{"sctp sig vip:36412 > pod1:36412"}, []string{"sctp sig vip:36412 > pod2:36412"}, "sctp client:4000 vip:36412 pod1:36412", true},
}

func TestStale(t *testing.T) {
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		for _, row := range staleRows {
			t.Run(fmt.Sprint(family, " ", row.why), func(t *testing.T) {
				var last *proxier.State
				if row.last != nil {
					last = state(family, row.last, "any")
				}
				p := Plan(last, state(family, row.next, "any"))
				if got := p.Stale(flow(family, row.flow)); got != row.stale {
					t.Errorf("%s: stale is %v, want %v\n from %q\n to   %q", row.flow, got, row.stale, row.last, row.next)
				}
			})
		}
	}
}

func TestStaleByNodePortAddresses(t *testing.T) {
	const nodePort = "udp dns port:30053 > pod1:53"
	for _, row := range []struct {
		why        string
		last, next []string // node-port addresses
		flow       string
		stale      bool
	}{
		{"served address, wrong endpoint", []string{"node"}, []string{"node"}, "udp client:4000 node:30053 pod2:53", true},
		{"address that is not chosen", []string{"node"}, []string{"node"}, "udp client:4000 node2:30053 pod2:53", false},
		{"address no longer chosen", []string{"any"}, []string{"node"}, "udp client:4000 node2:30053 pod1:53", true},
		{"address newly chosen, flow passed by", []string{"node"}, []string{"any"}, "udp client:4000 node2:30053 node2:30053", true},
		{"still chosen", []string{"any"}, []string{"node"}, "udp client:4000 node:30053 pod1:53", false},
		{"localhost off", []string{"any", "localhost"}, []string{"any"}, "udp local:4000 local:30053 pod1:53", true},
		{"localhost on, right endpoint", []string{"any"}, []string{"any", "localhost"}, "udp local:4000 local:30053 pod1:53", false},
	} {
		for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
			last, next := state(family, []string{nodePort}, row.last...), state(family, []string{nodePort}, row.next...)
			if got := build(next, diff(last, next).former).Stale(flow(family, row.flow)); got != row.stale {
				t.Errorf("%s, %s: stale is %v, want %v", family, row.why, got, row.stale)
			}
		}
	}
}

// Where a relay of the node takes the flows, that is where they belong.
func TestStaleByRelay(t *testing.T) {
	for _, row := range []struct {
		why        string
		last, next []string
		flow       string
		stale      bool
	}{
		{"at the relay", nil, []string{dns}, "udp client:4000 vip:53 node:10247", false},
		{"at the relay, its endpoint was replaced", []string{dns}, []string{"udp dns vip:53 > pod2:53"}, "udp client:4000 vip:53 node:10247", false},
		{"at the relay, no endpoint left", []string{dns}, []string{none}, "udp client:4000 vip:53 node:10247", true},
		{"at the relay, Service deleted", []string{dns}, nil, "udp client:4000 vip:53 node:10247", true},
		{"at the relay, node port gone", []string{dns}, []string{"udp dns vip:53 > pod1:53"}, "udp client:4000 node:30053 node:10247", true},
		{"the same port of somebody else", nil, []string{dns}, "udp client:4000 vip:53 pod3:10247", true},
		{"another port of the node", nil, []string{dns}, "udp client:4000 vip:53 node:10248", true},
		{"passed by before there were rules", nil, []string{dns}, "udp client:4000 vip:53 vip:53", true},
	} {
		for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
			var last *proxier.State
			if row.last != nil {
				last = state(family, row.last, "any")
			}
			next := state(family, row.next, "any")
			policy := build(next, diff(last, next).former)
			policy.relay = 10247
			if got := policy.Stale(flow(family, row.flow)); got != row.stale {
				t.Errorf("%s, %s: stale is %v, want %v", family, row.why, got, row.stale)
			}
		}
	}
}

// No pass at all where no flow can have become stale.
func TestEmpty(t *testing.T) {
	const web = "tcp web vip:80 port:30080 > pod1:80"
	for _, row := range []struct {
		why        string
		last, next []string
		empty      bool
	}{
		{"start without UDP", nil, []string{web}, true},
		{"start with UDP", nil, []string{web, dns}, false},
		{"start with SCTP", nil, []string{"sctp sig vip:1 >"}, false},
		{"nothing changed", []string{web, dns}, []string{web, dns}, true},
		{"TCP endpoint gone", []string{web, dns}, []string{"tcp web vip:80 >", dns}, true},
		{"TCP Service new", []string{dns}, []string{web, dns}, true},
		{"TCP Service deleted", []string{web, dns}, []string{dns}, true},
		{"endpoint added", []string{"udp dns vip:53 > pod1:53"}, []string{"udp dns vip:53 > pod1:53 pod2:53"}, true},
		{"first endpoint", []string{none}, []string{dns}, false},
		{"endpoint gone", []string{dns}, []string{"udp dns vip:53 ext:53 lb:53 port:30053 > pod1:53"}, false},
		{"endpoint drains", []string{"udp dns vip:53 > pod1:53 pod2:53"}, []string{"udp dns vip:53 > pod1:53 kept pod2:53"}, true},
		{"drained endpoint gone", []string{"udp dns vip:53 > pod1:53 kept pod2:53"}, []string{"udp dns vip:53 > pod1:53"}, false},
		{"address added", []string{"udp dns vip:53 > pod1:53"}, []string{"udp dns vip:53 ext:53 > pod1:53"}, false},
		{"address withdrawn", []string{"udp dns vip:53 ext:53 > pod1:53"}, []string{"udp dns vip:53 > pod1:53"}, false},
		{"Service new", []string{web}, []string{web, dns}, false},
		{"Service deleted", []string{web, dns}, []string{web}, false},
		{"UDP becomes TCP", []string{dns}, []string{"tcp dns vip:53 > pod1:53"}, false},
	} {
		for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
			var last *proxier.State
			if row.last != nil {
				last = state(family, row.last, "any")
			}
			if got := Plan(last, state(family, row.next, "any")).Empty(); got != row.empty {
				t.Errorf("%s, %s: empty is %v, want %v", family, row.why, got, row.empty)
			}
		}
	}
}

func TestEmptyByNodePortAddresses(t *testing.T) {
	for _, row := range []struct {
		why        string
		service    string
		last, next string
		empty      bool
	}{
		{"no node port", "udp dns vip:53 > pod1:53", "node", "any", true},
		{"TCP node port", "tcp web port:30080 > pod1:80", "node", "any", true},
		{"UDP node port", dns, "node", "any", false},
		{"same addresses", dns, "node", "node", true},
	} {
		last, next := state(proxier.IPv4, []string{row.service}, row.last), state(proxier.IPv4, []string{row.service}, row.next)
		next.Services = last.Services // shared
		if got := Plan(last, next).Empty(); got != row.empty {
			t.Errorf("%s: empty is %v, want %v", row.why, got, row.empty)
		}
	}
}

func TestPlanWithoutState(t *testing.T) {
	if !Plan(nil, nil).Empty() || !Plan(state(proxier.IPv4, []string{dns}), nil).Empty() {
		t.Error("a pass without a State")
	}
	if Plan(nil, nil).Stale(flow(proxier.IPv4, "udp client:4000 vip:53 pod1:53")) {
		t.Error("stale by no State")
	}
}

// Comparing two States of 10,000 Services that share all but one.
func BenchmarkPlanUnchanged(b *testing.B) {
	last := manyServices(10_000)
	next := *last
	b.ReportAllocs()
	for b.Loop() {
		if !Plan(last, &next).Empty() {
			b.Fatal("not empty")
		}
	}
}

func manyServices(n int) *proxier.State {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf("udp s%05d vip:%d > pod1:53 pod2:53", i, i+1)
	}
	return state(proxier.IPv4, lines, "any")
}
