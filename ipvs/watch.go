package ipvs

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"switchyard/ipvs/vs"
)

// watch notices that somebody else changed what we made. The device and the rules
// tell cheaply that they were not touched; servers and sets have to be read.
type watch struct {
	repair string // what the next Apply puts right
	next   time.Time
	sweep  time.Time
	after  vs.Key // the server whose destinations were looked at last
}

const (
	// lookEvery is how often servers and sets are read, if that is not too dear.
	lookEvery = 2 * time.Second
	// lookShare bounds what it costs, one part in this many of one core's time, as long
	// as maxLook is not passed: what is lost is to be noticed within 5 s.
	lookShare = 50
	maxLook   = 4 * time.Second
	// destinationsAtOnce is of how many servers each look reads the destinations, too.
	destinationsAtOnce = 20
)

func (w *watch) takeRepair() string {
	repair := w.repair
	w.repair = ""
	return repair
}

// look compares the kernel with what is known of it.
func (b *Backend) look(ctx context.Context) (what string, err error) {
	if what, err = b.device.Drifted(); what == "" && err == nil {
		what, err = b.lookAtRules(ctx)
	}
	now := time.Now()
	if what == "" && err == nil && !now.Before(b.watch.next) {
		if what, err = b.lookAtServers(); what == "" && err == nil {
			what, err = b.lookAtSets()
		}
		done := time.Now()
		b.watch.next = done.Add(min(maxLook, max(lookEvery, lookShare*done.Sub(now))))
	}
	if what != "" {
		b.watch.repair = what
	}
	return what, err
}

func (b *Backend) lookAtRules(ctx context.Context) (string, error) {
	stamp, err := b.rules.Stamp()
	if err != nil || stamp == b.wall.stamp {
		return "", err
	}
	now, err := b.scanRules(ctx)
	if err != nil {
		return "", err
	}
	what := b.wall.missingFrom(now)
	if what == "" {
		b.wall.stamp = stamp
	}
	return what, nil
}

func (b *Backend) lookAtServers() (string, error) {
	all, err := b.servers.Servers(b.family)
	if err != nil {
		return "", err
	}
	for key, s := range b.mem.servers {
		is, stands := all[key]
		switch {
		case s.stands && !stands:
			return fmt.Sprintf("virtual server %s was deleted", key), nil
		case s.stands && is != s.is:
			return fmt.Sprintf("virtual server %s was changed", key), nil
		}
	}
	return b.lookAtDestinations()
}

// lookAtDestinations looks at those of a few servers, and goes on from there the next
// time.
func (b *Backend) lookAtDestinations() (string, error) {
	keys := slices.Collect(maps.Keys(b.mem.servers))
	if len(keys) > destinationsAtOnce {
		slices.SortFunc(keys, vs.Key.Compare)
		at, found := slices.BinarySearchFunc(keys, b.watch.after, vs.Key.Compare)
		if found {
			at++
		}
		keys = slices.Concat(keys[at:], keys[:at])[:destinationsAtOnce]
	}
	for _, key := range keys {
		s := b.mem.servers[key]
		if !s.stands {
			continue
		}
		b.watch.after = key
		counted, err := b.servers.Destinations(key)
		if err != nil {
			return "", err
		}
		same := len(counted) == len(s.pool)
		for _, d := range counted {
			known := find(s.pool, d.Addr)
			same = same && known != nil && *known == d.Destination
		}
		if !same {
			return fmt.Sprintf("the destinations of virtual server %s were changed", key), nil
		}
	}
	return "", nil
}

func (b *Backend) lookAtSets() (string, error) {
	var known [setCount]int
	for e, l := range b.mem.entries.lines {
		if l.holds {
			known[e.set]++
		}
	}
	for s := range setCount {
		entries, err := b.sets.Entries(s.name(b.family))
		if err != nil {
			return "", err
		}
		same := len(entries) == known[s]
		for _, e := range entries {
			same = same && b.mem.entries.lines[member{s, e}].holds
		}
		if !same {
			return fmt.Sprintf("set %s was changed", s.name(b.family)), nil
		}
	}
	return "", nil
}

// sweep ends what has drained.
func (b *Backend) sweep(ctx context.Context) error {
	now := time.Now()
	if len(b.mem.draining) == 0 || now.Before(b.watch.sweep) {
		return nil
	}
	b.watch.sweep = now.Add(drainEvery)
	for key := range b.mem.draining {
		b.mem.touched[key] = true
	}
	a := attempt{Backend: b, ctx: ctx, now: now, aside: map[id]error{}}
	if err := a.carryOut(); err != nil {
		b.Forget()
		return fmt.Errorf("end what has drained: %w", err)
	}
	return nil
}
