package relay

// which is a side of a link; a direction bears the name of the side it comes from.
type which uint8

const (
	ofClient which = iota
	ofEndpoint
)

func (w which) other() which { return 1 - w }

// phase is how far a link has come.
type phase uint8

const (
	seeking  phase = iota // an endpoint that takes the connection
	carrying              // bytes
	over
)

// deed is what is to be done about something that happened.
type deed uint8

const (
	goOn         deed = iota // nothing
	tryNext                  // connect to another endpoint
	join                     // begin to carry
	tellEndpoint             // that the client has ended
	tellClient               // that the endpoint has
	finish                   // close both sides: all was said
	breakOff                 // reset both sides
)

// course is what becomes of a connection:
//
//	          refused, another is left
//	             ┌──────┐
//	accepted ─► seeking ┘── connected ─► carrying ── both ended ──► over (closed)
//	               │                        │
//	               └─ no endpoint is left ──┴─ a reset, a fault, a limit ─► over (reset)
//
// A side ends when all it sent has been passed on; the other may go on. It decides
// alone and does nothing: whoever asks it does what it says.
type course struct {
	phase phase
	ended [2]bool
}

// connected: the endpoint has taken the connection.
func (c *course) connected() deed {
	if c.phase != seeking {
		return goOn
	}
	c.phase = carrying
	return join
}

// refused: the endpoint has not taken it. another: there is one more to try.
func (c *course) refused(another bool) deed {
	switch {
	case c.phase != seeking:
		return goOn
	case another:
		return tryNext
	}
	return c.fail()
}

// end: a side has ended, and what it sent is with the other.
func (c *course) end(w which) deed {
	if c.phase != carrying || c.ended[w] {
		return goOn
	}
	c.ended[w] = true
	switch {
	case c.ended[w.other()]:
		c.phase = over
		return finish
	case w == ofClient:
		return tellEndpoint
	}
	return tellClient
}

// fail: a side was reset, or the link has no more right to go on.
func (c *course) fail() deed {
	if c.phase == over {
		return goOn
	}
	c.phase = over
	return breakOff
}

// halfClosed reports whether one side has ended and the other has not.
func (c *course) halfClosed() bool { return c.ended[ofClient] != c.ended[ofEndpoint] }
