package main

import (
	"context"
	"sync"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/engine"
	"switchyard/proxier/metrics"
)

func (p *proxy) metricsOptions() metrics.Options {
	o := metrics.Options{
		Mode: p.options.Mode, Version: version, Families: p.families,
		Status: func() []engine.Status { return p.engine.Status() },
	}
	if p.source.isAPI() {
		o.APIAlive = p.source.heard
	}
	c := &counts{backends: p.opened}
	o.InvalidDropped = func() (uint64, bool) {
		n, known := c.packets()
		return n.Invalid, known
	}
	o.LocalhostAccepted = func() (uint64, bool) {
		n, known := c.packets()
		return n.Localhost, known
	}
	if _, carries := p.opened[0].(proxier.Carrier); carries {
		o.Traffic = p.traffic
	}
	return o
}

// traffic is what the backends carried.
func (p *proxy) traffic() map[proxier.Family][]proxier.Traffic {
	all := map[proxier.Family][]proxier.Traffic{}
	for i, b := range p.opened {
		if c, ok := b.(proxier.Carrier); ok {
			all[p.families[i]] = c.Traffic()
		}
	}
	return all
}

const (
	// countsFresh is how long a reading serves: two metrics of one scrape want it.
	countsFresh = time.Second
	// countsPatience bounds a reading. A program that waits for the lock of the
	// tables must not hold up a scrape.
	countsPatience = 2 * time.Second
)

// counts are the kernel's counts of packets, summed over the families.
type counts struct {
	backends []proxier.Backend

	mu   sync.Mutex
	read time.Time
	last proxier.Packets
	know bool
}

func (c *counts) packets() (proxier.Packets, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.read) > countsFresh {
		c.last, c.know = c.sum()
		c.read = time.Now()
	}
	return c.last, c.know
}

func (c *counts) sum() (sum proxier.Packets, known bool) {
	ctx, cancel := context.WithTimeout(context.Background(), countsPatience)
	defer cancel()
	for _, b := range c.backends {
		counter, ok := b.(proxier.Counter)
		if !ok {
			return proxier.Packets{}, false
		}
		n, err := counter.Packets(ctx)
		if err != nil {
			return proxier.Packets{}, false
		}
		sum.Invalid += n.Invalid
		sum.Localhost += n.Localhost
	}
	return sum, true
}
