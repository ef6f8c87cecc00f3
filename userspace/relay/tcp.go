package relay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

// How long a client's connection waits for an endpoint. An endpoint that refuses
// costs nothing; of one that does not answer the second SYN, sent after a second, is
// waited for. Where there is no other to try the whole time is given to it.
const (
	tryTime     = 1500 * time.Millisecond
	connectTime = 6 * time.Second
	maxTries    = 4
)

// acceptTCP takes connections until the relay gives its listeners up.
func (r *Relay) acceptTCP(l *conn) {
	defer r.listening.Done()
	_ = l.raw.Read(func(uintptr) bool {
		for {
			fd, client, err := l.accept()
			switch {
			case err == nil:
				r.take()
				go r.serveTCP(fd, client)
			case err == unix.EAGAIN:
				return r.isClosing()
			case err == unix.EMFILE || err == unix.ENFILE || err == unix.ENOBUFS || err == unix.ENOMEM:
				time.Sleep(10 * time.Millisecond) // they wait, and others end
			default:
				return true
			}
		}
	})
}

// serveTCP carries one connection from its beginning to its end.
func (r *Relay) serveTCP(fd int, client netip.AddrPort) {
	defer r.drop()
	c, err := adopt(fd, "client")
	if err != nil {
		return
	}
	dst, err := originalDst(fd, r.family)
	if err != nil {
		c.abort()
		c.close()
		return
	}
	p := proxier.Packet{Protocol: proxier.TCP, Src: client.Addr(), Dst: dst, In: r.interfaceOf(fd)}
	at, fate := r.table.decide(p)
	if fate.Verdict != proxier.Forward {
		c.abort() // the rules let it in while they changed
		c.close()
		return
	}
	s := at.service
	s.counters.connections.Add(1)
	if s.counters.active.Add(1) > r.perService {
		s.counters.refused.Add(1)
		s.counters.active.Add(-1)
		c.abort()
		c.close()
		return
	}
	r.join(c, &request{at: at, fate: fate, client: client, asked: dst})
	s.counters.active.Add(-1)
}

// request is what a client wants.
type request struct {
	at            place
	fate          proxier.Fate
	client, asked netip.AddrPort
}

// join finds the client an endpoint and carries bytes between the two.
func (r *Relay) join(client *conn, q *request) {
	remote, ep := r.reach(q)
	if remote == nil {
		client.abort()
		client.close()
		return
	}
	ep.active.Add(1)
	defer ep.active.Add(-1)
	count := &q.at.service.counters
	l := &link{client: *client, endpoint: *remote}
	l.up = half{from: &l.client, to: &l.endpoint, store: &r.store, moved: &count.received}
	l.down = half{from: &l.endpoint, to: &l.client, store: &r.store, moved: &count.sent}
	r.enter(l)
	defer r.leave(l)
	if q.at.version.spec.ProxyProtocol && l.up.writeAll(proxyHeader(q)) != nil {
		l.cut()
	}
	l.carry()
}

// reach connects to an endpoint: the one that the client had, or the next one; if that
// does not take the connection, to another. It returns nil if none does.
func (r *Relay) reach(q *request) (*conn, *endpoint) {
	var tried []*endpoint
	start := time.Now()
	pool := q.at.version.pool(&q.fate)
	for now := start; len(tried) < maxTries; now = time.Now() {
		left := connectTime - now.Sub(start)
		ep := q.at.service.pick(q, pool, pick{now, tried})
		if ep == nil || left <= 0 {
			break
		}
		if len(tried) > 0 {
			q.at.service.counters.retries.Add(1)
		}
		tried = append(tried, ep)
		if len(tried) < min(maxTries, len(pool.endpoints)) {
			left = min(left, tryTime)
		}
		c, err := dialing{ep.addr, r.mark, left}.connect(r.ns)
		if err == nil {
			ep.forgive()
			q.at.service.keep(q, ep, now)
			return c, ep
		}
		if isEndpointsFault(err) {
			ep.shun(time.Now())
		}
	}
	q.at.service.counters.failed.Add(1)
	return nil, nil
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

// String names a counter key for logs.
func (k Key) String() string { return fmt.Sprintf("%s %s", k.Name, k.Protocol) }
