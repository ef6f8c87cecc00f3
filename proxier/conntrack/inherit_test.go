package conntrack

import (
	"context"
	"errors"
	"testing"

	"switchyard/proxier"
)

// heir is rules of a process before that led these ways, in the form of flows.
type heir struct {
	led   []string
	asked int
	err   error
}

func (h *heir) Led(_ context.Context, _ *proxier.Node, ways []proxier.Way) (led []proxier.Way, err error) {
	h.asked = len(ways)
	for _, w := range ways {
		for _, s := range h.led {
			if f := flow(proxier.IPv4, s); wayOf(&f) == w {
				led = append(led, w)
			}
		}
	}
	return led, h.err
}

// What the process before led to an address that is no Service's any more goes with
// the first pass, and nothing else does.
func TestInherit(t *testing.T) {
	const client2 = "udp client:4001 vip2:53 pod2:53"
	for _, c := range []struct {
		why   string
		next  []string
		flows []string
		heir  heir
		left  int
		asked int
	}{
		{"a Service vanished meanwhile", []string{dns}, []string{movedFlow}, heir{led: []string{movedFlow}}, 0, 1},
		{"the only Service vanished meanwhile", nil, []string{movedFlow}, heir{led: []string{movedFlow}}, 0, 1},
		{"somebody else's translation", []string{dns}, []string{movedFlow}, heir{}, 1, 1},
		{"the rules led elsewhere from there", []string{dns}, []string{movedFlow, client2}, heir{led: []string{movedFlow}}, 1, 2},
		{"every flow is right: the rules are not read", []string{dns}, []string{deletedFlow}, heir{}, 1, 0},
		{"not translated", []string{dns}, []string{"udp client:4000 vip2:53 vip2:53"}, heir{}, 1, 0},
		{"the rules cannot be read", []string{dns}, []string{movedFlow}, heir{led: []string{movedFlow}, err: errors.New("no")}, 1, 1},
	} {
		t.Run(c.why, func(t *testing.T) {
			k := &table{flows: c.flows}
			run(t, k, func(cl *Cleaner, _ *[]Pass) {
				list := func(_ context.Context, _ proxier.Family, each func(Flow)) error {
					for _, s := range k.flows {
						each(flow(proxier.IPv4, s))
					}
					return nil
				}
				next := state(proxier.IPv4, c.next)
				cl.Inherit(context.Background(), next, list, &c.heir)
				cl.Applied(nil, next)
				rest(0)
				if len(k.flows) != c.left || c.heir.asked != c.asked {
					t.Errorf("%d flows are left, want %d: %v; %d ways were asked about, want %d", len(k.flows), c.left, k.flows, c.heir.asked, c.asked)
				}
				// It is done with: a later flow by the same way is not looked at.
				k.flows = []string{movedFlow}
				cl.Applied(next, state(proxier.IPv4, []string{"udp other ext:53 > pod3:53"}))
				rest(0)
				if c.heir.err == nil && len(k.flows) != 1 {
					t.Error("what was inherited is not forgotten")
				}
			})
		})
	}
}

// A flow that should be masqueraded and is not ends if its endpoint's answers go past
// the node; its next packet begins it anew.
func TestBareFlows(t *testing.T) {
	for _, c := range []struct {
		why          string
		masq, local  bool
		flow, answer string // answer: to whom the endpoint answers
		stale        bool
	}{
		{"masqueraded, as it should be", true, false, "udp client:4000 vip:53 pod1:53", "node:40000", false},
		{"it began while the rule was gone", true, false, "udp client:4000 vip:53 pod1:53", "client:4000", true},
		{"the endpoint answers through this node", true, true, "udp client:4000 vip:53 pod1:53", "client:4000", false},
		{"a pod that reaches itself", false, true, "udp pod1:4000 vip:53 pod1:53", "pod1:4000", true},
		{"need not be masqueraded", false, false, "udp client:4000 vip:53 pod1:53", "client:4000", false},
		{"the node's own", true, false, "udp node:4000 vip:53 pod1:53", "node:4000", false},
	} {
		s := state(proxier.IPv4, []string{"udp dns vip:53 > pod1:53"})
		s.Services[0].Frontends[0].Routes[0].Masq = c.masq
		s.Services[0].Cluster[0].Local = c.local
		f := flow(proxier.IPv4, c.flow)
		f.ReplyDst = at(proxier.IPv4, c.answer)
		if got := Plan(nil, s).Stale(f); got != c.stale {
			t.Errorf("%s: stale %v, want %v", c.why, got, c.stale)
		}
		s.Node.PodInterfaces = []string{"veth+"}
		if Plan(nil, s).Stale(f) {
			t.Errorf("%s: stale, though it cannot be known who is a pod", c.why)
		}
	}
}

// What a relay on this node took, and takes no more, ends: its port is nobody else's.
func TestInheritedByTheRelay(t *testing.T) {
	p := build(state(proxier.IPv4, []string{dns}), nil)
	f := flow(proxier.IPv4, "udp client:4000 vip2:53 node:10247")
	if p.Stale(f) {
		t.Error("stale without a relay")
	}
	if p.relay = 10247; !p.Stale(f) {
		t.Error("not stale")
	}
}
