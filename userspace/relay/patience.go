package relay

import "time"

// patience is how long a relay waits for what. A relay of bytes knows no request: long
// silence is right for many protocols, so silence alone ends nothing. What ends is what
// cannot go on (vanished), holds bytes that nobody takes (stuck), was never used, or
// has half ended; and where there is no room for more, see suspect.
type patience struct {
	try     time.Duration // for an endpoint to answer, while there are others
	connect time.Duration // for all endpoints together
	look    time.Duration // between two looks at a link
	// vanished is how long a peer may leave bytes without any acknowledgement.
	vanished time.Duration
	// stuck is how long a peer may take fewer than leastTaken of the bytes that wait
	// for it, though it acknowledges that it is there.
	stuck    time.Duration
	silent   time.Duration // without a byte ever, in either direction
	halfOpen time.Duration // without a byte, since one side has ended
	hurry    time.Duration // for a suspect, where there is no room for more
	goodbye  time.Duration // kept of the time of drain for connections taken last
}

// leastTaken is what a peer has to take of waiting bytes within patience.stuck, unless
// it takes all: 64 KiB in ten minutes are the pace of a modem of 1980.
const leastTaken = 64 << 10

// usual is the patience of a relay. An endpoint that refuses costs nothing; of one that
// does not answer the second SYN, sent after a second, is waited for. An hour for a
// half-closed connection is what kube-proxy asks of conntrack for the same.
func usual() patience {
	return patience{
		try: 1500 * time.Millisecond, connect: 6 * time.Second, look: time.Minute,
		vanished: 3 * time.Minute, stuck: 10 * time.Minute, silent: time.Hour, halfOpen: time.Hour,
		hurry: 10 * time.Second, goodbye: 500 * time.Millisecond,
	}
}

// sight is what a look at a link finds.
type sight struct {
	bytes      int64 // carried, both ways together
	halfClosed bool
	sides      [2]standing
}

// standing is how one peer stands to the bytes that are for it.
type standing struct {
	waiting bool          // some wait in the relay, or in the kernel for a window
	taken   uint64        // acknowledged so far
	flying  bool          // some were sent and are not acknowledged
	quiet   time.Duration // since its last acknowledgement
}

// vigil is what is remembered from one look to the next.
type vigil struct {
	bytes int64
	since time.Time // a byte was carried
	sides [2]struct {
		taken uint64
		since time.Time // bytes wait, and enough of them were taken
	}
}

// outcome is what a look decides; stay, or a reason to end.
type outcome uint8

const (
	stay outcome = iota
	isVanished
	isStuck
	isSilent
	isHalfOpen
)

// look decides what becomes of a link.
func (v *vigil) look(s sight, now time.Time, p patience) outcome {
	first := v.since.IsZero()
	if first || s.bytes != v.bytes {
		v.bytes, v.since = s.bytes, now
	}
	for w, side := range s.sides {
		memory := &v.sides[w]
		if first || !side.waiting || side.taken-memory.taken >= leastTaken {
			memory.taken, memory.since = side.taken, now
		}
		switch {
		case side.flying && side.quiet >= p.vanished:
			return isVanished
		case now.Sub(memory.since) >= p.stuck:
			return isStuck
		}
	}
	idle := now.Sub(v.since)
	switch {
	case s.halfClosed && idle >= p.halfOpen:
		return isHalfOpen
	case s.bytes == 0 && idle >= p.silent:
		return isSilent
	}
	return stay
}

// leastDrip is how many bytes a suspect has to carry to count as one that goes on: a
// byte now and then is what a slow-loris sends.
const leastDrip = 256

// drip is the pace of a suspect.
type drip struct {
	bytes int64
	since time.Time
}

// goes reports whether a suspect has moved since it was last asked with true.
func (d *drip) goes(bytes int64, now time.Time) bool {
	if d.since.IsZero() || bytes-d.bytes >= leastDrip {
		d.bytes, d.since = bytes, now
		return true
	}
	return false
}
