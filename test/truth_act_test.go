package test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/proxiertest"
	"switchyard/test/netlab"
	"switchyard/test/uml"
)

// act is one packet line, played until it is clear what becomes of it.
type act struct {
	*theatre
	packet proxiertest.Packet
	host   *netlab.Host
	src    netip.Addr
	short  bool // do not wait long for an answer: not all come back
}

func (a *act) play() error {
	if a.packet.Want.Verdict == proxier.Forward {
		return a.playForward()
	}
	return a.judge(a.probe())
}

func (a *act) probe() netlab.Result {
	p := netlab.Probe{Protocol: a.packet.Protocol, Dst: a.packet.Dst, Timeout: silence()}
	if a.src.IsValid() {
		p.Src = netip.AddrPortFrom(a.src, 0)
	}
	switch {
	case a.packet.Want.Verdict == proxier.Forward && !a.short:
		p.Timeout = uml.Patience() * 3 * time.Second
	case a.packet.Want.Verdict == proxier.Reject:
		// Between namespaces an ICMPv6 error comes while connect still holds the
		// socket, which takes note only of the one for its second SYN, a second later.
		p.Timeout = uml.Patience() * 2 * time.Second
	}
	return a.host.Probe(context.Background(), p)
}

// silence is how long nothing must be heard until there is nothing to hear: a
// hundred times of what an answer takes, in either kernel.
func silence() time.Duration {
	if uml.Inside() {
		return 600 * time.Millisecond
	}
	return 300 * time.Millisecond
}

// judge compares what happened to a packet that no endpoint may see.
func (a *act) judge(r netlab.Result) error {
	ok := false
	switch a.packet.Want.Verdict {
	case proxier.Reject:
		ok = r.Verdict == netlab.Refused
	case proxier.Drop:
		// The kernel tells a sender on the node itself that its datagram was dropped.
		ok = r.Verdict == netlab.Timeout || errors.Is(r.Err, syscall.EPERM)
	case proxier.Pass:
		ok = r.Verdict != netlab.Answered || r.Endpoint == a.packet.Dst.String()
	}
	if !ok {
		return fmt.Errorf("it was %s by %q (%v)", r.Verdict, r.Endpoint, r.Err)
	}
	return nil
}

// playForward probes until every endpoint answered; none else may, and each must
// see the client that it should.
func (a *act) playForward() error {
	seen := map[string]int{}
	want := a.answering()
	a.short = len(want) < len(a.packet.Want.Endpoints)
	for range a.tries(len(want)) {
		r := a.probe()
		if a.short && r.Verdict == netlab.Timeout {
			continue
		}
		if r.Verdict != netlab.Answered {
			return fmt.Errorf("it was %s: %v", r.Verdict, r.Err)
		}
		if err := a.check(r); err != nil {
			return err
		}
		if seen[r.Endpoint]++; len(seen) == len(want) && !a.packet.Want.Sticky {
			return nil
		}
	}
	switch {
	case a.packet.Want.Sticky && len(seen) > 1:
		return fmt.Errorf("one client went to several endpoints: %v", seen)
	case a.packet.Want.Sticky || len(want) == 0:
		return nil
	}
	return fmt.Errorf("only %v answered", seen)
}

// tries is how often a packet is sent at most: until it would be a wonder (one in
// a million) if an endpoint had not been chosen, a few times to see that a client
// stays, and once where no answer can come back.
func (a *act) tries(answering int) int {
	switch {
	case answering == 0:
		return 1
	case a.packet.Want.Sticky && a.short:
		return 3
	case a.packet.Want.Sticky:
		return 10
	}
	return 20 * len(a.packet.Want.Endpoints)
}

func (a *act) check(r netlab.Result) error {
	i := slices.IndexFunc(a.packet.Want.Endpoints, func(e proxiertest.Endpoint) bool { return e.Addr.String() == r.Endpoint })
	if i < 0 {
		return fmt.Errorf("it was answered by %s", r.Endpoint)
	}
	client, masq := r.ClientSeen.Addr().Unmap(), a.packet.Want.Endpoints[i].Masq
	if masq && !a.masked[client] {
		return fmt.Errorf("%s saw %s, which is no address of the node", r.Endpoint, client)
	}
	if !masq && client != a.packet.Src {
		return fmt.Errorf("%s saw %s, not the client", r.Endpoint, client)
	}
	return nil
}

// answering are the endpoints whose answers come back by way of node-a, where
// they are translated back. An endpoint elsewhere answers a client elsewhere
// directly, who cannot know it.
func (a *act) answering() []proxiertest.Endpoint {
	pods := proxiertest.LabOf(proxier.FamilyOf(a.packet.Dst.Addr())).NodePods
	here := func(addr netip.Addr) bool { return pods.Contains(addr) || a.masked[addr] }
	var out []proxiertest.Endpoint
	for _, e := range a.packet.Want.Endpoints {
		if e.Masq || here(e.Addr.Addr()) || here(a.packet.Src) || a.host == a.Host(netlab.NodeA) {
			out = append(out, e)
		}
	}
	return out
}
