package relay

import (
	"cmp"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// halfOpenIdle is how long a connection of which one side has ended may be without a
// byte from the other. An hour is what kube-proxy asks of conntrack for the same.
const halfOpenIdle = time.Hour

// bufferSize is what one read takes. What fills it is bulk, which splice moves
// without a copy; what does not is cheaper to copy.
const bufferSize = 16 << 10

// buffers are held while bytes are moved, never while waiting for some.
type buffers struct{ pool sync.Pool }

func (b *buffers) get() *[bufferSize]byte {
	if buf, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return buf
	}
	return new([bufferSize]byte)
}

func (b *buffers) put(buf *[bufferSize]byte) { b.pool.Put(buf) }

// pipes are kept for later, a few.
type pipes chan *pipe

const maxSpare = 64 // an empty pipe takes 16 KiB

func (p pipes) get() (*pipe, error) {
	select {
	case one := <-p:
		return one, nil
	default:
		return newPipe()
	}
}

// put takes back a pipe, which must be empty.
func (p pipes) put(one *pipe) {
	select {
	case p <- one:
	default:
		one.close()
	}
}

// link is a client's connection joined to an endpoint's.
type link struct {
	client, endpoint conn
	up, down         half // from the client, to the client
	ended            atomic.Int32
	broken           atomic.Bool
	rest             rest
}

// half is one direction of a link.
type half struct {
	link     *link
	from, to *conn
	store    *store
	moved    *atomic.Int64 // bytes, of the service

	bytes  atomic.Int64 // of this half
	ending atomic.Bool  // to is told the end, or will be at once
	bulk   bool         // the last bytes filled a buffer
	eof    bool         // from has ended, and to was told
	fault  error
}

// store is where halves get what they need to move bytes, and leave what they had.
type store struct {
	buffers buffers
	pipes   pipes
	closing closing
	// halfOpen stands for halfOpenIdle if it is not 0.
	halfOpen time.Duration
}

// carry moves bytes both ways until both sides have ended, or one has failed: then
// both get a reset. Both are closed soon.
func (l *link) carry() {
	l.up.link, l.down.link = l, l
	done := make(chan struct{})
	go func() {
		l.down.run()
		close(done)
	}()
	l.up.run()
	<-done
	if l.broken.Load() {
		for _, side := range []*conn{&l.client, &l.endpoint} {
			if side.hasPeer() { // else it was that side's own reset
				side.abort()
			}
		}
	}
	l.up.store.closing.add(l.client, l.endpoint)
}

// cut ends a link by a reset to both sides.
func (l *link) cut() {
	l.broken.Store(true)
	l.client.wake()
	l.endpoint.wake()
}

// allow gives the side that has not ended its time. A cut that came meanwhile wins.
func (l *link) allow(side *conn) {
	_ = side.file.SetReadDeadline(time.Now().Add(cmp.Or(l.up.store.halfOpen, halfOpenIdle)))
	if l.broken.Load() {
		side.wake()
	}
}

// run moves bytes until this half is over. All waiting is inside one call of Read: a
// byte that comes between two looks is not missed.
func (h *half) run() {
	for {
		before := h.bytes.Load()
		err := h.from.raw.Read(h.step)
		if errors.Is(err, os.ErrDeadlineExceeded) && !h.link.broken.Load() && h.link.ended.Load() == 1 {
			if h.bytes.Load() != before {
				h.link.allow(h.from)
				continue
			}
			err = os.ErrDeadlineExceeded
		} else if h.link.ended.Load() == 2 {
			return
		}
		if h.fault == nil {
			h.fault = err
		}
		if h.fault != nil {
			h.link.cut()
		}
		return
	}
}

// step moves what there is. It reports true if the half is over.
func (h *half) step(uintptr) bool {
	if h.eof {
		// The other half goes on; a reset is what is waited for.
		h.fault = h.from.pending()
		return h.fault != nil
	}
	err := h.move()
	switch {
	case err == nil, err == unix.EAGAIN:
		return false
	case err == io.EOF:
		return h.end()
	}
	h.fault = err
	return true
}

// end passes the end of one side on to the other. The half stays, to hear of a reset,
// until the other half has ended too.
func (h *half) end() bool {
	if h.wasReset() {
		h.fault = unix.ECONNRESET
		return true
	}
	h.eof = true
	h.ending.Store(true)
	if err := h.to.endWrite(); err != nil { // ENOTCONN after a reset
		h.fault = err
		return true
	}
	if h.link.ended.Add(1) == 2 {
		h.to.wake() // where the other half waits
		return true
	}
	h.link.allow(h.to)
	return false
}

// wasReset tells a reset from an end. The kernel tells of a reset once: if a write of
// the other half has heard of it, this half just reads an end. A socket that has no
// peer although nobody told it our end was reset.
func (h *half) wasReset() bool {
	other := &h.link.down
	if h == other {
		other = &h.link.up
	}
	return !h.from.hasPeer() && !other.ending.Load()
}

// move moves bytes until there are none: EAGAIN, or io.EOF. Without a pipe, where
// files or memory have run out, all is copied.
func (h *half) move() error {
	if h.bulk {
		if p, err := h.store.pipes.get(); err == nil {
			return h.splice(p)
		}
	}
	buf := h.store.buffers.get()
	defer h.store.buffers.put(buf)
	for {
		n, err := h.from.read(buf[:])
		if err != nil {
			return err
		}
		if n == 0 {
			return io.EOF
		}
		if err := h.writeAll(buf[:n]); err != nil {
			return err
		}
		if n < len(buf) {
			continue
		}
		if p, err := h.store.pipes.get(); err == nil {
			return h.splice(p)
		}
	}
}

func (h *half) writeAll(b []byte) error {
	h.count(len(b))
	for {
		n, err := h.to.write(b)
		if err == unix.EAGAIN {
			n, err = 0, h.awaitRoom()
		}
		if err != nil {
			return err
		}
		if b = b[n:]; len(b) == 0 {
			return nil
		}
	}
}

// splice is move without a copy.
func (h *half) splice(p *pipe) error {
	for {
		n, err := p.fill(h.from)
		if err != nil || n == 0 {
			h.store.pipes.put(p)
			if err == nil {
				err = io.EOF
			}
			return err
		}
		h.bulk = n >= bufferSize
		if err := h.drain(p, n); err != nil {
			p.close()
			return err
		}
	}
}

func (h *half) drain(p *pipe, n int) error {
	h.count(n)
	for n > 0 {
		m, err := p.drain(h.to, n)
		if err == unix.EAGAIN {
			m, err = 0, h.awaitRoom()
		}
		if err != nil {
			return err
		}
		n -= m
	}
	return nil
}

func (h *half) count(n int) {
	h.bytes.Add(int64(n))
	h.moved.Add(int64(n))
}

// awaitRoom waits until the socket takes bytes again, or has failed.
func (h *half) awaitRoom() error {
	var poll [1]unix.PollFd
	return h.to.raw.Write(func(fd uintptr) bool {
		poll[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT}
		n, err := unix.Poll(poll[:], 0)
		return err != nil && err != unix.EINTR || n > 0
	})
}
