package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"switchyard/cmd/backends"
	"switchyard/proxier"
	"switchyard/proxier/cluster"
	"switchyard/proxier/compile"
	"switchyard/proxier/config"
	"switchyard/proxier/conntrack"
	"switchyard/proxier/engine"
	"switchyard/proxier/events"
	"switchyard/proxier/health"
	"switchyard/proxier/metrics"
	"switchyard/proxier/node"
	"switchyard/proxier/watch"
	"switchyard/userspace/keeper"
)

// proxy is the program put together: one line of data from the source to the
// kernel, and what listens along it.
type proxy struct {
	options  config.Options
	driver   proxier.Driver
	log      *slog.Logger
	store    *cluster.Store
	source   source
	start    *start
	takeover *takeover
	addrs    addressBook
	engine   *engine.Engine
	cleaner  *conntrack.Cleaner
	service  *health.Server
	healthz  *health.Healthz
	metrics  *metrics.Metrics
	opened   []proxier.Backend
	problem  diary
	stop     context.CancelCauseFunc

	families []proxier.Family // those that are served

	mu       sync.Mutex
	lookedAt map[proxier.Family]time.Time // when the snapshot that is applied was taken

	localhost sync.Once // see openLocalhost
}

func newProxy(ctx context.Context, o config.Options, log *slog.Logger) (*proxy, error) {
	p := &proxy{
		log:     log,
		store:   cluster.NewStore(o.Node.Name),
		cleaner: conntrack.New(conntrack.Clean, log),
		service: health.New(log, health.Options{}),

		lookedAt: map[proxier.Family]time.Time{},
	}
	log.Info("starting", "version", version, "node", o.Node.Name, "mode", o.Mode)
	var err error
	p.source, err = newSource(o, p.store, hooks{observe: p.observe, early: func() { p.start.early() }})
	if err != nil {
		return nil, err
	}
	prepare(o, log)
	o.Backend.ConntrackLiberal = node.ConntrackLiberal()
	o.Backend.Userspace.Keeper, o.Backend.Userspace.Warn = keeper.Command(), log.Warn
	p.options = o
	p.driver, _ = backends.ByName(o.Mode)
	p.options.Node = nodeOptions(o, p.driver)
	p.cleaner.Relay(p.driver.Relay)
	p.problem = diary{log: log, events: p.source.events}
	p.healthz = health.NewHealthz(o.Sync, p.source.age)
	p.service.SetHealthy(p.healthz.Healthy)
	targets, err := p.targets(ctx)
	if err != nil {
		return nil, err
	}
	p.start = newStart(p)
	p.takeover = newTakeover(p)
	p.metrics = metrics.New(p.metricsOptions())
	p.cleaner.Observe(p.metrics.ConntrackPass)
	p.engine = engine.New(p.start.snapshot, targets, []engine.Observer{newObserver(p), p.metrics, p.takeover}, engine.Options{
		MinSync: o.Min, Resync: resyncs * o.Sync, Retry: o.Sync,
	}, log)
	return p, nil
}

// nodeOptions are what a backend can do of what was configured.
func nodeOptions(o config.Options, driver proxier.Driver) node.Options {
	if driver.NoLocalhost {
		o.Node.LocalhostNodePorts = false
	}
	return o.Node
}

// resyncs is how many sync periods pass between two full comparisons with the
// kernel: what others do is noticed by then at the latest, and mostly at once.
const resyncs = 20

// targets opens the backend of every family that the machine has. One family
// that cannot be served does not stop the other.
func (p *proxy) targets(ctx context.Context) ([]engine.Target, error) {
	var targets []engine.Target
	var errs []error
	for _, f := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		if !node.HasFamily(f) {
			p.log.Info("the kernel does not have this IP family: it is left out", "family", f)
			continue
		}
		backend, about, err := p.driver.Open(ctx, f, p.options.Backend)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.log.Info("backend is open", "family", f, "about", about)
		p.opened, p.families = append(p.opened, backend), append(p.families, f)
		targets = append(targets, engine.Target{Family: f, Backend: backend, Compile: p.compiler(f), First: p.inherit(backend)})
	}
	if len(targets) == 0 {
		return nil, errors.Join(errs...)
	}
	for _, err := range errs {
		p.log.Error("this IP family is not served", "error", err)
	}
	return targets, nil
}

