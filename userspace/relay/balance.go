package relay

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// pool chooses endpoints in turn, or those with the fewest connections, by their
// weights.
type pool struct {
	endpoints []*endpoint
	shares    []int
	least     bool
	weighted  bool

	mu     sync.Mutex
	turn   int   // whose turn it is, in a round without weights
	credit []int // in a round with weights
}

// prepare is to be called once the endpoints are known.
func (p *pool) prepare() {
	p.weighted = slices.ContainsFunc(p.shares, func(s int) bool { return s != p.shares[0] })
	if p.weighted {
		p.credit = make([]int, len(p.shares))
	}
	if len(p.endpoints) > 0 {
		// A service that changes all the time would else prefer its first endpoint.
		p.turn = rand.IntN(len(p.endpoints))
	}
}

func (p *pool) holds(e *endpoint) bool { return slices.Contains(p.endpoints, e) }

// choose returns an endpoint that is not among those tried, nil if there is none. One
// that failed of late is chosen only if there is no other.
func (p *pool) choose(now time.Time, tried []*endpoint) *endpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	fresh := func(e *endpoint) bool { return !slices.Contains(tried, e) }
	if e := p.among(func(e *endpoint) bool { return e.healthy(now) && fresh(e) }); e != nil {
		return e
	}
	return p.among(fresh)
}

func (p *pool) among(usable func(*endpoint) bool) *endpoint {
	switch {
	case p.least:
		return p.leastLoaded(usable)
	case p.weighted:
		return p.byCredit(usable)
	}
	for range p.endpoints {
		e := p.endpoints[p.turn%len(p.endpoints)]
		p.turn++
		if usable(e) {
			return e
		}
	}
	return nil
}

// byCredit gives each endpoint credit by its share, takes the richest, and has it pay
// for all: a round in which the turns of one endpoint are spread.
func (p *pool) byCredit(usable func(*endpoint) bool) *endpoint {
	best, total := -1, 0
	for i, e := range p.endpoints {
		if !usable(e) {
			continue
		}
		p.credit[i] += p.shares[i]
		total += p.shares[i]
		if best < 0 || p.credit[i] > p.credit[best] {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	p.credit[best] -= total
	return p.endpoints[best]
}

// leastLoaded compares connections to shares; among equals it goes in turn.
func (p *pool) leastLoaded(usable func(*endpoint) bool) *endpoint {
	best := -1
	var load int64
	for n := range p.endpoints {
		i := (p.turn + n) % len(p.endpoints)
		e := p.endpoints[i]
		if !usable(e) {
			continue
		}
		active := e.active.Load()
		if best < 0 || active*int64(p.shares[best]) < load*int64(p.shares[i]) {
			best, load = i, active
		}
	}
	if best < 0 {
		return nil
	}
	p.turn = best + 1
	return p.endpoints[best]
}
