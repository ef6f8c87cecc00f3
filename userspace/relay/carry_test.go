package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

// pair is a TCP connection: the end of an application, and the end of the relay.
func pair(t testing.TB) (*net.TCPConn, socket) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	app, err := net.DialTCP("tcp", nil, ln.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	raw, err := accepted.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	if err := raw.Control(func(own uintptr) { fd, err = unix.Dup(int(own)) }); err != nil {
		t.Fatal(err)
	}
	return app, socket(fd)
}

// bridge is a link at work between two applications, alone with its worker.
type bridge struct {
	client, endpoint *net.TCPConn
	worker           *worker
	service          *service
	over             chan struct{} // the link has ended
}

func newBridge(t testing.TB, p patience) *bridge {
	t.Helper()
	b := layBridge(t, p)
	r := b.worker.relay
	r.listening.Add(1)
	r.working.Go(b.worker.run)
	go func() {
		<-r.left
		close(b.over)
	}()
	t.Cleanup(func() {
		b.cut()
		r.working.Wait()
	})
	return b
}

// layBridge makes a bridge whose worker does not run.
func layBridge(t testing.TB, p patience) *bridge {
	t.Helper()
	r := &Relay{patience: p, tcp: none, perService: 10, most: 10, left: make(chan struct{}, 1), warn: func(string, ...any) {}}
	w, err := newWorker(r)
	if err != nil {
		t.Fatal(err)
	}
	b := &bridge{worker: w, service: &service{}, over: make(chan struct{})}
	var left, right socket
	b.client, left = pair(t)
	b.endpoint, right = pair(t)
	b.join(t, left, right)
	t.Cleanup(func() { _, _ = b.client.Close(), b.endpoint.Close() })
	return b
}

// join makes a link before its worker runs.
func (b *bridge) join(t testing.TB, left, right socket) {
	t.Helper()
	w := b.worker
	l, err := w.begin(left)
	if err == nil {
		err = w.attach(l, ofEndpoint, right)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.relay.taken.Add(1)
	b.service.counters.active.Add(1)
	ep := &endpoint{}
	l.service, l.search = b.service, &search{tried: []*endpoint{ep}}
	l.search.request.at.version = &version{spec: &proxier.Service{}}
	w.do(l, l.course.connected())
}

// cut resets the link, if it is not over, and ends its worker.
func (b *bridge) cut() {
	b.worker.stopAccepting.Store(true)
	b.worker.cutAll.Store(true)
	b.worker.poller.wake()
}

func (b *bridge) ends(t testing.TB) {
	t.Helper()
	select {
	case <-b.over:
	case <-time.After(10 * time.Second):
		t.Fatal("the link does not end")
	}
}

// TestHalfClose holds that the end of one direction leaves the other alone.
func TestHalfClose(t *testing.T) {
	b := newBridge(t, usual())
	if _, err := b.client.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	if err := b.client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(b.endpoint); err != nil || string(got) != "question" {
		t.Fatalf("endpoint read %q, %v", got, err)
	}
	time.Sleep(20 * time.Millisecond)
	if _, err := b.endpoint.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if err := b.endpoint.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(b.client); err != nil || string(got) != "answer" {
		t.Fatalf("client read %q, %v", got, err)
	}
	b.ends(t)
	if c := b.service.counters.snapshot(); c.Received != 8 || c.Sent != 6 || c.Active != 0 {
		t.Errorf("counted %+v", c)
	}
}

// reset ends a connection by a reset.
func reset(t testing.TB, c *net.TCPConn) {
	t.Helper()
	if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
		t.Error(err)
	}
}

// TestReset holds that a reset of one side reaches the other as a reset, also when
// one direction has ended in peace before.
func TestReset(t *testing.T) {
	for _, test := range []struct {
		name   string
		before func(b *bridge) error
		resets func(b *bridge) (who, other *net.TCPConn)
	}{
		{"client", nil, func(b *bridge) (_, _ *net.TCPConn) { return b.client, b.endpoint }},
		{"endpoint", nil, func(b *bridge) (_, _ *net.TCPConn) { return b.endpoint, b.client }},
		{"client after its end", func(b *bridge) error { return b.client.CloseWrite() },
			func(b *bridge) (_, _ *net.TCPConn) { return b.client, b.endpoint }},
		{"client after the endpoint's end", func(b *bridge) error { return b.endpoint.CloseWrite() },
			func(b *bridge) (_, _ *net.TCPConn) { return b.client, b.endpoint }},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBridge(t, usual())
			if test.before != nil {
				if err := test.before(b); err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Millisecond)
			}
			who, other := test.resets(b)
			reset(t, who)
			b.ends(t)
			if err := until(other); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("the other side saw %v", err)
			}
		})
	}
}

