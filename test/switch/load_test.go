package switching

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"switchyard/proxier"
	"switchyard/test/netlab"
	"switchyard/test/uml"
)

// way is from where to where.
type way struct{ from, to string }

// ways are those by which connects must never fail for long, in every mode.
var ways = []way{
	{clientPod, "172.30.0.41:80"},
	{clientPod, "[fd00:172:30::41]:80"},
	{netlab.NodeA, "172.30.0.41:80"},
	{netlab.Outside, "172.30.0.41:80"},
	{netlab.Outside, "192.168.0.2:30041"},
	{netlab.Outside, "198.51.100.41:80"},
	{netlab.Outside, "198.51.100.42:80"},
}

// every is how often each way is tried.
var every = 10 * time.Millisecond * uml.Patience() * min(patience, 3)

// load connects by every way all the time.
type load struct {
	stop context.CancelFunc
	wait sync.WaitGroup

	mu      sync.Mutex
	tried   int
	failed  int
	why     map[string]int
	longest time.Duration // the longest time in which a way was closed
	where   way
	control time.Duration // the same of a way on which there is no Service
	late    time.Duration // how late a connect began: the machine had no time for anybody
}

// control passes the node, and no Service: if it is closed, the machine stood still.
var control = way{clientPod, "10.180.1.11:8080"}

func (st *stage) load(t *testing.T) *load {
	ctx, stop := context.WithCancel(context.Background())
	l := &load{stop: stop, why: map[string]int{}}
	for i, w := range ways {
		if uml.Inside() && i%2 == 1 {
			continue // it has one slow CPU, and the proxy wants it
		}
		l.wait.Go(func() { l.connect(ctx, st.lab.Host(w.from), w) })
	}
	l.wait.Go(func() { l.connect(ctx, st.lab.Host(control.from), control) })
	t.Cleanup(l.end)
	return l
}

func (l *load) end() {
	l.stop()
	l.wait.Wait()
}

// answered is how long a connect may take: the kernel sends a lost SYN again after 1 s,
// so a connect that meets no rule for a moment shows.
var answered = 400 * time.Millisecond * min(patience, 2)

// connect connects one after another. A way is closed from the first connect that fails
// to the start of the first one that does not.
func (l *load) connect(ctx context.Context, host *netlab.Host, w way) {
	var closed time.Time
	for ; ctx.Err() == nil; l.rest() {
		start := time.Now()
		r := host.Probe(context.Background(), netlab.Probe{Protocol: proxier.TCP, Dst: netip.MustParseAddrPort(w.to), Timeout: answered})
		l.count(w, r.Verdict)
		switch {
		case r.Verdict != netlab.Answered && closed.IsZero():
			closed = start
		case r.Verdict == netlab.Answered && !closed.IsZero():
			l.gap(w, start.Sub(closed))
			closed = time.Time{}
		}
	}
	if !closed.IsZero() {
		l.gap(w, time.Since(closed))
	}
}

func (l *load) rest() {
	start := time.Now()
	time.Sleep(every)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late = max(l.late, time.Since(start)-every)
}

func (l *load) count(w way, v netlab.Verdict) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w == control {
		return
	}
	l.tried++
	if v != netlab.Answered {
		l.failed++
		l.why[fmt.Sprintf("%s from %s to %s", v, w.from, w.to)]++
	}
}

func (l *load) gap(w way, gap time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case w == control:
		l.control = max(l.control, gap)
	case gap > l.longest:
		l.longest, l.where = gap, w
	}
}

// stream is a connection that is used all the time.
type stream struct {
	kind string // as in docs/upgrade.md
	conn net.Conn
	done chan struct{}
	err  error // why it ended; read once done is closed
}

// kinds of streams: from whom to which address.
var kinds = map[string]way{
	"pod to ClusterIP":        {clientPod, "172.30.0.41:80"},
	"pod to ClusterIP, IPv6":  {clientPod, "[fd00:172:30::41]:80"},
	"node to ClusterIP":       {netlab.NodeA, "172.30.0.41:80"},
	"outside to NodePort":     {netlab.Outside, "192.168.0.2:30041"},
	"outside to external IP":  {netlab.Outside, "198.51.100.41:80"},
	"outside to policy Local": {netlab.Outside, "198.51.100.42:80"},
}

// loopback is the kind of stream that only some modes have.
const loopback = "node to NodePort at 127.0.0.1"

// perKind is how many streams of each kind there are: enough for one to be at each of
// two endpoints.
const perKind = 2

// dial opens some connections of each kind, so that every endpoint has some.
func (st *stage) dial(t *testing.T, kind string, w way, n int) (all []*stream) {
	t.Helper()
	for range n {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		conn, err := st.lab.Host(w.from).Dial(ctx, "tcp", netip.AddrPort{}, netip.MustParseAddrPort(w.to))
		cancel()
		check(t, err)
		s := &stream{kind: kind, conn: conn, done: make(chan struct{})}
		t.Cleanup(func() { _ = conn.Close() })
		_, err = readLine(conn)
		check(t, err)
		go s.talk()
		all = append(all, s)
	}
	return all
}

// silence is how long a stream may hear nothing: longer than a segment that is lost
// once or twice is on its way.
var silence = 1200 * time.Millisecond * min(uml.Patience(), 8)

func (s *stream) talk() {
	defer close(s.done)
	for n := 0; s.err == nil; n++ {
		s.err = s.say(fmt.Sprintf("%d\n", n))
		time.Sleep(5 * every)
	}
}

func (s *stream) say(what string) error {
	if err := s.conn.SetDeadline(time.Now().Add(silence)); err != nil {
		return err
	}
	if _, err := fmt.Fprint(s.conn, what); err != nil {
		return err
	}
	heard, err := readLine(s.conn)
	if err == nil && heard != what {
		err = fmt.Errorf("said %q, heard %q", what, heard)
	}
	return err
}

func readLine(conn net.Conn) (string, error) {
	var line []byte
	one := make([]byte, 1)
	for {
		if _, err := conn.Read(one); err != nil {
			return "", err
		}
		if line = append(line, one[0]); one[0] == '\n' {
			return string(line), nil
		}
	}
}

// end is how it ended, "" if it has not.
func (s *stream) end() string {
	select {
	case <-s.done:
	default:
		return ""
	}
	if errors.Is(s.err, os.ErrDeadlineExceeded) {
		return "silence"
	}
	_, why, _ := strings.Cut(s.err.Error(), "->")
	_, why, _ = strings.Cut(why, ": ")
	return cmp.Or(why, s.err.Error())
}
