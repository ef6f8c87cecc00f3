package watch

import (
	"errors"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"
)

// diary says what is wrong with the API server: each reason once, then at its
// 10th, 100th, … time, until all is well.
type diary struct {
	log *slog.Logger

	mu      sync.Mutex
	since   time.Time // of the first failure
	failing map[string]bool
	times   map[string]int // by reason
}

// maxReasons bounds what a diary remembers. Beyond it reasons are said again.
const maxReasons = 64

func newDiary(log *slog.Logger) *diary {
	return &diary{log: log, failing: map[string]bool{}, times: map[string]int{}}
}

// failed notes a failure for a kind. Waits are the kinds of which nothing has come
// yet.
func (d *diary) failed(kind string, err error, waits []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.failing) == 0 {
		d.since = time.Now()
	}
	d.failing[kind] = true
	reason := cause(err)
	if len(d.times) > maxReasons {
		clear(d.times)
	}
	d.times[reason]++
	n := d.times[reason]
	if !powerOfTen(n) {
		return
	}
	about := []any{"of", kind, "reason", reason, "times", n, "for", time.Since(d.since).Round(time.Second)}
	if len(waits) > 0 {
		d.log.Warn("waiting for the API server, no rule is changed until it has delivered",
			append(about, "missing", strings.Join(waits, ", "))...)
		return
	}
	d.log.Warn("the API server cannot be followed, what is programmed stays", about...)
}

// waiting says that no answer has come at all.
func (d *diary) waiting(waits []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.failing) == 0 {
		d.log.Warn("waiting for the API server, no rule is changed until it has delivered",
			"reason", "no answer yet", "missing", strings.Join(waits, ", "))
	}
}

// without says once that a kind that is not needed is not there.
func (d *diary) without(kind string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	reason := cause(err)
	if d.times[kind+reason]++; d.times[kind+reason] == 1 {
		d.log.Info("the API server does not give this kind of objects: going on without", "of", kind, "reason", reason)
	}
}

// fine notes that a kind is followed.
func (d *diary) fine(kind string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.failing[kind] {
		return
	}
	delete(d.failing, kind)
	if len(d.failing) == 0 {
		clear(d.times)
		d.log.Info("the API server is followed again", "after", time.Since(d.since).Round(time.Second))
	}
}

func powerOfTen(n int) bool {
	for n >= 10 && n%10 == 0 {
		n /= 10
	}
	return n == 1
}

// cause is the part of an error that is the same for all kinds and tries: without
// the URL and without our own port.
func cause(err error) string {
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Addr != nil {
		return op.Op + " " + op.Net + " " + op.Addr.String() + ": " + op.Err.Error()
	}
	return err.Error()
}
