package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"switchyard/proxier/node"
)

// addressBook holds the machine's addresses.
type addressBook struct {
	mu    sync.Mutex
	addrs []netip.Addr
}

func (b *addressBook) get() []netip.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.addrs
}

// reachable reports whether another machine could reach the node at some address.
func (b *addressBook) reachable() bool {
	return slices.ContainsFunc(b.get(), netip.Addr.IsGlobalUnicast)
}

func (b *addressBook) read() error {
	addrs, err := node.Addresses()
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addrs = addrs
	return nil
}

// lookAround reads the node's addresses, and says what of the node is not there yet.
// Nothing waits for it: rules name it and hold once it is there.
func (p *proxy) lookAround() {
	if err := p.addrs.read(); err != nil {
		p.log.Warn("the node's addresses cannot be read yet", "error", err)
	} else if !p.addrs.reachable() {
		p.log.Warn("the node has no address yet: node ports answer at its addresses once they come")
	}
	if bridge := p.options.Node.Detect.Bridge; bridge != "" && !node.HasInterface(bridge) {
		p.log.Warn("the interface of the pods is not there yet: they are known by it once it comes", "interface", bridge)
	}
	if count, limit, err := node.Flows(); err == nil && count >= limit-limit/20 {
		p.log.Warn("connection tracking is full: the kernel drops new connections, ours among them, until old ones end",
			"connections", count, "limit", limit, "setting", "net.netfilter.nf_conntrack_max")
	}
}

// watchAddresses keeps the address book up to date.
func (p *proxy) watchAddresses(ctx context.Context) {
	for ctx.Err() == nil {
		err := node.WatchAddresses(ctx, func() {
			before := p.addrs.reachable()
			if err := p.addrs.read(); err != nil {
				p.log.Warn("the node's addresses cannot be read", "error", err)
				return
			}
			if !before && p.addrs.reachable() {
				p.log.Info("the node has an address now")
			}
			p.start.proceed()
		})
		if err != nil && ctx.Err() == nil {
			p.log.Warn("the node's addresses are not watched; trying again in 10 s", "error", err)
			sleep(ctx, 10*time.Second)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// parseAddrs reads the addresses that render was given.
func parseAddrs(texts []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("--node-addresses: %q: not an IP address", text)
		}
		out = append(out, a)
	}
	return out, nil
}
