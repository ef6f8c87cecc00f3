package main

import (
	"context"
	"fmt"
	"net/netip"
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

// watchAddresses keeps the address book up to date.
func (p *proxy) watchAddresses(ctx context.Context) {
	for ctx.Err() == nil {
		err := node.WatchAddresses(ctx, func() {
			if err := p.addrs.read(); err != nil {
				p.log.Warn("the node's addresses cannot be read", "error", err)
				return
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
