package relay

import (
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// worker carries connections, from their beginning to their end, on one goroutine: what
// it has needs no locks. All that happens to its sockets comes to it as events.
//
//	poll ─► an event ─► link ─► course: what is to be done ─► kernel
//	wheel ─► a time that has come ─┘
type worker struct {
	relay    *Relay
	poller   *poller
	patience patience

	links []*link // by place; 0 is the listener
	free  []int32 // places
	again []*link // which have more to move
	wheel wheel
	armed bool // the poller wakes for the wheel
	now   time.Time

	suspects list // the one that has been idle for longest first
	pipes    pipes
	buffer   [bufferSize]byte
	reserve  reserve

	stopAccepting, cutAll atomic.Bool
	accepting             bool
}

// acceptBatch is how many connections are taken before those that are have their turn.
const acceptBatch = 32

func newWorker(r *Relay) (*worker, error) {
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	w := &worker{relay: r, poller: p, patience: r.patience, links: []*link{nil}, now: time.Now(), accepting: true}
	w.wheel.prepare(w.now)
	w.suspects.prepare()
	w.reserve.open()
	return w, nil
}

// run ends when the relay has given its listener up and the last link is over.
func (w *worker) run() {
	if w.relay.ns != nil { // sockets belong where their thread is
		runtime.LockOSThread()
		if err := w.relay.ns.enter(); err != nil {
			w.relay.warn("connections are not accepted", "error", err)
		}
	}
	if err := w.poller.watchListener(w.relay.tcp, label{}); err != nil {
		w.relay.warn("connections are not accepted", "error", err)
	}
	for w.accepting || !w.cutAll.Load() {
		_ = w.poller.park(w.turn) // by then it is the time that was set, or somebody has called
		w.ring()
		w.obey() // at last: a call that comes now wakes again
	}
	w.close()
}

func (w *worker) close() {
	w.pipes.close()
	w.reserve.close()
	w.poller.close()
}

// obey does what other goroutines have asked for.
func (w *worker) obey() {
	if w.accepting && w.stopAccepting.Load() {
		w.accepting = false
		w.poller.forget(w.relay.tcp)
		w.relay.listening.Done()
	}
	if w.cutAll.Load() {
		for _, l := range w.links[1:] {
			if l.course.phase != over && l.service != nil {
				w.do(l, l.course.fail())
			}
		}
	}
}

// turn handles what has happened, until nothing more has.
func (w *worker) turn(uintptr) bool {
	for rounds := 1; ; rounds++ {
		events := w.poller.poll()
		if len(events) == 0 && len(w.again) == 0 {
			return false
		}
		w.now = time.Now()
		for _, e := range events {
			w.happened(label{e.Fd, e.Pad}, e.Events)
		}
		w.goOn()
		if w.wheel.held > 0 && w.now.Sub(w.wheel.turn) >= 2*tick { // it is busy: the poller does not wake
			return true
		}
		if rounds%16 == 0 {
			runtime.Gosched() // where there is one processor others have a turn too
		}
	}
}

// happened handles one event.
func (w *worker) happened(at label, events uint32) {
	if at.place == 0 {
		w.accept()
		return
	}
	l, which := w.links[at.place>>1], which(at.place&1)
	s := &l.sides[which]
	if s.generation != at.generation || l.course.phase == over {
		return // of a socket that is closed
	}
	in, out, fault := readiness(events)
	s.in, s.out, s.fault = s.in || in, s.out || out, s.fault || fault
	if l.course.phase == seeking {
		w.answered(l, which)
	} else {
		w.carry(l)
	}
}

// goOn gives links that have more to move another turn.
func (w *worker) goOn() {
	again := w.again
	w.again = w.again[len(w.again):]
	for _, l := range again {
		l.again = false
		if l.course.phase == carrying {
			w.carry(l)
		}
	}
}

// carry moves what there is, both ways.
func (w *worker) carry(l *link) {
	for _, from := range [...]which{ofClient, ofEndpoint} {
		if l.course.phase != carrying {
			return
		}
		w.carryFrom(l, from)
	}
	if l.course.phase == carrying {
		w.suspectOrNot(l)
	}
}

// carryFrom moves what a side has sent. Of one that has ended only a reset can come.
func (w *worker) carryFrom(l *link, from which) {
	if !l.course.ended[from] {
		err := w.move(l, from)
		if h := &l.halves[from]; h.pipe != nil && h.inPipe == 0 {
			w.pipes.put(h.pipe)
			h.pipe = nil
		}
		switch {
		case err == unix.EAGAIN:
		case err == errTurn && !l.again:
			l.again = true
			w.again = append(w.again, l)
		case err == errTurn:
		case err == io.EOF:
			w.do(l, l.course.end(from))
		default:
			w.do(l, l.course.fail())
		}
	}
	if l.course.phase == carrying && l.course.ended[from] && l.sides[from].fault {
		w.do(l, l.course.fail())
	}
}

// do does what the course of a link demands.
func (w *worker) do(l *link, d deed) {
	switch d {
	case tryNext:
		w.try(l)
	case join:
		w.join(l)
	case tellEndpoint, tellClient:
		to := ofClient
		if d == tellEndpoint {
			to = ofEndpoint
		}
		if l.sides[to].socket.endWrite() != nil { // it was reset
			w.do(l, l.course.fail())
		}
	case finish:
		w.end(l, false)
	case breakOff:
		w.end(l, true)
	}
}

// begin makes a link of a client's connection, and watches it.
func (w *worker) begin(client socket) (*link, error) {
	if len(w.free) == 0 {
		l := &link{place: int32(len(w.links))}
		l.timer.link, l.suspect.link = l, l
		w.links, w.free = append(w.links, l), append(w.free, l.place)
	}
	l := w.links[w.free[len(w.free)-1]]
	l.sides[ofEndpoint].socket = none
	if err := w.attach(l, ofClient, client); err != nil {
		return nil, err
	}
	w.free = w.free[:len(w.free)-1]
	l.course = course{}
	return l, nil
}

// attach gives a link one of its sockets, and watches that.
func (w *worker) attach(l *link, at which, s socket) error {
	generation := l.sides[at].generation + 1
	l.sides[at] = side{socket: s, generation: generation}
	return w.poller.watch(s, label{l.place<<1 | int32(at), generation})
}

// end closes what a link has, by resets if asked to: its place is free.
func (w *worker) end(l *link, reset bool) {
	for i := range l.sides {
		s := &l.sides[i]
		if s.socket == none {
			continue
		}
		if reset && !s.fault { // else it was that side's own reset
			s.socket.abort()
		}
		s.socket.close()
		s.socket = none
		s.generation++
	}
	for i := range l.halves {
		if p := l.halves[i].pipe; p != nil {
			p.close()
		}
		l.halves[i] = half{}
	}
	w.wheel.drop(&l.timer)
	l.suspect.leave()
	if l.endpoint != nil {
		l.endpoint.active.Add(-1)
	}
	l.service.counters.active.Add(-1)
	l.service, l.endpoint, l.search, l.vigil, l.drip = nil, nil, nil, vigil{}, drip{}
	w.free = append(w.free, l.place)
	w.relay.drop()
}

// set has a link looked at at a time.
func (w *worker) set(l *link, due time.Time) {
	w.wheel.set(&l.timer, due)
	if !w.armed {
		w.armed = true
		w.poller.wakeAt(w.now.Add(tick))
	}
}

// ring looks at the links whose time has come.
func (w *worker) ring() {
	w.now = time.Now()
	w.wheel.expired(w.now, func(l *link) {
		if l.course.phase == seeking {
			w.refused(l, os.ErrDeadlineExceeded)
		} else {
			w.look(l)
		}
	})
	w.armed = w.wheel.held > 0
	if w.armed {
		w.poller.wakeAt(w.now.Add(tick))
	} else {
		w.poller.wakeAt(time.Time{})
	}
}

// look ends a link that has no more right to go on.
func (w *worker) look(l *link) {
	s := sight{bytes: l.carried(), halfClosed: l.course.halfClosed()}
	for to := range s.sides {
		s.sides[to] = l.sides[to].socket.standing()
		s.sides[to].waiting = s.sides[to].waiting || l.halves[which(to).other()].waits()
	}
	if l.vigil.since.IsZero() {
		l.sides[ofEndpoint].socket.watchPeer()
	}
	if l.vigil.look(s, w.now, w.patience) != stay {
		l.service.counters.timedOut.Add(1)
		w.do(l, l.course.fail())
		return
	}
	w.set(l, w.now.Add(w.patience.look))
}
