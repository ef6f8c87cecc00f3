package bounded_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/ipvs/bounded"
)

// fake is a connection that a test plays the kernel for.
type fake struct {
	number    int
	progress  atomic.Int64
	interrupt chan struct{} // closed by Interrupt
	closed    atomic.Bool
}

func (f *fake) Progress() int64 { return f.progress.Load() }
func (f *fake) Interrupt()      { close(f.interrupt) }
func (f *fake) Close()          { f.closed.Store(true) }

// exchange is a line whose connections are numbered as they are opened.
type exchange struct {
	opened []*fake
	*bounded.Line[*fake]
}

func newExchange() *exchange {
	e := &exchange{}
	e.Line = bounded.NewLine(5*time.Second, func() (*fake, error) {
		f := &fake{number: len(e.opened), interrupt: make(chan struct{})}
		e.opened = append(e.opened, f)
		return f, nil
	})
	return e
}

func (e *exchange) on(t *testing.T, number int) {
	t.Helper()
	if err := e.Call(func(f *fake) error {
		if f.number != number {
			t.Errorf("call on connection %d, want %d", f.number, number)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestCallsShareAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExchange()
		if len(e.opened) != 0 {
			t.Error("opened before it was needed")
		}
		e.on(t, 0)
		wrong := errors.New("wrong")
		if err := e.Call(func(*fake) error { return wrong }); err != wrong {
			t.Error(err)
		}
		e.on(t, 0) // an error is not a reason to connect again
		e.Close()
		synctest.Wait()
		if !e.opened[0].closed.Load() {
			t.Error("not closed")
		}
		e.on(t, 1)
		e.Close()
	})
}

func TestNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExchange()
		start := time.Now()
		err := e.Call(func(f *fake) error {
			<-f.interrupt // as a library that waits without a bound
			return errors.New("interrupted")
		})
		if !errors.Is(err, bounded.ErrNoAnswer) || time.Since(start) != 5*time.Second {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		e.on(t, 1)
		if !e.opened[0].closed.Load() || time.Since(start) != 5*time.Second {
			t.Errorf("closed %t, after %s", e.opened[0].closed.Load(), time.Since(start))
		}
		e.Close()
	})
}

// A socket's own time-out leaves its late answer in the socket.
func TestNoAnswerFromTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExchange()
		if err := e.Call(func(*fake) error { return bounded.ErrNoAnswer }); !errors.Is(err, bounded.ErrNoAnswer) {
			t.Error(err)
		}
		e.on(t, 1)
		e.Close()
	})
}

func TestProgressMayTakeLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExchange()
		if err := e.Call(func(f *fake) error {
			for range 10 {
				time.Sleep(4 * time.Second)
				f.progress.Add(1)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		e.on(t, 0)
		e.Close()
	})
}

// A system call that does not come back keeps one goroutine, not one a call.
func TestOneCallAtMostIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExchange()
		kernel := make(chan struct{})
		if err := e.Call(func(*fake) error { <-kernel; return nil }); !errors.Is(err, bounded.ErrNoAnswer) {
			t.Error(err)
		}
		for range 3 {
			start := time.Now()
			err := e.Call(func(*fake) error { t.Error("called"); return nil })
			if !errors.Is(err, bounded.ErrNoAnswer) || !strings.Contains(err.Error(), "earlier call") || time.Since(start) != 5*time.Second {
				t.Errorf("%v after %s", err, time.Since(start))
			}
		}
		if len(e.opened) != 1 {
			t.Errorf("%d connections", len(e.opened))
		}
		close(kernel)
		e.on(t, 1)
		e.Close()
	})
}