// inherit is how the cleaner learns which flows the process before led, nil if the
// backend cannot tell.
func (p *proxy) inherit(backend proxier.Backend) func(context.Context, *proxier.State) {
	heir, ok := backend.(proxier.Heir)
	if !ok {
		return nil
	}
	return func(ctx context.Context, want *proxier.State) { p.cleaner.Inherit(ctx, want, conntrack.List, heir) }
}

// compiler is the way from a Snapshot to the State of one family.
func (p *proxy) compiler(f proxier.Family) func(cluster.Snapshot) *proxier.State {
	c := compile.New(f, p.options.Compile)
	said := diary{log: p.log, events: p.source.events}
	return func(snap cluster.Snapshot) *proxier.State {
		p.looked(f)
		state := c.Compile(snap, node.Describe(f, snap.Node, p.addrs.get(), p.options.Node))
		said.tell(ofProblems(c.Problems()))
		return state
	}
}

// run starts everything and waits for the signal. beside runs as long.
func (p *proxy) run(ctx context.Context, beside func(context.Context)) error {
	ctx, p.stop = context.WithCancelCause(ctx)
	defer p.stop(nil)
	var wait sync.WaitGroup
	wait.Go(func() { p.cleaner.Run(ctx) })
	wait.Go(func() { p.source.events.Run(ctx) })
	wait.Go(func() { beside(ctx) })
	p.lookAround()
	wait.Go(func() { p.watchAddresses(ctx) })
	p.serve(ctx, &wait)
	p.source.events.Node(events.Event{Normal: true, Reason: events.Starting, Action: actionStart})
	wait.Go(func() {
		if err := p.source.run(ctx, p.changed, p.log); err != nil {
			p.stop(fmt.Errorf("manifest: %w", err))
		}
	})
	wait.Go(func() { p.start.patiently(ctx) })
	wait.Go(func() { p.takeover.run(ctx) })
	err := p.engine.Run(ctx)
	p.stop(nil)
	wait.Wait()
	return errors.Join(err, p.close(), p.reason(ctx))
}

// close ends the backends, all at once: each may have connections to wait for.
func (p *proxy) close() error {
	p.service.Close()
	errs := make([]error, len(p.opened))
	var wait sync.WaitGroup
	for i, b := range p.opened {
		wait.Go(func() { errs[i] = b.Close() })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// errReconfigured ends the process, which the kubelet starts again, with success.
var errReconfigured = errors.New("the configuration file changed")

// reason is why the process ends, nil if that is no error.
func (p *proxy) reason(ctx context.Context) error {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errReconfigured):
		p.log.Info("stopped to be started again with the new configuration; what was programmed stays")
	case errors.Is(cause, context.Canceled):
		p.log.Info("stopped; what was programmed stays")
	default:
		return cause
	}
	return nil
}

// reconfigured ends the process for a new configuration.
func (p *proxy) reconfigured(config.Options) { p.stop(errReconfigured) }

// misconfigured tells of a configuration file that is not followed.
func (p *proxy) misconfigured(err error) {
	p.log.Error("the configuration file is not valid: the old configuration stays", "error", err)
	p.source.events.Node(events.Event{
		Reason: events.InvalidConfigFile, Action: actionConfigure,
		Note: "the old configuration stays: " + err.Error(),
	})
}

// The actions of Events: what was being done.
const (
	actionStart     = "StartKubeProxy"
	actionConfigure = "Configure"
	actionListen    = "Listen"
	actionSync      = "Sync"
)

// observe counts a change of the store.
func (p *proxy) observe(c watch.Change) {
	switch c.Kind {
	case watch.Services:
		p.metrics.ServiceChanged()
	case watch.EndpointSlices:
		p.metrics.SliceChanged(c.Trigger)
	}
}

// changed is called by the source after each change, and after its first load.
func (p *proxy) changed() {
	snap := p.store.Snapshot()
	// A manifest need not have Nodes.
	p.healthz.SetEligible(snap.Node != nil && snap.Node.Eligible || snap.Node == nil && !p.source.isAPI())
	p.problem.tell(ofProblems(p.store.Problems()))
	p.start.deliver()
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
