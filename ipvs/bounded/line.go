package bounded

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrNoAnswer: the kernel did not answer in time. Whether it did what was asked for
// is not known.
var ErrNoAnswer = errors.New("no answer from the kernel")

// Connection is a way to the kernel.
type Connection interface {
	// Progress changes while a call gets answers. It is asked while the call runs.
	Progress() int64
	// Interrupt ends a call's wait if it can. It is called while the call runs.
	Interrupt()
	// Close is called when no call runs any more, also after Interrupt.
	Close()
}

// Line makes calls over a connection, one after the other, and waits for each no
// longer than the time-out since its last progress. It opens the connection when it
// is needed, and another after a call that it gave up.
//
// A call that the kernel holds inside a system call cannot be ended: it keeps its
// goroutine and connection until the kernel lets go, and no other call is tried
// before, so that there is one at most.
type Line[C Connection] struct {
	open    func() (C, error)
	timeout time.Duration

	mu   sync.Mutex
	conn C
	work chan func(C)  // nil: no connection
	held chan struct{} // closed once the goroutine of the call given up last has ended
}

// NewLine makes a line that is not connected yet. open runs in the caller of Call,
// so its thread's network namespace is the connection's.
func NewLine[C Connection](timeout time.Duration, open func() (C, error)) *Line[C] {
	return &Line[C]{open: open, timeout: timeout}
}

// Call runs f with the connection and returns its error, or ErrNoAnswer. After an
// error that is ErrNoAnswer f may still run: what it writes must not be read.
func (l *Line[C]) Call(f func(C) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.connect(); err != nil {
		return err
	}
	done := make(chan error, 1)
	l.work <- func(c C) { done <- f(c) }
	err := l.await(done)
	if errors.Is(err, ErrNoAnswer) {
		l.hangUp()
	}
	return err
}

// Close ends the line; calls after it connect again.
func (l *Line[C]) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.work != nil {
		l.hangUp()
	}
}

func (l *Line[C]) connect() error {
	if l.work != nil {
		return nil
	}
	if l.held != nil {
		select {
		case <-l.held:
		case <-time.After(l.timeout):
			return fmt.Errorf("%w to an earlier call", ErrNoAnswer)
		}
	}
	conn, err := l.open()
	if err != nil {
		return err
	}
	work, ended := make(chan func(C)), make(chan struct{})
	go func() {
		defer close(ended)
		defer conn.Close()
		for f := range work {
			f(conn)
		}
	}()
	l.conn, l.work, l.held = conn, work, ended
	return nil
}

func (l *Line[C]) await(done <-chan error) error {
	timer := time.NewTimer(l.timeout)
	defer timer.Stop()
	for seen := l.conn.Progress(); ; {
		select {
		case err := <-done:
			return err
		case <-timer.C:
			now := l.conn.Progress()
			if now == seen {
				return fmt.Errorf("%w within %s", ErrNoAnswer, l.timeout)
			}
			seen = now
			timer.Reset(l.timeout)
		}
	}
}

func (l *Line[C]) hangUp() {
	l.conn.Interrupt()
	close(l.work)
	l.work = nil
}
