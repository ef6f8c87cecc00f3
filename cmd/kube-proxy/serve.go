package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"switchyard/proxier/events"
	"switchyard/proxier/metrics"
)

// server is one of the two HTTP servers.
type server struct {
	name    string
	flag    string
	reason  string // of the Event when its port cannot be had
	address netip.AddrPort
	handler http.Handler
}

// serve answers at the health check address and at that of the metrics.
func (p *proxy) serve(ctx context.Context, wait *sync.WaitGroup) {
	for _, s := range []server{
		{"health check", "--healthz-bind-address", events.HealthzNotServed, p.options.Healthz, p.metrics.CountProbes(p.healthz)},
		{"metrics", "--metrics-bind-address", events.MetricsNotServed, p.options.Metrics, metrics.NewServer(metrics.ServerOptions{
			Metrics: p.metrics.Handler(), Mode: p.options.Mode, Profiling: p.options.Profiling,
			Config: func() (any, error) { return p.options.Effective, nil },
		})},
	} {
		if s.address.IsValid() {
			p.serveAt(ctx, wait, s)
		}
	}
}

const (
	// listenAgain is how long a port that is taken is left to its owner, as upstream
	// does.
	listenAgain = 5 * time.Second
	// eventGrace is how long an Event gets to leave before the process ends.
	eventGrace = time.Second
)

// serveAt runs a server until the context ends. A port that is taken is tried again,
// or ends the process if bindAddressHardFail says so.
func (p *proxy) serveAt(ctx context.Context, wait *sync.WaitGroup, s server) {
	h := &http.Server{Handler: s.handler, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)}
	wait.Go(func() {
		<-ctx.Done()
		h.Close()
	})
	wait.Go(func() {
		for ctx.Err() == nil {
			l, err := net.Listen("tcp", listenAddress(s.address))
			if err == nil {
				err = h.Serve(l)
			}
			if ctx.Err() == nil && !errors.Is(err, http.ErrServerClosed) {
				p.notServed(ctx, s, err)
			}
		}
	})
}

func (p *proxy) notServed(ctx context.Context, s server, err error) {
	event := events.Event{Reason: s.reason, Action: actionStart, Note: fmt.Sprintf("%s server cannot listen at %s: %v", s.name, s.address, err)}
	p.source.events.Node(event)
	if p.options.HardFail {
		sleep(ctx, eventGrace)
		p.stop(fmt.Errorf("run: %s: the %s server cannot listen: %w; bindAddressHardFail makes this the end", s.flag, s.name, err))
		return
	}
	p.log.Error("a server cannot listen; trying again in 5 s", "server", s.name, "address", s.address, "error", err)
	sleep(ctx, listenAgain)
}

// listenAddress listens on both families where the address is 0.0.0.0 or ::.
func listenAddress(a netip.AddrPort) string {
	if a.Addr().IsUnspecified() {
		return net.JoinHostPort("", a.String()[len(a.Addr().String())+1:])
	}
	return a.String()
}
