package relay

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// quick is a patience for tests.
func quick() patience {
	p := usual()
	p.look, p.stuck, p.silent, p.halfOpen, p.hurry = tick, 1500*time.Millisecond, time.Second, time.Second, 500*time.Millisecond
	return p
}

// TestTimes holds on real connections which are ended, by a reset to both sides, and
// which are left alone.
func TestTimes(t *testing.T) {
	write := func(c *net.TCPConn, n int) {
		_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		_, _ = c.Write(make([]byte, n))
		_ = c.SetWriteDeadline(time.Time{})
	}
	swallow := func(c *net.TCPConn, n int64) { _, _ = io.CopyN(io.Discard, c, n) }
	for _, test := range []struct {
		name string
		do   func(b *bridge)
		ends bool
	}{
		{"nobody says anything ever", func(*bridge) {}, true},
		{"one byte, then silence", func(b *bridge) { write(b.client, 1); swallow(b.endpoint, 1) }, false},
		{"half closed, then silence", func(b *bridge) {
			write(b.client, 1)
			_ = b.client.CloseWrite()
			_, _ = io.ReadAll(b.endpoint)
		}, true},
		{"half closed, and the other side sends", func(b *bridge) {
			_ = b.client.CloseWrite()
			for range 15 {
				write(b.endpoint, 1)
				time.Sleep(200 * time.Millisecond)
			}
		}, false},
		{"the client takes nothing", func(b *bridge) { write(b.endpoint, 32<<20) }, true},
		{"the client takes a drop now and then", func(b *bridge) {
			write(b.endpoint, 32<<20)
			go func() {
				for range 30 {
					swallow(b.client, 10)
					time.Sleep(200 * time.Millisecond)
				}
			}()
		}, true},
		{"the client pauses, and takes all", func(b *bridge) {
			go func() { _, _ = b.endpoint.Write(make([]byte, 16<<20)) }()
			time.Sleep(700 * time.Millisecond)
			swallow(b.client, 16<<20)
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBridge(t, quick())
			test.do(b)
			if !test.ends {
				select {
				case <-b.over:
					t.Fatal("it was ended")
				case <-time.After(500 * time.Millisecond):
				}
				return
			}
			b.ends(t)
			if n := b.service.counters.timedOut.Load(); n != 1 {
				t.Errorf("%d counted", n)
			}
			if err := until(b.endpoint); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("the endpoint saw %v", err)
			}
		})
	}
}

// TestSuspects holds who makes room: one that has not been used both ways, after its
// time, the longest idle first; a drip does not count, an exchange does.
func TestSuspects(t *testing.T) {
	for _, test := range []struct {
		name  string
		do    func(b *bridge)
		wait  time.Duration
		makes bool
	}{
		{"never used", func(*bridge) {}, time.Second, true},
		{"never used, a moment ago", func(*bridge) {}, 0, false},
		{"a client that drips and is not answered", func(b *bridge) {
			for range 10 {
				_, _ = b.client.Write([]byte("x"))
				time.Sleep(100 * time.Millisecond)
			}
		}, 0, true},
		{"an exchange, then idle", func(b *bridge) {
			_, _ = b.client.Write([]byte("x"))
			_, _ = b.endpoint.Write([]byte("x"))
			_, _ = io.ReadFull(b.endpoint, make([]byte, 1))
			_, _ = io.ReadFull(b.client, make([]byte, 1))
		}, time.Second, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := quick()
			p.silent = time.Hour
			b := layBridge(t, p)
			w, done := b.worker, make(chan struct{})
			go func() {
				test.do(b)
				time.Sleep(test.wait)
				close(done)
			}()
			for busy := true; busy; time.Sleep(5 * time.Millisecond) {
				select {
				case <-done:
					busy = false
				default:
				}
				w.turn(0)
				w.ring()
			}
			if got := w.makeRoom(nil); got != test.makes || b.service.counters.evicted.Load() > 0 != test.makes {
				t.Errorf("made room: %t, want %t", got, test.makes)
			}
			if !test.makes {
				w.do(w.links[1], w.links[1].course.fail())
			}
			w.close()
		})
	}
}

// TestKeepalive holds that the kernel asks the peers on both sides whether they are
// there, the endpoint from the first look on.
func TestKeepalive(t *testing.T) {
	b := newBridge(t, quick())
	if _, err := b.client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * tick)
	fd := int(b.worker.links[1].sides[ofEndpoint].socket)
	for option, want := range map[[2]int]int{{unix.SOL_SOCKET, unix.SO_KEEPALIVE}: 1, {unix.SOL_TCP, unix.TCP_KEEPIDLE}: 120,
		{unix.SOL_TCP, unix.TCP_KEEPINTVL}: 15, {unix.SOL_TCP, unix.TCP_KEEPCNT}: 4} {
		if got, err := unix.GetsockoptInt(fd, option[0], option[1]); got != want || err != nil {
			t.Errorf("option %v is %d, %v; want %d", option, got, err, want)
		}
	}
}
