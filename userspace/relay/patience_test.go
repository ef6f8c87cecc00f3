package relay

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

// TestRest holds how long a connection may be without a byte. Looks are a minute apart.
func TestRest(t *testing.T) {
	for _, test := range []struct {
		name  string
		bytes func(at time.Duration) int64 // carried until then
		over  time.Duration                // 0: not within two days
	}{
		{"opened, and silent: a slow-loris", func(time.Duration) int64 { return 0 }, time.Hour},
		{"one exchange, then silent", func(at time.Duration) int64 { return 10 }, 24 * time.Hour},
		{"silent for half an hour, one byte, then silent", func(at time.Duration) int64 { return int64(min(at/(30*time.Minute), 1)) }, 24*time.Hour + 30*time.Minute},
		{"a byte every 23 hours", func(at time.Duration) int64 { return 1 + int64(at/(23*time.Hour)) }, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			var r rest
			got := time.Duration(0)
			start := time.Now()
			for at := time.Duration(0); at < 48*time.Hour && got == 0; at += sweepEvery {
				if r.over(test.bytes(at), start.Add(at)) {
					got = at
				}
			}
			if got != test.over {
				t.Errorf("over after %s, want %s", got, test.over)
			}
		})
	}
}

// TestSweep holds that a connection whose time is over ends by a reset to both sides,
// and that others stay.
func TestSweep(t *testing.T) {
	r := &Relay{links: map[*link]struct{}{}}
	silent, alive := newBridge(t, testStore()), newBridge(t, testStore())
	r.enter(silent.link)
	r.enter(alive.link)
	now := time.Now()
	r.sweep(now)
	if on, err := unix.GetsockoptInt(alive.link.endpoint.fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE); on != 1 || err != nil {
		t.Errorf("the first sweep leaves keepalive at %d, %v", on, err)
	}
	if _, err := alive.client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(alive.endpoint, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	r.sweep(now.Add(silentTime))
	silent.ends(t)
	for _, side := range []*net.TCPConn{silent.client, silent.endpoint} {
		if err := until(side); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("saw %v", err)
		}
	}
	select {
	case <-alive.over:
		t.Error("one that carries bytes has ended")
	default:
	}
}

// TestHalfOpen holds that a side that neither ends nor sends is waited for, but not for
// ever, and that one that sends is.
func TestHalfOpen(t *testing.T) {
	s := testStore()
	s.halfOpen = 300 * time.Millisecond
	b := newBridge(t, s)
	start := time.Now()
	if err := b.client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for range 6 { // twice the time
		time.Sleep(100 * time.Millisecond)
		if _, err := b.endpoint.Write([]byte("x")); err != nil {
			t.Fatalf("while it sends: %v", err)
		}
	}
	b.ends(t)
	if took := time.Since(start); took < 800*time.Millisecond {
		t.Errorf("ended after %s", took)
	}
	if err := until(b.endpoint); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("the silent endpoint saw %v", err)
	}
	if _, err := io.Copy(io.Discard, b.client); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client saw %v", err)
	}
}

// TestKeepalive holds that the kernel asks the peers on both sides whether they are
// there: a peer that is gone without a word is noticed.
func TestKeepalive(t *testing.T) {
	listener, err := listenTCP(proxier.IPv4, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.close()
	name, err := unix.Getsockname(listener.fd)
	if err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*unix.SockaddrInet4).Port))
	out, err := dialing{to, 0, time.Second}.connect(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer out.close()
	in, _, err := listener.accept()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(in)
	out.watchPeer() // as the first sweep does
	for side, fd := range map[string]int{"client": in, "endpoint": out.fd} {
		for option, want := range map[[2]int]int{{unix.SOL_SOCKET, unix.SO_KEEPALIVE}: 1, {unix.SOL_TCP, unix.TCP_KEEPIDLE}: 120,
			{unix.SOL_TCP, unix.TCP_KEEPINTVL}: 15, {unix.SOL_TCP, unix.TCP_KEEPCNT}: 4} {
			if got, err := unix.GetsockoptInt(fd, option[0], option[1]); got != want || err != nil {
				t.Errorf("%s: option %v is %d, %v; want %d", side, option, got, err, want)
			}
		}
	}
}
