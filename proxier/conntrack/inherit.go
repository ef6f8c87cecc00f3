package conntrack

import (
	"context"
	"time"

	"switchyard/proxier"
)

const (
	// inheritWithin bounds how long the first apply waits for the look at what was
	// left.
	inheritWithin = 2 * time.Second
	// maxWays bounds what is asked about.
	maxWays = 10_000
)

// Inherit finds the flows that a process before sent to what is no Service's address
// any more. Only the rules that it left can tell them from those of other programs, so
// it is called before they are replaced; they are read only if there are flows that the
// wanted State does not explain. What is found is deleted after the first apply.
//
// What cannot be known stays: a flow to an address for which no rule stands any more.
func (c *Cleaner) Inherit(ctx context.Context, want *proxier.State,
	list func(context.Context, proxier.Family, func(Flow)) error, heir proxier.Heir) {
	ctx, cancel := context.WithTimeout(ctx, inheritWithin)
	defer cancel()
	policy := build(want, nil)
	unexplained := map[proxier.Way]bool{}
	err := list(ctx, want.Family, func(f Flow) {
		if _, ours := policy.lookup(&f); !ours && f.translated() && len(unexplained) < maxWays {
			unexplained[wayOf(&f)] = true
		}
	})
	var led []proxier.Way
	if err == nil && len(unexplained) > 0 {
		ways := make([]proxier.Way, 0, len(unexplained))
		for w := range unexplained {
			ways = append(ways, w)
		}
		led, err = heir.Led(ctx, &want.Node, ways)
	}
	if err != nil {
		c.log.Warn("flows to services that are gone since before this start may stay", "family", want.Family.String(), "err", err)
		return
	}
	found := map[proxier.Way]bool{}
	for _, w := range led {
		found[w] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inherited[want.Family] = found
}
