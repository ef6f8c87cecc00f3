package relay

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

// How long a flow without a packet lives: conntrack's defaults, for one that is a
// single question and for one that goes on. conntrack is asked again which address
// the client means after a silence in which it may have forgotten.
const (
	flowIdle   = 30 * time.Second
	streamIdle = 120 * time.Second
	streamAge  = 2 * time.Second
	askAgain   = 5 * time.Second
)

// flowKey is what tells the flows of clients apart: conntrack gives a client that
// asks two services from one port a port of its own for each.
type flowKey struct {
	client netip.AddrPort
	local  netip.Addr // the node's address that the packet was led to
}

// flow is a client's exchange with one endpoint, over a socket of its own.
type flow struct {
	key      flowKey
	asked    netip.AddrPort
	in       string
	service  *service
	endpoint *endpoint
	conn     *conn
	source   []byte // control message: answers leave from key.local
	began    int64  // nanoseconds of Unix time, as last

	last     atomic.Int64
	answered atomic.Bool
	over     bool // guarded by flows.mu

	out     []byte // the datagram that send sends; of the one reader
	sendErr error
	sender  func(uintptr) bool // send, bound once: else each datagram would bind it
	owner   *datagrams
}

func (f *flow) prepare() { f.sender = f.send }

// idle is how long the flow may be silent.
func (f *flow) idle() time.Duration {
	if f.answered.Load() && f.last.Load()-f.began > int64(streamAge) {
		return streamIdle
	}
	return flowIdle
}

// send sends f.out. It never waits: a datagram for which there is no room is lost.
func (f *flow) send(uintptr) bool {
	_, f.sendErr = f.conn.write(f.out)
	return true
}

// wheelSize is more seconds than any flow may be silent.
const wheelSize = 128

// flows finds a client's flow, and those whose time is over. A flow is looked at when
// it would end if no packet came meanwhile, and put off if one did.
type flows struct {
	mu    sync.Mutex
	byKey map[flowKey]*flow
	wheel [wheelSize][]*flow // by the second, modulo
	most  int
}

func (t *flows) get(k flowKey) *flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byKey[k]
}

// put adds a flow, and returns one that has to make room for it, or nil.
func (t *flows) put(f *flow, now time.Time) (out *flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.byKey) >= t.most {
		out = t.next(now)
	}
	t.byKey[f.key] = f
	t.schedule(f, now)
	return out
}

func (t *flows) schedule(f *flow, now time.Time) {
	at := (now.Unix() + int64(f.idle()/time.Second) + 1) % wheelSize
	t.wheel[at] = append(t.wheel[at], f)
}

// next is the flow that would end first.
func (t *flows) next(now time.Time) *flow {
	for i := range int64(wheelSize) {
		for _, f := range t.wheel[(now.Unix()+i)%wheelSize] {
			if !f.over {
				t.forget(f)
				return f
			}
		}
	}
	return nil
}

func (t *flows) forget(f *flow) bool {
	if f.over {
		return false
	}
	f.over = true
	if t.byKey[f.key] == f {
		delete(t.byKey, f.key)
	}
	return true
}

// remove reports whether the flow was there.
func (t *flows) remove(f *flow) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.forget(f)
}

// expired removes and returns the flows whose time ended in the second of now.
func (t *flows) expired(now time.Time) []*flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := now.Unix() % wheelSize
	due := t.wheel[at]
	t.wheel[at] = nil
	var out []*flow
	for _, f := range due {
		last := time.Unix(0, f.last.Load())
		switch {
		case f.over:
		case now.Sub(last) >= f.idle():
			t.forget(f)
			out = append(out, f)
		default:
			t.schedule(f, last)
		}
	}
	return out
}

func (t *flows) all() []*flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*flow
	for _, f := range t.byKey {
		out = append(out, f)
	}
	return out
}

// connectFlow makes the socket of a flow.
func (r *Relay) connectFlow(to netip.AddrPort) (*conn, error) {
	fd, err := r.ns.socket(domainOf(proxier.FamilyOf(to.Addr())), unix.SOCK_DGRAM, unix.IPPROTO_UDP)
	if err != nil {
		return nil, err
	}
	if err = setAll(fd, option{unix.SOL_SOCKET, unix.SO_MARK, r.mark}); err == nil {
		err = unix.Connect(fd, sockaddrOf(to))
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return adopt(fd, "endpoint")
}
