package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"switchyard/cmd/backends"
	"switchyard/proxier"
	"switchyard/proxier/cluster"
	"switchyard/proxier/compile"
	"switchyard/proxier/config"
	"switchyard/proxier/conntrack"
	"switchyard/proxier/engine"
	"switchyard/proxier/health"
	"switchyard/proxier/manifest"
	"switchyard/proxier/metrics"
	"switchyard/proxier/node"
)

// run programs the node's kernel until SIGINT or SIGTERM. What it programmed
// stays: a restart must not disturb a connection.
func run(args []string, out io.Writer) error {
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	var flags config.Flags
	flags.Bind(fs)
	if err := parse(fs, args, out); err != nil {
		return err
	}
	switch flags.Verb() {
	case "cleanup":
		return cleanup(nil, out)
	case "version":
		return printVersion(nil, out)
	}
	o, err := flags.Options(backends.Names())
	if err != nil {
		return err
	}
	if o.WriteTo != "" {
		return config.Write(o.WriteTo, o.Effective)
	}
	if o.Manifest == "" {
		return errors.New("run: --manifest: must name a file or a directory with Services, EndpointSlices and the Node")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := logger(o)
	for _, warning := range o.Warnings {
		log.Warn(warning)
	}
	p, err := newProxy(ctx, o, log)
	if err != nil {
		return err
	}
	return p.run(ctx)
}

func logger(o config.Options) *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelInfo}
	if o.Verbosity >= 4 {
		options.Level = slog.LevelDebug
	}
	if o.JSONLogs {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}

// proxy is the program put together: one line of data from the source to the
// kernel, and what listens along it.
type proxy struct {
	options config.Options
	log     *slog.Logger
	store   *cluster.Store
	addrs   addressBook
	engine  *engine.Engine
	cleaner *conntrack.Cleaner
	service *health.Server
	healthz *health.Healthz
	metrics *metrics.Metrics
	opened  []proxier.Backend
	problem diary
	started atomic.Bool // the source has delivered

	families []proxier.Family // those that are served

	mu       sync.Mutex
	lookedAt map[proxier.Family]time.Time // when the snapshot that is applied was taken

	localhost sync.Once // see openLocalhost
}

func newProxy(ctx context.Context, o config.Options, log *slog.Logger) (*proxy, error) {
	o.Backend.ConntrackLiberal = node.ConntrackLiberal()
	p := &proxy{
		options: o, log: log,
		store:   cluster.NewStore(o.Node.Name),
		cleaner: conntrack.New(conntrack.Clean, log),
		service: health.New(log, health.Options{}),
		healthz: health.NewHealthz(o.Sync),
		problem: diary{log: log},

		lookedAt: map[proxier.Family]time.Time{},
	}
	p.service.SetHealthy(p.healthz.Healthy)
	log.Info("starting", "version", version, "node", o.Node.Name, "mode", o.Mode)
	targets, err := p.targets(ctx)
	if err != nil {
		return nil, err
	}
	p.metrics = metrics.New(metrics.Options{
		Mode: o.Mode, Version: version, Families: p.families,
		Status: func() []engine.Status { return p.engine.Status() },
	})
	p.cleaner.Observe(p.metrics.ConntrackPass)
	p.engine = engine.New(p.store.Snapshot, targets, []engine.Observer{newObserver(p), p.metrics}, engine.Options{
		MinSync: o.Min, Resync: resyncs * o.Sync, Retry: o.Sync,
	}, log)
	return p, nil
}

// resyncs is how many sync periods pass between two full comparisons with the
// kernel: what others do is noticed by then at the latest, and mostly at once.
const resyncs = 20

// targets opens the backend of every family that the machine has. One family
// that cannot be served does not stop the other.
func (p *proxy) targets(ctx context.Context) ([]engine.Target, error) {
	driver, _ := backends.ByName(p.options.Mode)
	var targets []engine.Target
	var errs []error
	for _, f := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		if !node.HasFamily(f) {
			p.log.Info("the kernel does not have this IP family: it is left out", "family", f)
			continue
		}
		backend, about, err := driver.Open(ctx, f, p.options.Backend)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.log.Info("backend is open", "family", f, "about", about)
		p.opened, p.families = append(p.opened, backend), append(p.families, f)
		targets = append(targets, engine.Target{Family: f, Backend: backend, Compile: p.compiler(f)})
	}
	if len(targets) == 0 {
		return nil, errors.Join(errs...)
	}
	for _, err := range errs {
		p.log.Error("this IP family is not served", "error", err)
	}
	return targets, nil
}

// compiler is the way from a Snapshot to the State of one family.
func (p *proxy) compiler(f proxier.Family) func(cluster.Snapshot) *proxier.State {
	c := compile.New(f, p.options.Compile)
	said := diary{log: p.log}
	return func(snap cluster.Snapshot) *proxier.State {
		p.looked(f)
		state := c.Compile(snap, node.Describe(f, snap.Node, p.addrs.get(), p.options.Node))
		said.tell(c.Problems())
		return state
	}
}

// run starts everything and waits for the signal.
func (p *proxy) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wait group
	wait.start(func() { p.cleaner.Run(ctx) })
	wait.start(func() { p.watchAddresses(ctx) })
	if err := p.addrs.read(); err != nil {
		p.log.Warn("the node's addresses cannot be read yet", "error", err)
	}
	p.serve(ctx, &wait)
	wait.start(func() {
		if err := manifest.New(p.options.Manifest, p.store).Run(ctx, p.changed, p.log); err != nil {
			cancel(fmt.Errorf("manifest: %w", err))
		}
	})
	err := p.engine.Run(ctx)
	cancel(nil)
	wait.wait()
	p.service.Close()
	for _, b := range p.opened {
		err = errors.Join(err, b.Close())
	}
	if cause := context.Cause(ctx); err == nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	p.log.Info("stopped; what was programmed stays")
	return err
}

// changed is called by the source after each change, and after its first load.
func (p *proxy) changed() {
	snap := p.store.Snapshot()
	p.healthz.SetEligible(snap.Node == nil || snap.Node.Eligible) // a manifest need not have Nodes
	p.problem.tell(p.store.Problems())
	p.started.Store(true)
	p.engine.Changed()
}

// looked notes when a family took its snapshot.
func (p *proxy) looked(f proxier.Family) {
	p.metrics.Look(f)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lookedAt[f] = time.Now()
}

func (p *proxy) lastLook(f proxier.Family) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lookedAt[f]
}

// openLocalhost lets 127.0.0.1:NodePort work, once the guard against strangers is
// among the rules that stand.
func (p *proxy) openLocalhost() {
	changed, err := node.EnableRouteLocalnet()
	switch {
	case err != nil:
		p.log.Warn("NodePorts do not answer on 127.0.0.1", "error", err)
	case changed:
		p.log.Info("set net.ipv4.conf.all.route_localnet=1, for NodePorts on 127.0.0.1; --iptables-localhost-nodeports=false avoids it")
	}
}
