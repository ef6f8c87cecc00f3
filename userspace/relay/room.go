package relay

import (
	"time"

	"golang.org/x/sys/unix"
)

// maxScan bounds how many suspects are looked at to make room for one connection.
const maxScan = 256

// suspectOrNot notes that a link has moved, or come to a stand. Suspects are kept in
// the order in which they last went on.
func (w *worker) suspectOrNot(l *link) {
	switch {
	case !l.isSuspect():
		l.suspect.leave()
		l.drip = drip{}
	case l.drip.goes(l.carried(), w.now) || !l.suspect.listed():
		w.suspects.append(&l.suspect)
	}
}

// makeRoom ends the suspect that has been idle for longest, of a service or of all
// (nil). It reports whether there was one that has had its time.
func (w *worker) makeRoom(of *service) bool {
	n := w.suspects.first()
	for range maxScan {
		if n == nil || w.now.Sub(n.link.drip.since) < w.patience.hurry {
			return false
		}
		if l := n.link; of == nil || l.service == of {
			l.service.counters.evicted.Add(1)
			w.do(l, l.course.fail())
			return true
		}
		n = w.suspects.next(n)
	}
	return false
}

// crowded is the share of the relay's limit from which on suspects make room, in
// eighths: what is left is for pipes, and for those that come at once.
const crowded = 7

// admit reports whether one more connection of a service may be held, after it was
// counted. Where there is little room a suspect goes first.
func (w *worker) admit(s *service) bool {
	r := w.relay
	if s.counters.active.Load() > r.perService && !w.makeRoom(s) {
		return false
	}
	taken := r.taken.Load()
	return taken <= r.most*crowded/8 || w.makeRoom(nil) || taken <= r.most
}

// reserve is a file that is given up so that a connection can be refused where no more
// can be had: else it would wait, and the listener call for ever.
type reserve struct {
	fd   int
	said time.Time // when the log last told of it
}

func (r *reserve) open() { r.fd = openNothing() }

func (r *reserve) close() {
	if r.fd >= 0 {
		_ = unix.Close(r.fd)
	}
	r.fd = -1
}

// sayEvery is how often the log tells that there is no room.
const sayEvery = time.Minute

// refuseOne takes one connection of those that wait, and resets it.
func (w *worker) refuseOne(why error) {
	w.reserve.close()
	c, client, err := w.relay.tcp.accept()
	if err == nil {
		if q, err := w.ask(c, client); err == nil && q.at.service != nil {
			q.at.service.counters.connections.Add(1)
			q.at.service.counters.refused.Add(1)
		}
		c.abort()
		c.close()
	}
	w.makeRoom(nil)
	w.reserve.open()
	w.complain("no file is left for a connection: it is refused", why)
}

func (w *worker) complain(text string, why error) {
	if now := time.Now(); now.Sub(w.reserve.said) >= sayEvery {
		w.reserve.said = now
		w.relay.warn(text, "error", why, "connections", w.relay.taken.Load())
	}
}
