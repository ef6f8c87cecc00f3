package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"switchyard/proxier/cluster"
	"switchyard/proxier/metrics"
	"switchyard/proxier/node"
)

// group waits for goroutines.
type group struct{ sync.WaitGroup }

func (g *group) start(f func()) { g.Go(f) }
func (g *group) wait()          { g.Wait() }

// addressBook holds the machine's addresses.
type addressBook struct {
	mu    sync.Mutex
	addrs []netip.Addr
}

func (b *addressBook) get() []netip.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.addrs
}

func (b *addressBook) read() error {
	addrs, err := node.Addresses()
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addrs = addrs
	return nil
}

// watchAddresses keeps the address book up to date.
func (p *proxy) watchAddresses(ctx context.Context) {
	for ctx.Err() == nil {
		err := node.WatchAddresses(ctx, func() {
			if err := p.addrs.read(); err != nil {
				p.log.Warn("the node's addresses cannot be read", "error", err)
				return
			}
			if p.started.Load() {
				p.engine.Changed()
			}
		})
		if err != nil && ctx.Err() == nil {
			p.log.Warn("the node's addresses are not watched; trying again in 10 s", "error", err)
			sleep(ctx, 10*time.Second)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// serve answers at the health check address and at that of the metrics.
func (p *proxy) serve(ctx context.Context, wait *group) {
	p.serveAt(ctx, wait, "health check", p.options.Healthz, p.metrics.CountProbes(p.healthz))
	p.serveAt(ctx, wait, "metrics", p.options.Metrics, metrics.NewServer(metrics.ServerOptions{
		Metrics: p.metrics.Handler(), Mode: p.options.Mode, Profiling: p.options.Profiling,
	}))
}

// serveAt runs a server until the context ends; no address: none. A port that is
// taken is tried again every 5 s, as upstream does.
func (p *proxy) serveAt(ctx context.Context, wait *group, what string, at netip.AddrPort, h http.Handler) {
	if !at.IsValid() {
		return
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)}
	wait.start(func() {
		<-ctx.Done()
		server.Close()
	})
	wait.start(func() {
		for ctx.Err() == nil {
			l, err := net.Listen("tcp", listenAddress(at))
			if err == nil {
				err = server.Serve(l)
			}
			if ctx.Err() == nil && !errors.Is(err, http.ErrServerClosed) {
				p.log.Error("a server cannot listen; trying again in 5 s", "server", what, "address", at, "error", err)
				sleep(ctx, 5*time.Second)
			}
		}
	})
}

// listenAddress listens on both families where the address is 0.0.0.0 or ::.
func listenAddress(a netip.AddrPort) string {
	if a.Addr().IsUnspecified() {
		return net.JoinHostPort("", a.String()[len(a.Addr().String())+1:])
	}
	return a.String()
}

// diary says each problem once, when it appears.
type diary struct {
	log  *slog.Logger
	mu   sync.Mutex
	said map[cluster.Problem]bool
}

func (d *diary) tell(problems []cluster.Problem) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := map[cluster.Problem]bool{}
	for _, problem := range problems {
		now[problem] = true
		if !d.said[problem] {
			d.log.Warn("a part of this object is left out",
				"object", problem.Object, "field", problem.Field, "reason", problem.Reason)
		}
	}
	d.said = now
}
