package iptables

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"switchyard/iptables/ruleset"
)

// watch notices that somebody else wrote to the kernel's tables. There are three
// ways to look, each dearer than the one before:
//
//	stamp ─ changed ─► prints of our chains ─ not all known, or a rule of a base
//	                                          chain is gone ─► the tables themselves
//
// Prints are read back after our own write, while the stamp says that nobody else
// wrote since. The legacy kernel gives none.
type watch struct {
	stamp  ruleset.Stamp // after our last write
	known  bool          // stamp is
	cost   time.Duration // of the last comparison with the kernel
	last   time.Time     // when that was
	repair string        // what the next Apply puts right

	prints held                 // of our chains as they were written
	ways   map[chainID][]uint64 // prints of the rules of the chains that hold our base rules
	unread map[chainID]bool     // chains of both kinds whose prints are not known
	blind  bool                 // there are no prints
}

const (
	// verifyShare bounds what comparing costs where somebody else writes all the
	// time: at most one part in this many of one core's time.
	verifyShare = 10
	// promptPrints is how many chains' prints are read at the end of an Apply: 20 ms,
	// a small part of what it takes to write them. Else the other family's next write
	// comes first, which mostly is at once, and only the tables can be compared.
	promptPrints = 1000
)

func (w *watch) takeRepair() string {
	repair := w.repair
	w.repair = ""
	return repair
}

// quiet reports whether nobody wrote since the stamp was taken.
func (w *watch) quiet(k kernel) bool {
	stamp, err := k.Stamp()
	return err == nil && w.known && stamp == w.stamp
}

// applied takes the stamp after our own write. quiet: nobody else had written before
// it; else the tables are to be compared.
func (w *watch) applied(k kernel, quiet bool) {
	stamp, err := k.Stamp()
	w.stamp, w.known = stamp, err == nil && quiet
}

// due reports whether the last comparison is long enough ago.
func (w *watch) due() bool { return time.Since(w.last) >= verifyShare*w.cost }

func (w *watch) verified(cost time.Duration) {
	w.cost, w.last = cost, time.Now()
}

// forget drops all prints: what stands was read from the tables.
func (w *watch) forget(h held) {
	w.prints, w.ways = held{"nat": {}, "filter": {}}, map[chainID][]uint64{}
	w.unread = map[chainID]bool{}
	if w.blind {
		return
	}
	for table, chains := range h {
		for name := range chains {
			w.unread[chainID{table, name}] = true
		}
	}
}

// ensured drops the prints of a chain that holds a base rule.
func (w *watch) ensured(rule baseRule) {
	if !w.blind {
		w.unread[chainID{rule.table, rule.chain}] = true
	}
}

// wrote drops the prints of what we wrote.
func (w *watch) wrote(changes []ruleset.Change) {
	if w.blind {
		return
	}
	for _, c := range changes {
		for _, write := range c.Writes {
			delete(w.prints[c.Table], write.Name)
			w.unread[chainID{c.Table, write.Name}] = true
		}
		for _, name := range c.Deletes {
			delete(w.prints[c.Table], name)
			delete(w.unread, chainID{c.Table, name})
		}
	}
}

// promptly reads the prints of the little that an Apply wrote. quiet: nobody else had
// written before it; fresh: all prints were known then. If somebody had written, what
// a base chain lost is not known.
func (w *watch) promptly(k kernel, quiet, fresh bool) {
	if len(w.unread) > promptPrints {
		return
	}
	for id := range w.unread {
		fresh = fresh && owns(id.table, id.name)
	}
	if quiet || fresh {
		w.print(k)
	}
}

// print reads the prints that are not known. Nobody else must have written those
// chains between our own write and the stamp; if somebody wrote since then, they
// stay unknown.
func (w *watch) print(k kernel) {
	if w.blind || len(w.unread) == 0 {
		return
	}
	prints, ways, err := readPrints(k, w.unread)
	if w.blind = errors.Is(err, errors.ErrUnsupported); w.blind {
		w.unread = map[chainID]bool{}
	}
	if stamp, failed := k.Stamp(); errors.Join(err, failed) == nil && stamp == w.stamp {
		w.learn(prints, ways)
	}
}

// learn takes prints of chains that stand as we wrote them.
func (w *watch) learn(prints held, ways map[chainID][]uint64) {
	for id := range w.unread {
		if p, ok := prints[id.table][id.name]; ok {
			w.prints[id.table][id.name] = p
			delete(w.unread, id)
		}
		if rules, ok := ways[id]; ok {
			w.ways[id] = rules
			delete(w.unread, id)
		}
	}
	if len(w.unread) == 0 {
		w.unread = map[chainID]bool{} // a map does not shrink
	}
}

