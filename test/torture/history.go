package main

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"switchyard/proxier"
)

// history is what the node was to do at which time, and when it could not be expected
// to. It judges what happened to a connection.
//
//	change            confirmed (the kernel was compared)
//	  │ state 2 ──────────┼───────────────►
//	──┼── state 1 ─┐      │
//	  └── grace ───┘ and as long as the proxy is down, held up, or made to fail
//
// A connection is right if any state that was possible at any moment of its
// time would have it so.
type history struct {
	pace pace

	mu       sync.Mutex
	epochs   []epoch
	hindered []span // the proxy could not program
	damaged  []span // somebody else broke what was programmed
	cuts     []span // a process was killed that carries connections
}

type epoch struct {
	states states
	from   time.Time
	over   time.Time // confirmed to be over; zero: not
}

// span is a time; a zero end: it lasts.
type span struct{ from, until time.Time }

func (s span) overlaps(from, until time.Time) bool {
	return !s.from.After(until) && (s.until.IsZero() || !s.until.Before(from))
}

// add notes what the node is to do from now on. It is called before anybody is
// told.
func (h *history) add(s states) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.epochs = append(h.epochs, epoch{states: s, from: time.Now()})
}

// latest is what the node is to do.
func (h *history) latest() states {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.epochs[len(h.epochs)-1].states
}

// confirm notes that the kernel does what it should, as of a time.
func (h *history) confirm(at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	last := len(h.epochs) - 1
	for i := range h.epochs[:last] {
		if h.epochs[i].over.IsZero() {
			h.epochs[i].over = at
		}
	}
	for i := range h.damaged {
		if h.damaged[i].until.IsZero() {
			h.damaged[i].until = at
		}
	}
}

// start is when the latest state was told.
func (h *history) start() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.epochs[len(h.epochs)-1].from
}

// hinder and damage begin such a time; a time of damage ends with confirm, or when
// the returned function is called.
func (h *history) hinder() (end func()) { return h.begin(&h.hindered) }
func (h *history) damage() (end func()) { return h.begin(&h.damaged) }

// cut begins a time in which connections that stand may end.
func (h *history) cut() (end func()) { return h.begin(&h.cuts) }

// isCut reports whether a connection that stood may have ended so.
func (h *history) isCut(from, until time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.cuts, func(s span) bool { return s.overlaps(from, until) })
}

func (h *history) begin(list *[]span) (end func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := len(*list)
	*list = append(*list, span{from: time.Now()})
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if (*list)[i].until.IsZero() {
			(*list)[i].until = time.Now()
		}
	}
}

// isDamaged reports whether anything may have happened at a time: until the repair was
// seen, or was due.
func (h *history) isDamaged(from, until time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.broken(), func(s span) bool { return s.overlaps(from, until) })
}

// broken are the times of damage, those that last until the repair is due.
func (h *history) broken() []span {
	all := slices.Clone(h.damaged)
	for i, s := range all {
		if s.until.IsZero() {
			all[i].until = after(s.from, h.hindered, h.pace.repair)
		}
	}
	return all
}

// possible lists the states that the kernel may have been in, the latest first.
func (h *history) possible(from, until time.Time) (all []states) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := len(h.epochs) - 1; i >= 0; i-- {
		e := h.epochs[i]
		if e.from.After(until) {
			continue
		}
		over := e.over
		if over.IsZero() && i+1 < len(h.epochs) {
			over = h.overdue(h.epochs[i+1].from)
		}
		if over.IsZero() || !over.Before(from) {
			all = append(all, e.states)
		} else if !e.over.IsZero() {
			break // and so are all before it
		}
	}
	return all
}

// overdue is when a change must have taken effect; zero: that is not yet known.
func (h *history) overdue(change time.Time) time.Time {
	return after(change, slices.Concat(h.hindered, h.broken()), h.pace.grace)
}

// after is when a time has passed in which nothing hindered; zero: that is not yet
// known.
func after(at time.Time, spans []span, pass time.Duration) time.Time {
	spans = slices.Clone(spans)
	slices.SortFunc(spans, func(a, b span) int { return a.from.Compare(b.from) })
	for _, s := range spans {
		switch {
		case !s.overlaps(at, at.Add(pass)):
		case s.until.IsZero():
			return time.Time{}
		default:
			at = later(at, s.until)
		}
	}
	return at.Add(pass)
}

// outcome is what became of a connection or a datagram.
type outcome struct {
	verdict proxier.Verdict
	from    string // Forward: who answered
}

// allowed reports whether a state would have it so. kept: the flow is older than the
// state, and stays where it is as long as its endpoint serves.
func allowed(s *proxier.State, p proxier.Packet, o outcome, kept bool) bool {
	fate := s.Decide(p)
	if kept && o.verdict == proxier.Forward && fate.Service != nil && keeps(fate.Service, o.from) {
		return true
	}
	switch fate.Verdict {
	case proxier.Forward:
		return o.verdict == proxier.Forward && slices.ContainsFunc(fate.Endpoints, func(e proxier.Endpoint) bool { return e.Addr.String() == o.from })
	case proxier.Pass:
		return o.verdict != proxier.Forward
	}
	return o.verdict == fate.Verdict
}

// keeps reports whether a flow that has an endpoint may stay there.
func keeps(svc *proxier.Service, addr string) bool {
	is := func(e proxier.Endpoint) bool { return e.Addr.String() == addr }
	return slices.ContainsFunc(svc.Cluster, is) || slices.ContainsFunc(svc.Local, is) ||
		slices.ContainsFunc(svc.Kept, func(a netip.AddrPort) bool { return a.String() == addr })
}

// forwards reports whether in every possible state the packet reaches an endpoint.
func (h *history) forwards(p proxier.Packet, from, until time.Time) bool {
	f := proxier.FamilyOf(p.Dst.Addr())
	return !h.isDamaged(from, until) && !slices.ContainsFunc(h.possible(from, until), func(s states) bool {
		return s[f].Decide(p).Verdict != proxier.Forward
	})
}

// allows reports whether any possible state would have it so.
func (h *history) allows(p proxier.Packet, o outcome, from, until time.Time) bool {
	if h.isDamaged(from, until) {
		return true
	}
	f := proxier.FamilyOf(p.Dst.Addr())
	return slices.ContainsFunc(h.possible(from, until), func(s states) bool { return allowed(s[f], p, o, false) })
}
