package ipvs

// ledger counts who wants each of many things and knows which of them the kernel
// holds. What differs is found among the things touched since it was settled, so it
// does not depend on how many there are.
type ledger[K comparable] struct {
	lines   map[K]line
	touched map[K]bool
}

type line struct {
	wanted int32 // by how many
	holds  bool  // the kernel does
}

func newLedger[K comparable]() ledger[K] {
	return ledger[K]{map[K]line{}, map[K]bool{}}
}

// want adds n to those who want it; n may be negative.
func (l *ledger[K]) want(k K, n int32) {
	was := l.lines[k]
	l.put(k, line{was.wanted + n, was.holds})
}

// holds tells whether the kernel holds it.
func (l *ledger[K]) hold(k K, holds bool) {
	l.put(k, line{l.lines[k].wanted, holds})
}

func (l *ledger[K]) put(k K, now line) {
	if now == (line{}) {
		delete(l.lines, k)
	} else {
		l.lines[k] = now
	}
	if now.holds == (now.wanted > 0) {
		l.touched = without(l.touched, k)
	} else {
		l.touched[k] = true
	}
}

// without deletes from a set of keys. A map keeps the room that it once took and walks
// over all of it, so an empty one is replaced: after a cold start every change would
// cost as much as it.
func without[K comparable](keys map[K]bool, k K) map[K]bool {
	if !keys[k] {
		return keys
	}
	delete(keys, k)
	if len(keys) == 0 {
		return map[K]bool{}
	}
	return keys
}

// pending are the things that have to be added, or removed.
func (l *ledger[K]) pending(add bool) []K {
	var out []K
	for k := range l.touched {
		if l.lines[k].holds != add {
			if out == nil {
				out = make([]K, 0, len(l.touched))
			}
			out = append(out, k)
		}
	}
	return out
}

// total is how many things the kernel holds.
func (l *ledger[K]) total() int {
	n := len(l.lines)
	for k := range l.touched {
		if !l.lines[k].holds {
			n--
		}
	}
	return n
}