// readPrints reads the prints of chains, and of each rule of those that others own.
func readPrints(k kernel, chains map[chainID]bool) (prints held, ways map[chainID][]uint64, err error) {
	prints, ways = held{}, map[chainID][]uint64{}
	ours := map[string][]string{}
	for id := range chains {
		if owns(id.table, id.name) {
			ours[id.table] = append(ours[id.table], id.name)
			continue
		}
		if ways[id], err = k.RulePrints(id.table, id.name); err != nil {
			return nil, nil, err
		}
	}
	for table, names := range ours {
		if prints[table], err = k.Prints(table, names); err != nil {
			return nil, nil, err
		}
	}
	return prints, ways, nil
}

// compare compares the kernel's prints with the known ones: changed names a chain
// of ours that differs. It is not sure if the prints cannot tell.
func (w *watch) compare(k kernel) (changed string, sure bool) {
	if w.blind || len(w.unread) > 0 || w.prints == nil {
		return "", false
	}
	chains := map[chainID]bool{}
	for id := range w.ways {
		chains[id] = true
	}
	for table := range w.prints {
		names, err := k.Chains(table)
		if err != nil {
			return "", false
		}
		for _, name := range names {
			if owns(table, name) {
				chains[chainID{table, name}] = true
			}
		}
	}
	prints, ways, err := readPrints(k, chains)
	if err != nil {
		return "", false
	}
	if changed, same := w.prints.same(prints); !same {
		return changed, true
	}
	for id, rules := range w.ways {
		gone := func(rule uint64) bool { return !slices.Contains(ways[id], rule) }
		if slices.ContainsFunc(rules, gone) { // one of ours, or somebody else's
			return "", false
		}
	}
	w.ways = ways
	return "", true
}

// Drifted implements proxier.Watcher: a fingerprint of the kernel's tables is
// compared each time, our chains only if it changed.
func (b *Backend) Drifted(ctx context.Context) (string, error) {
	if b.mem == nil || b.mem.state == nil {
		return "", nil
	}
	w := &b.watch
	if w.quiet(b.kernel) {
		w.print(b.kernel)
		return "", nil
	}
	if !w.due() {
		return "", nil
	}
	// What is written from here on shows in the next comparison.
	stamp, err := b.kernel.Stamp()
	w.stamp, w.known, err = stamp, err == nil, nil
	start := time.Now()
	changed, sure := w.compare(b.kernel)
	if !sure {
		w.repair, err = b.compareTables(ctx)
	} else if changed != "" {
		b.Forget()
		w.repair = "chain " + changed + " was changed or deleted"
	}
	if err != nil || w.repair != "" {
		return w.repair, err
	}
	w.verified(time.Since(start))
	return "", nil
}

// compareTables reads the tables themselves, and learns the prints of what was not
// written meanwhile.
func (b *Backend) compareTables(ctx context.Context) (what string, err error) {
	known, state := b.mem, b.accepted
	chains := maps.Clone(b.watch.unread)
	for _, rule := range b.base {
		chains[chainID{rule.table, rule.chain}] = true
	}
	for table, names := range known.held {
		for name := range names {
			chains[chainID{table, name}] = true
		}
	}
	prints, ways := b.tryRead(chains)
	if err := b.read(ctx, &state.Node); err != nil {
		b.Forget()
		return "", err
	}
	changed, same := known.held.same(b.mem.held)
	switch {
	case !same:
		return "chain " + changed + " was changed or deleted", nil
	case len(b.missing) > 0:
		return "the way to our chains from " + b.missing[0].chain + " was deleted", nil
	}
	b.mem = known
	b.watch.unread = chains
	printsAfter, waysAfter := b.tryRead(chains)
	b.watch.learn(unchanged(prints, printsAfter), unchangedWays(ways, waysAfter))
	return "", nil
}

// tryRead reads prints; none if there are none.
func (b *Backend) tryRead(chains map[chainID]bool) (held, map[chainID][]uint64) {
	if b.watch.blind {
		return nil, nil
	}
	prints, ways, err := readPrints(b.kernel, chains)
	b.watch.blind = errors.Is(err, errors.ErrUnsupported)
	return prints, ways
}

// unchanged keeps the prints that are the same in both.
func unchanged(before, after held) held {
	for table, prints := range after {
		maps.DeleteFunc(prints, func(name string, p uint64) bool {
			was, ok := before[table][name]
			return !ok || was != p
		})
	}
	return after
}

// unchangedWays is unchanged for chains that others write too.
func unchangedWays(before, after map[chainID][]uint64) map[chainID][]uint64 {
	maps.DeleteFunc(after, func(id chainID, rules []uint64) bool {
		was, ok := before[id]
		return !ok || !slices.Equal(was, rules)
	})
	return after
}
