package relay

import "time"

// node is the place of a link in a list: a link leaves it without a search.
type node struct {
	before, after *node
	link          *link
	due           time.Time // in a wheel
}

func (n *node) listed() bool { return n.after != nil }

func (n *node) leave() {
	if n.listed() {
		n.before.after, n.after.before = n.after, n.before
		n.before, n.after = nil, nil
	}
}

// list is a ring of nodes; its own node stands between the last and the first.
type list struct{ root node }

func (l *list) prepare() { l.root.before, l.root.after = &l.root, &l.root }

// append puts a node at the end, from wherever it was.
func (l *list) append(n *node) {
	n.leave()
	n.before, n.after = l.root.before, &l.root
	n.before.after, l.root.before = n, n
}

// first is nil in an empty list, as next is after the last.
func (l *list) first() *node { return l.next(&l.root) }

func (l *list) next(n *node) *node {
	if n.after == &l.root {
		return nil
	}
	return n.after
}

// A wheel turns by one tick, and has as many slots as a look at an idle link is away.
const (
	tick  = 250 * time.Millisecond
	slots = 256
)

// wheel finds the links whose time has come. One that is due later than a whole turn
// is looked at after that turn, and put off.
type wheel struct {
	slots [slots]list
	turn  time.Time // up to which all was found
	at    int       // the slot of turn
	held  int
}

func (w *wheel) prepare(now time.Time) {
	for i := range w.slots {
		w.slots[i].prepare()
	}
	w.turn = now
}

// set makes a node due, not before its time and at most a tick after. now is the time
// of the last expired.
func (w *wheel) set(n *node, due time.Time) {
	if !n.listed() {
		w.held++
	}
	n.due = due
	away := int((due.Sub(w.turn) + tick - 1) / tick)
	w.slots[(w.at+min(max(away, 1), slots-1))%slots].append(n)
}

func (w *wheel) drop(n *node) {
	if n.listed() {
		w.held--
		n.leave()
	}
}

// expired turns the wheel up to now, and gives each node whose time has come to ring,
// which may set it again.
func (w *wheel) expired(now time.Time, ring func(*link)) {
	if late := now.Sub(w.turn); late > slots*tick { // nothing was due, or the machine slept
		w.turn = now.Add(-slots * tick)
	}
	for !w.turn.Add(tick).After(now) {
		w.turn = w.turn.Add(tick)
		w.at = (w.at + 1) % slots
		w.empty(&w.slots[w.at], ring)
	}
}

func (w *wheel) empty(slot *list, ring func(*link)) {
	for n := slot.first(); n != nil; n = slot.first() {
		if n.due.After(w.turn) {
			w.set(n, n.due) // into another slot: it was more than a turn away
			continue
		}
		w.drop(n)
		ring(n.link)
	}
}
