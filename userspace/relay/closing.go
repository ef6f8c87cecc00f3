package relay

import (
	"sync"
	"time"
)

// closing closes the sockets of connections that are over, many at a time. Their peers
// have been told all by then. A close is the one call of a connection's life that the
// runtime has to be told of, since it may wait; each alone would wake the runtime's
// monitor, which then looks about every 20 us: a twelfth of a short connection's cost.
type closing struct {
	mu    sync.Mutex
	ended []conn
}

// How long an ended connection keeps its two files, and how many do so at most.
const (
	closingTime = 50 * time.Millisecond
	maxClosing  = 1024 // sockets
)

// add closes sockets soon.
func (c *closing) add(conns ...conn) {
	c.mu.Lock()
	c.ended = append(c.ended, conns...)
	n := len(c.ended)
	c.mu.Unlock()
	switch {
	case n == len(conns):
		time.AfterFunc(closingTime, c.flush)
	case n >= maxClosing:
		c.flush()
	}
}

// flush closes what waits to be closed.
func (c *closing) flush() {
	c.mu.Lock()
	ended := c.ended
	c.ended = nil
	c.mu.Unlock()
	for i := range ended {
		ended[i].close()
	}
}
