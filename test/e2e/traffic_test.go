package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"switchyard/proxier"
	"switchyard/test/netlab"
)

// patience is how long a connection may take to stand: time for a lost packet to be
// sent again, twice.
const patience = 4 * time.Second

// ask opens a TCP connection from a host and returns who answers, or what else came
// of it: "refused", "timeout".
func (c *cluster) ask(from, to string) string {
	r := c.lab.Host(from).Probe(context.Background(), netlab.Probe{Protocol: proxier.TCP, Dst: netip.MustParseAddrPort(to)})
	if r.Verdict != netlab.Answered {
		return r.Verdict.String()
	}
	return r.Endpoint
}

// reaches waits until connections from a host end at a pod, and returns how long
// that took.
func (c *cluster) reaches(t *testing.T, from, to string, pod netip.Addr) time.Duration {
	t.Helper()
	last := ""
	began := time.Now()
	for time.Since(began) < limit {
		if last = c.ask(from, to); last == pod.String() {
			return time.Since(began)
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("from %s to %s: %s, want %s", from, to, last, pod)
	return 0
}

// apiAnswers asks the API server by the ClusterIP of default/kubernetes.
func (c *cluster) apiAnswers(t *testing.T, from *netlab.Host) error {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(text(t, c.dir+"/ca.crt")))
	client := http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: pool, ServerName: "kubernetes.default.svc"},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return from.Dial(ctx, "tcp", netip.AddrPort{}, apiService)
		},
	}}
	answer, err := client.Get("https://kubernetes.default.svc/readyz")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz: %s", answer.Status)
	}
	return nil
}

// flow is connections that are made one after the other all the time.
type flow struct {
	stop    context.CancelFunc
	running sync.WaitGroup

	mu            sync.Mutex
	tried, failed int
	first         string // what came of the first that failed
	slowest       time.Duration
}

// flow connects from a host to addresses in turn, every few milliseconds, until it
// is ended.
func (c *cluster) flow(t *testing.T, from string, to ...netip.AddrPort) *flow {
	ctx, stop := context.WithCancel(context.Background())
	f := &flow{stop: stop}
	host := c.lab.Host(from)
	f.running.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			dst := to[i%len(to)]
			began := time.Now()
			r := host.Probe(context.Background(), netlab.Probe{Protocol: proxier.TCP, Dst: dst, Timeout: patience})
			f.note(r, fmt.Sprintf("from %s to %s at %s: %s %v", from, dst, began.Format("15:04:05.000"), r.Verdict, r.Err))
			time.Sleep(3 * time.Millisecond)
		}
	})
	t.Cleanup(func() { f.stop(); f.running.Wait() })
	return f
}

func (f *flow) note(r netlab.Result, what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tried++
	f.slowest = max(f.slowest, r.Took)
	if r.Verdict != netlab.Answered {
		if f.failed++; f.failed == 1 {
			f.first = what
		}
	}
}

// end ends the flow; no connection may have failed, and there must have been some.
func (f *flow) end(t *testing.T, atLeast int) {
	t.Helper()
	f.stop()
	f.running.Wait()
	if f.failed > 0 {
		t.Errorf("%d of %d connections failed, first %s", f.failed, f.tried, f.first)
	}
	if f.tried < atLeast {
		t.Errorf("%d connections were made: too few to say anything", f.tried)
	}
	t.Logf("%d connections, %d failed, the slowest took %s", f.tried, f.failed, f.slowest.Round(time.Millisecond))
}

// repeat serves connections in which each line is sent back.
func repeat(t *testing.T, host *netlab.Host, at netip.AddrPort) {
	t.Helper()
	listener, err := host.Listen("tcp", at.String())
	check(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn) // until the client hangs up
			}()
		}
	}()
}

// call is one connection that stays open.
type call struct {
	conn  net.Conn
	lines *bufio.Reader
	said  int
}

func (c *cluster) call(t *testing.T, from, to string) *call {
	t.Helper()
	conn, err := c.lab.Host(from).Dial(t.Context(), "tcp", netip.AddrPort{}, netip.MustParseAddrPort(to))
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	return &call{conn: conn, lines: bufio.NewReader(conn)}
}

// say sends a line and waits for it to come back.
func (c *call) say(t *testing.T) {
	t.Helper()
	c.said++
	line := fmt.Sprintf("line %d\n", c.said)
	check(t, c.conn.SetDeadline(time.Now().Add(patience)))
	_, err := io.WriteString(c.conn, line)
	check(t, err)
	heard, err := c.lines.ReadString('\n')
	check(t, err)
	if heard != line {
		t.Fatalf("heard %q, said %q", heard, line)
	}
}