// until reads, and then writes, until there is an error.
func until(c *net.TCPConn) error {
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.Copy(io.Discard, c); err != nil {
		return err
	}
	for {
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// part is what one application does: it writes, and then ends or resets.
type part struct {
	data   []byte
	chunks []int // sizes of its writes
	slow   int   // it reads so many bytes at a time; 0: as many as come
	resets bool
}

func randomPart(rng *rand.Rand) part {
	sizes := []int{0, 1, 100, bufferSize - 1, bufferSize, bufferSize + 1, 3 * bufferSize, 1 << 20}
	p := part{resets: rng.IntN(5) == 0, slow: []int{0, 0, 1000, 50_000}[rng.IntN(4)]}
	for range rng.IntN(6) {
		n := sizes[rng.IntN(len(sizes))]
		p.chunks = append(p.chunks, n)
		for range n {
			p.data = append(p.data, byte(rng.Uint32()))
		}
	}
	return p
}

// play returns what the application read, and how that ended. The kernel tells of a
// reset once: where a write has heard of it, reading just ends.
func (p part) play(c *net.TCPConn) (got []byte, end error) {
	var written error
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	var wait sync.WaitGroup
	wait.Go(func() {
		rest := p.data
		for _, n := range p.chunks {
			if _, written = c.Write(rest[:n]); written != nil {
				return
			}
			rest = rest[n:]
		}
		if p.resets {
			_ = c.SetLinger(0)
			_ = c.Close()
			return
		}
		_ = c.CloseWrite()
	})
	buf := make([]byte, max(p.slow, 64<<10))
	for end == nil {
		var n int
		n, end = c.Read(buf)
		got = append(got, buf[:n]...)
		if p.slow > 0 {
			time.Sleep(50 * time.Microsecond)
		}
	}
	wait.Wait()
	if written != nil && !p.resets {
		end = written
	}
	return got, end
}

// TestBytes is the relay against an oracle: what is read is what was written, byte
// for byte, with its end; after a reset it is the beginning of that, without.
func TestBytes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for n := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, n))
		client, endpoint := randomPart(rng), randomPart(rng)
		if err := playBoth(t, client, endpoint); err != nil {
			t.Fatalf("seed %d, round %d: %v\nclient %v resets %t, endpoint %v resets %t", seed, n, err,
				client.chunks, client.resets, endpoint.chunks, endpoint.resets)
		}
	}
}

func playBoth(t *testing.T, client, endpoint part) error {
	b := newBridge(t, usual())
	defer func() { _, _ = b.client.Close(), b.endpoint.Close() }()
	var wait sync.WaitGroup
	var down, up []byte
	var downEnd, upEnd error
	wait.Go(func() { down, downEnd = client.play(b.client) })
	wait.Go(func() { up, upEnd = endpoint.play(b.endpoint) })
	wait.Wait()
	b.ends(t)
	return errors.Join(judge("endpoint", up, upEnd, client, endpoint), judge("client", down, downEnd, endpoint, client))
}

// judge compares what the reader read with what the writer wrote.
func judge(who string, got []byte, end error, writer, reader part) error {
	if !bytes.HasPrefix(writer.data, got) {
		return fmt.Errorf("%s read %d bytes that are not the beginning of the %d written", who, len(got), len(writer.data))
	}
	switch {
	case reader.resets: // it closed its own socket
		return nil
	case writer.resets:
		if end == io.EOF {
			return fmt.Errorf("%s saw an end, not a reset", who)
		}
	case end != io.EOF:
		return fmt.Errorf("%s: %w after %d of %d bytes", who, end, len(got), len(writer.data))
	case len(got) != len(writer.data):
		return fmt.Errorf("%s read %d of %d bytes", who, len(got), len(writer.data))
	}
	return nil
}

// TestHeldUp holds that a link ends although one side takes no bytes, when it is cut.
func TestHeldUp(t *testing.T) {
	b := newBridge(t, usual())
	go func() {
		for {
			if _, err := b.client.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}()
	time.Sleep(100 * time.Millisecond)
	b.cut()
	b.ends(t)
	if err := until(b.endpoint); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the endpoint saw %v", err)
	}
}

// TestWithoutPipes holds that bytes are copied where there is no pipe to be had.
func TestWithoutPipes(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	b := newBridge(t, usual())
	highest, err := unix.Dup(0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(highest)
	low := limit
	low.Cur = uint64(highest) + 1
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) }()
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	go func() {
		_, _ = b.client.Write(want)
		_ = b.client.CloseWrite()
	}()
	_ = b.endpoint.SetDeadline(time.Now().Add(10 * time.Second))
	got, err := io.ReadAll(b.endpoint)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d of %d bytes: %v", len(got), len(want), err)
	}
}
