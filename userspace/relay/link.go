package relay

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// bufferSize is what one read takes. What fills it is bulk, which splice moves
// without a copy; what does not is cheaper to copy.
const bufferSize = 16 << 10

// turnBytes is how much one direction may move before others have their turn.
const turnBytes = 1 << 20

// errTurn: there may be more to move.
var errTurn = errors.New("the turn is over")

// link is a client's connection joined to an endpoint's. It belongs to one worker, and
// is used again for another connection when it is over.
type link struct {
	place  int32
	course course
	sides  [2]side
	halves [2]half // by the side it comes from

	search   *search // while it seeks
	service  *service
	endpoint *endpoint

	vigil   vigil
	drip    drip
	timer   node
	suspect node
	again   bool // it waits for its next turn
}

// side is one of the two connections.
type side struct {
	socket     socket
	generation int32 // of the sockets that had this place
	in, out    bool  // there may be bytes, or an end; there may be room
	fault      bool  // the kernel has told of an error, mostly a reset
}

// half is one direction: bytes on their way.
type half struct {
	bytes  int64  // carried so far
	rest   []byte // read, not written
	pipe   *pipe  // holds inPipe bytes, if any
	inPipe int
	kept   bool // rest has memory of its own
	bulk   bool // the last bytes filled a buffer
}

// waits reports whether bytes wait for room.
func (h *half) waits() bool { return len(h.rest) > 0 || h.inPipe > 0 }

// isSuspect reports whether a link is one of those that go first where there is no
// room: it has not carried bytes both ways yet, as those of a slow-loris have not, or
// one side has ended, or bytes wait in it that a peer does not take.
func (l *link) isSuspect() bool {
	up, down := &l.halves[ofClient], &l.halves[ofEndpoint]
	return up.bytes == 0 || down.bytes == 0 || l.course.halfClosed() || up.waits() || down.waits()
}

// carried is how many bytes have passed.
func (l *link) carried() int64 { return l.halves[ofClient].bytes + l.halves[ofEndpoint].bytes }

// move moves bytes from one side to the other until there are none, or no room
// (EAGAIN), or the side has ended (io.EOF), or its turn has (errTurn).
func (w *worker) move(l *link, from which) error {
	h, in, out := &l.halves[from], &l.sides[from], &l.sides[from.other()]
	start := h.bytes
	for h.bytes-start < turnBytes {
		if err := w.give(h, out); err != nil {
			return err
		}
		if !in.in {
			return unix.EAGAIN
		}
		n, err := w.take(h, in)
		if err == unix.EAGAIN {
			in.in = false
		}
		if err != nil {
			return err
		}
		h.bytes += int64(n)
		w.count(l, from, n)
	}
	if err := w.give(h, out); err != nil {
		return err
	}
	return errTurn
}

func (w *worker) count(l *link, from which, n int) {
	if from == ofClient {
		l.service.counters.received.Add(int64(n))
	} else {
		l.service.counters.sent.Add(int64(n))
	}
}

// take reads some bytes into the pipe of a half, or the buffer of the worker. Without
// a pipe, where files or memory have run out, all is copied.
func (w *worker) take(h *half, in *side) (n int, err error) {
	if h.bulk && h.pipe == nil {
		h.pipe = w.pipes.get()
	}
	if h.bulk && h.pipe != nil {
		n, err = h.pipe.fill(in.socket)
		h.inPipe = max(0, n)
	} else {
		n, err = in.socket.read(w.buffer[:])
		h.rest = w.buffer[:max(0, n)]
	}
	switch {
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	h.bulk = n >= bufferSize
	return n, nil
}

// give writes what a half has. What there is no room for waits in the pipe, or in
// memory of its own.
func (w *worker) give(h *half, out *side) error {
	for h.inPipe > 0 {
		if !out.out {
			return unix.EAGAIN
		}
		n, err := h.pipe.drain(out.socket, h.inPipe)
		if err != nil {
			out.out = out.out && err != unix.EAGAIN
			return err
		}
		h.inPipe -= n
	}
	for len(h.rest) > 0 {
		var n int
		err := error(unix.EAGAIN)
		if out.out {
			n, err = out.socket.write(h.rest)
		}
		if err == unix.EAGAIN {
			out.out = false
			w.keep(h)
		}
		if err != nil {
			return err
		}
		h.rest = h.rest[n:]
	}
	h.rest, h.kept = nil, false
	return nil
}

// keep takes the rest of a half out of the worker's buffer.
func (w *worker) keep(h *half) {
	if !h.kept {
		h.rest, h.kept = append([]byte(nil), h.rest...), true
	}
}
