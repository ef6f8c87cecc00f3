package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"switchyard/test/netlab"
)

// errancies are what a relay before an API server can be told, for the step "api".
var errancies = []string{"stop", "lag", "twice", "close", "forget", "refuse"}

// relay passes requests on to an API server, and fails as API servers and what is
// before them do. A watch is passed on event by event, in JSON, a line each.
type relay struct {
	host *netlab.Host
	at   netip.AddrPort
	pass *httputil.ReverseProxy

	mu      sync.Mutex
	server  *http.Server // nil: it is stopped
	watches map[*watch]bool
	lag     time.Duration // of each event
	twice   bool          // each event comes twice
	forgets int           // watches that are told that their version is too old
	refuses bool          // every other request is refused
	n       int           // requests
}

// watch is one that is open.
type watch struct {
	end context.CancelFunc
}

func newRelay(host *netlab.Host, at netip.AddrPort, config *rest.Config) (*relay, error) {
	to, err := url.Parse(config.Host)
	if err != nil {
		return nil, err
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, err
	}
	e := &relay{host: host, at: at, watches: map[*watch]bool{}}
	e.pass = &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1, ModifyResponse: e.intercept,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Header.Set("Accept", "application/json")
			r.Out.Header.Set("Accept-Encoding", "identity")
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	return e, e.start()
}

func (e *relay) start() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.server != nil {
		return nil
	}
	ln, err := e.host.Listen("tcp", e.at.String())
	if err != nil {
		return err
	}
	e.server = &http.Server{Handler: e}
	go func(s *http.Server) { _ = s.Serve(ln) }(e.server) // until it is closed
	return nil
}

// close stops it: connections break, and further ones are refused.
func (e *relay) close() error {
	e.mu.Lock()
	server := e.server
	e.server = nil
	e.mu.Unlock()
	if server == nil {
		return nil
	}
	return server.Close()
}

// err has it fail in one of the ways of errancies; "heal" ends all.
func (e *relay) err(how string, d time.Duration) error {
	if how == "stop" {
		return e.close()
	}
	if how == "heal" {
		if err := e.start(); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch how {
	case "heal":
		e.lag, e.twice, e.forgets, e.refuses = 0, false, 0, false
	case "lag":
		e.lag = d
	case "twice":
		e.twice = true
	case "close":
		e.endWatches()
	case "forget":
		e.forgets = 3
		e.endWatches()
	case "refuse":
		e.refuses = true
		e.endWatches()
	default:
		return fmt.Errorf("api %q: want one of %v, or heal", how, errancies)
	}
	return nil
}

func (e *relay) endWatches() {
	for w := range e.watches {
		w.end()
	}
}

// ServeHTTP implements http.Handler.
func (e *relay) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	isWatch := r.URL.Query().Get("watch") != ""
	e.mu.Lock()
	e.n++
	refused := e.refuses && e.n%2 == 0
	// A watch that wants all there is cannot be too old.
	forgotten := isWatch && e.forgets > 0 && r.URL.Query().Get("sendInitialEvents") == ""
	if forgotten {
		e.forgets--
	}
	e.mu.Unlock()
	switch {
	case refused:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case forgotten:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusGone)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410,"message":"too old resource version"}`)
		return
	}
	if isWatch {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		open := &watch{end: cancel}
		e.mu.Lock()
		e.watches[open] = true
		e.mu.Unlock()
		defer func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			delete(e.watches, open)
		}()
		r = r.WithContext(ctx)
	}
	defer func() { _ = recover() }() // http.ErrAbortHandler: the watch was ended
	e.pass.ServeHTTP(w, r)
}

// intercept stands between a watch's events and who waits for them.
func (e *relay) intercept(r *http.Response) error {
	if r.Request.URL.Query().Get("watch") == "" || r.StatusCode != http.StatusOK {
		return nil
	}
	from, to := r.Body, (*io.PipeWriter)(nil)
	r.Body, to = newPipe(from)
	r.ContentLength = -1
	go e.events(r.Request.Context(), from, to)
	return nil
}

// pipe closes what it has its bytes from, too.
type pipe struct {
	*io.PipeReader
	from io.Closer
}

func newPipe(from io.Closer) (io.ReadCloser, *io.PipeWriter) {
	r, w := io.Pipe()
	return &pipe{r, from}, w
}

func (p *pipe) Close() error { return errors.Join(p.PipeReader.Close(), p.from.Close()) }

func (e *relay) events(ctx context.Context, from io.Reader, to *io.PipeWriter) {
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			to.CloseWithError(err)
			return
		}
		e.mu.Lock()
		lag, times := e.lag, 1
		if e.twice {
			times = 2
		}
		e.mu.Unlock()
		sleep(ctx, lag)
		for range times {
			if _, err := to.Write(line); err != nil {
				return
			}
		}
	}
}
