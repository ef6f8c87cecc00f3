package relay

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

// maxTries is how many endpoints a client's connection is offered to.
const maxTries = 4

// accept takes connections that wait.
func (w *worker) accept() {
	for range acceptBatch {
		if !w.accepting {
			return
		}
		c, client, err := w.relay.tcp.accept()
		switch {
		case err == nil:
			w.receive(c, client)
		case isShortage(err):
			w.refuseOne(err)
		default:
			return
		}
	}
}

// isShortage tells what the node lacks from what is wrong with one connection.
func isShortage(err error) bool {
	return err == unix.EMFILE || err == unix.ENFILE || err == unix.ENOBUFS || err == unix.ENOMEM
}

// receive makes a link of a connection, or resets it.
func (w *worker) receive(c socket, client netip.AddrPort) {
	q, err := w.ask(c, client)
	if err != nil || q.fate.Verdict != proxier.Forward { // the rules let it in while they changed
		c.abort()
		c.close()
		return
	}
	count := &q.at.service.counters
	count.connections.Add(1)
	count.active.Add(1)
	w.relay.taken.Add(1)
	var l *link
	admitted := w.admit(q.at.service)
	if admitted {
		l, err = w.begin(c)
	}
	if !admitted || err != nil {
		count.refused.Add(1)
		count.active.Add(-1)
		w.relay.drop()
		c.abort()
		c.close()
		return
	}
	l.service = q.at.service
	l.search = &search{request: q, began: w.now}
	w.try(l)
}

// request is what a client wants.
type request struct {
	at            place
	fate          proxier.Fate
	client, asked netip.AddrPort
}

// ask finds out what a client wants.
func (w *worker) ask(c socket, client netip.AddrPort) (request, error) {
	r := w.relay
	dst, err := originalDst(c, r.family)
	if err != nil {
		return request{}, err
	}
	p := proxier.Packet{Protocol: proxier.TCP, Src: client.Addr(), Dst: dst, In: r.interfaceOf(c)}
	at, fate := r.table.decide(p)
	return request{at: at, fate: fate, client: client, asked: dst}, nil
}

// search is the way to an endpoint: the one that the client had, or the next one; if
// that does not take the connection, another.
type search struct {
	request request
	began   time.Time
	tried   []*endpoint // the last one is being tried
	room    [maxTries]*endpoint
}

// try connects a link to its next endpoint. An endpoint that fails at once is followed
// by another.
func (w *worker) try(l *link) {
	for l.course.phase == seeking {
		err := w.tryOne(l)
		if err == nil {
			return
		}
		if w.fault(l, err) == breakOff {
			w.end(l, true)
		}
	}
}

// errNone: there is no endpoint to try, or no time.
var errNone = errors.New("no endpoint is left")

// tryOne begins a connection to the next endpoint.
func (w *worker) tryOne(l *link) error {
	s := l.search
	pool := s.request.at.version.pool(&s.request.fate)
	left := w.patience.connect - w.now.Sub(s.began)
	ep := l.service.pick(&s.request, pool, pick{w.now, s.tried})
	if ep == nil || left <= 0 {
		return errNone
	}
	if s.tried == nil {
		s.tried = s.room[:0]
	} else {
		l.service.counters.retries.Add(1)
	}
	s.tried = append(s.tried, ep)
	if len(s.tried) < min(maxTries, len(pool.endpoints)) {
		left = min(left, w.patience.try) // else there is no other: the whole time is given to it
	}
	c, err := connect(ep.addr, w.relay.mark)
	if err != nil {
		return err
	}
	w.set(l, w.now.Add(left))
	return w.attach(l, ofEndpoint, c)
}

// answered handles what happens to a link that seeks.
func (w *worker) answered(l *link, at which) {
	s := &l.sides[at]
	switch {
	case at == ofClient && s.fault:
		w.do(l, l.course.fail())
	case at == ofClient:
	case s.fault:
		w.refused(l, s.socket.pending())
	case s.out:
		w.do(l, l.course.connected())
	}
}

// refused gives up an endpoint that did not take the connection.
func (w *worker) refused(l *link, why error) {
	w.do(l, w.fault(l, why))
}

// fault notes why an endpoint did not take a connection, and says what is to be done.
func (w *worker) fault(l *link, why error) deed {
	s := l.search
	if side := &l.sides[ofEndpoint]; side.socket != none {
		side.socket.abort()
		side.socket.close()
		side.socket = none
	}
	if isEndpointsFault(why) {
		s.tried[len(s.tried)-1].shun(time.Now())
	}
	if isShortage(why) {
		w.complain("no file is left for a connection to an endpoint: its client is refused", why)
		l.service.counters.refused.Add(1)
		return l.course.fail()
	}
	another := why != errNone && len(s.tried) < maxTries
	if !another {
		l.service.counters.failed.Add(1)
	}
	return l.course.refused(another)
}

// join begins to carry: the endpoint has taken the connection.
func (w *worker) join(l *link) {
	q := &l.search.request
	l.endpoint = l.search.tried[len(l.search.tried)-1]
	l.endpoint.forgive()
	l.endpoint.active.Add(1)
	l.service.keep(q, l.endpoint, w.now)
	if q.at.version.spec.ProxyProtocol {
		up := &l.halves[ofClient]
		up.rest, up.kept = proxyHeader(q), true
		w.count(l, ofClient, len(up.rest))
	}
	l.search = nil
	w.set(l, w.now.Add(w.patience.look))
	w.carry(l)
}

// isEndpointsFault tells an endpoint that is down from a node that has no port, file
// or memory left.
func isEndpointsFault(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || slices.ContainsFunc([]error{
		unix.ECONNREFUSED, unix.ECONNRESET, unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN,
	}, func(e error) bool { return errors.Is(err, e) })
}

// pick is the circumstances of a choice.
type pick struct {
	now   time.Time
	tried []*endpoint
}

// pick returns an endpoint for a client: with affinity the one that it had last, if
// that is still in the pool and has not just failed.
func (s *service) pick(q *request, pool *pool, p pick) *endpoint {
	timeout := q.at.version.spec.Affinity
	if timeout > 0 && len(p.tried) == 0 {
		had := s.pins.get(q.client.Addr(), p.now, timeout)
		if had != nil && pool.holds(had) && had.healthy(p.now) {
			return had
		}
	}
	return pool.choose(p.now, p.tried)
}

// keep remembers which endpoint a client has got.
func (s *service) keep(q *request, ep *endpoint, now time.Time) {
	if timeout := q.at.version.spec.Affinity; timeout > 0 {
		s.pins.set(q.client.Addr(), ep, now, timeout)
	}
}

// proxyHeader tells the endpoint who the client is and which address it asked: the
// PROXY protocol, version 2.
func proxyHeader(q *request) []byte {
	h := proxyproto.HeaderProxyFromAddrs(2, net.TCPAddrFromAddrPort(q.client), net.TCPAddrFromAddrPort(q.asked))
	b, err := h.Format()
	if err != nil { // for addresses of two families only
		return nil
	}
	return b
}
