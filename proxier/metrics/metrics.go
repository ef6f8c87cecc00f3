package metrics

import (
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"switchyard/proxier"
	"switchyard/proxier/engine"
)

// defaultLate is the age at which upstream's /healthz takes a change for stuck:
// twice its syncPeriod.
const defaultLate = 60 * time.Second

// Options are what Metrics needs to know. Its functions are called at each
// scrape, from any goroutine, and must answer at once; what has no function is
// absent.
type Options struct {
	// Mode is the proxy mode: it decides which of upstream's metrics exist.
	Mode string
	// Version is the version of this program, for kubernetes_build_info.
	Version string
	// Families are the families that the engine serves; none: both.
	Families []proxier.Family
	// Late is the age from which a change that is not applied makes all services
	// of its family count as differing; 0: 60 s.
	Late time.Duration

	// Status is engine.Engine.Status.
	Status func() []engine.Status
	// APIAlive is when the API server last proved alive; zero: it never did.
	APIAlive func() time.Time
	// InvalidDropped and LocalhostAccepted read the kernel's own counters of
	// packets: those dropped because conntrack took them for invalid, and those to
	// a node port at a loopback address. Not known: the counter does not exist.
	InvalidDropped, LocalhostAccepted func() (packets uint64, known bool)
	// Traffic is what proxier.Carriers tell, by family.
	Traffic func() map[proxier.Family][]proxier.Traffic
}

// Metrics is an engine.Observer with a registry of its own. All methods may be
// called from any goroutine.
type Metrics struct {
	upstream
	own

	options  Options
	start    time.Time
	registry *prometheus.Registry

	mu       sync.Mutex
	changes  changes
	families map[proxier.Family]*family
}

var _ engine.Observer = (*Metrics)(nil)

// changes counts what the API's objects went through.
type changes struct{ services, slices int }

// family is what is remembered of one family, guarded by Metrics.mu.
type family struct {
	looked, applied changes     // Metrics.changes at the last look, and at that of the last apply
	triggers        []time.Time // of slices that are not in the kernel yet, as they came
	seen            int         // how many of them the last look saw
	state           *proxier.State
	noLocal         noLocal
	total           map[string]int
	known           bool // the last attempt succeeded
}

// New returns Metrics that saw nothing yet. Its time is taken as the start of the
// process: see SliceChanged.
func New(o Options) *Metrics {
	if len(o.Families) == 0 {
		o.Families = []proxier.Family{proxier.IPv4, proxier.IPv6}
	}
	if o.Late <= 0 {
		o.Late = defaultLate
	}
	m := &Metrics{
		options: o, start: time.Now(), registry: prometheus.NewRegistry(),
		families: map[proxier.Family]*family{},
	}
	for _, f := range o.Families {
		m.families[f] = &family{}
	}
	m.upstream = newUpstream(door{m.registry, o.Mode})
	m.own = newOwn(door{m.registry, o.Mode}, o.Families)
	m.registry.MustRegister(
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		// As upstream's: everything that the runtime tells of itself.
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.MetricsAll)),
		buildInfo(o.Version),
	)
	m.registry.MustRegister(m.standing()...)
	m.registry.MustRegister(m.traffic()...)
	return m
}

// Register adds another package's metrics, such as client-go's. The error says
// that a name is taken or malformed.
func (m *Metrics) Register(c prometheus.Collector) error { return m.registry.Register(c) }

// Handler answers scrapes. A metric that cannot be read does not hide the others.
func (m *Metrics) Handler() http.Handler {
	all := prometheus.Gatherers{m.registry, restClient()}
	return promhttp.HandlerFor(all, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// family returns what is known of a family, nil if the engine does not serve it.
// A family that nobody announced is not made up: it would never be applied, and
// hold up what is pending. The caller holds mu.
func (m *Metrics) family(f proxier.Family) *family { return m.families[f] }
