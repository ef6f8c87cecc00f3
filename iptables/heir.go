package iptables

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

var _ proxier.Heir = (*Backend)(nil)

// Led implements proxier.Heir: it reads the table nat as text, once.
func (b *Backend) Led(ctx context.Context, node *proxier.Node, ways []proxier.Way) ([]proxier.Way, error) {
	text, err := b.kernel.Save(ctx, "nat")
	if err != nil {
		return nil, fmt.Errorf("read what the process before left: %w", err)
	}
	left := legacy{fronts: map[front]bool{}, endpoints: map[netip.AddrPort]bool{}}
	if err := ruleset.Scan(text, owns, left.add); err != nil {
		return nil, fmt.Errorf("read what the process before left: %w", err)
	}
	var led []proxier.Way
	for _, w := range ways {
		if left.led(w, node) {
			led = append(led, w)
		}
	}
	return led, nil
}

// legacy is what rules of ours say, whoever wrote them.
type legacy struct {
	fronts    map[front]bool
	endpoints map[netip.AddrPort]bool
}

// front is an address and port that led to a service; a node port has no address.
type front struct {
	protocol proxier.Protocol
	addr     netip.Addr
	port     uint16
}

func (l legacy) add(_ string, c ruleset.Chain) {
	for _, r := range c.Rules {
		switch {
		case r.To.IsValid():
			l.endpoints[r.To] = true
		case !leadsToService(r.Jump) || r.Ports.From == 0 || r.Ports.From != r.Ports.To || r.Dst.Not:
		case r.Dst.Prefix.IsSingleIP():
			l.fronts[front{r.Proto, r.Dst.Prefix.Addr(), r.Ports.From}] = true
		case r.Dst == ruleset.Net{}:
			l.fronts[front{protocol: r.Proto, port: r.Ports.From}] = true
		}
	}
}

// leadsToService reports whether a chain is one service's.
func leadsToService(chain string) bool {
	for _, prefix := range []string{servicePrefix, localPrefix, externalPrefix, firewallPrefix} {
		if strings.HasPrefix(chain, prefix) {
			return true
		}
	}
	return false
}

// led reports whether a flow was ours. An address of a service is nobody else's; at a
// node's own address others may have had the flow before us, so that a node port's must
// have gone to an endpoint or a pod.
func (l legacy) led(w proxier.Way, node *proxier.Node) bool {
	if l.fronts[front{w.Protocol, w.To.Addr(), w.To.Port()}] {
		return true
	}
	isPod := slices.ContainsFunc(node.PodRanges, func(p netip.Prefix) bool { return p.Contains(w.Endpoint.Addr()) })
	return l.fronts[front{protocol: w.Protocol, port: w.To.Port()}] && (l.endpoints[w.Endpoint] || isPod)
}
