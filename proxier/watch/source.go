package watch

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/watchlist"

	"switchyard/proxier/cluster"
)

// Options are the times of a Source. Zero values stand for the defaults.
type Options struct {
	// Silence is how long a watch may say nothing until it is opened anew; also
	// the bound for the answer to a list. Default: 90 s, since the API server
	// sends a bookmark every 60 s.
	Silence time.Duration
	// Retry is the pause after a failure. It doubles with each further one, up to
	// 40 times as much, and a random part of up to the same is added. Default: 800 ms.
	Retry time.Duration
	// Observe is told of each change of the Store; nil: nobody is. Called from
	// several goroutines.
	Observe func(Change)
	// Early is called at most once, when the Service default/kubernetes and its
	// EndpointSlices are in the Store and not everything else is; nil: nobody is.
	Early func()
}

// Change is one object that came, went, or differs from what the Store had of it.
type Change struct {
	Kind string // Services, EndpointSlices, Node or ServiceCIDRs
	// Trigger is when the pods of an EndpointSlice changed so that it did, as its
	// annotation endpoints.kubernetes.io/last-change-trigger-time tells; zero: not
	// known, or the slice was deleted.
	Trigger time.Time
}

const (
	defaultSilence = 90 * time.Second
	defaultRetry   = 800 * time.Millisecond
	maxRetryFactor = 40 // 32 s, that is a request a minute of each kind on average
)

// Source keeps a Store at what the API server says.
type Source struct {
	options   Options
	kinds     []kind
	streaming bool // the client can take the first list as a stream
	pulse     *pulse
	wake      chan struct{}
	log       *diary

	mu      sync.Mutex
	proved  time.Time       // when a list, an event or a bookmark came last
	open    int             // watches that stand, with their first list taken; of those that are not optional
	missing map[string]bool // kinds of which no list has come yet; likewise
	early   int             // kinds of which the first objects are not there yet
}

// New returns a Source for a Store. The Node that it watches is the Store's.
func New(client kubernetes.Interface, store *cluster.Store, o Options) *Source {
	if o.Silence <= 0 {
		o.Silence = defaultSilence
	}
	if o.Retry <= 0 {
		o.Retry = defaultRetry
	}
	s := &Source{
		options:   o,
		kinds:     kinds(client, store),
		streaming: !watchlist.DoesClientNotSupportWatchListSemantics(client),
		wake:      make(chan struct{}, 1),
		proved:    time.Now(),
		missing:   map[string]bool{},
	}
	if c, ok := client.(*pulsed); ok {
		s.pulse, s.streaming = c.pulse, true
	}
	for _, k := range s.kinds {
		if !k.optional {
			s.missing[k.name] = true
		}
		if k.first != nil {
			s.early++
		}
	}
	return s
}

// patience is how long a start is silent about the API server not having
// answered yet.
const patience = 5 * time.Second

// Run follows the API until ctx ends; it returns nil then. Nothing that the API
// server does or fails to do ends it. It is called once.
//
// changed is called after the first lists of all kinds are in the Store (that of
// the Node may be empty), and then after changes: once for all that happened while
// the last call ran. Not every change changes the Store's Snapshot. Calls do not
// overlap.
func (s *Source) Run(ctx context.Context, changed func(), log *slog.Logger) error {
	s.log = newDiary(log)
	began, late := time.Now(), time.NewTimer(patience)
	defer late.Stop()
	var followers sync.WaitGroup
	defer followers.Wait()
	for _, k := range s.kinds {
		f := &follower{kind: k, source: s, keys: map[cluster.Name]struct{}{}, streams: s.streaming}
		followers.Go(func() { f.run(ctx) })
	}
	started := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-late.C:
			if waits := s.waits(); len(waits) > 0 {
				s.log.waiting(waits)
			}
			continue
		case <-s.wake:
		}
		if len(s.waits()) > 0 {
			continue
		}
		if !started {
			started = true
			log.Info("the API server has delivered everything once", "after", time.Since(began).Round(time.Millisecond))
		}
		changed()
	}
}

// Age is the time since the API server last proved alive: since the last list,
// event or bookmark and, while every watch stands, since the last byte on the
// connection, such as the answer to a ping. Through HTTP/2 it stays below 45 s
// while all is well, without it mostly below 60 s. Before the first proof it is the
// time since New.
func (s *Source) Age() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.proved
	if s.pulse != nil && s.open == s.required() {
		if heard := s.pulse.last(); heard.After(last) {
			last = heard
		}
	}
	return time.Since(last)
}

// Waits lists the kinds of which no list has come yet, in the order "Services",
// "EndpointSlices", "Node"; none once Run has called changed.
func (s *Source) Waits() []string { return s.waits() }

func (s *Source) waits() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, k := range s.kinds {
		if s.missing[k.name] {
			names = append(names, k.name)
		}
	}
	return names
}

// required counts the kinds without which there is nothing.
func (s *Source) required() (n int) {
	for _, k := range s.kinds {
		if !k.optional {
			n++
		}
	}
	return n
}

// alive notes a proof of life.
func (s *Source) alive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proved = time.Now()
}

// stands counts a watch that was opened (1) or ended (-1).
func (s *Source) stands(by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open += by
}

// delivered notes that all objects of a kind are in the Store.
func (s *Source) delivered(kind string) {
	s.mu.Lock()
	delete(s.missing, kind)
	s.mu.Unlock()
	s.touch()
}

// deliveredFirst notes that the first objects of a kind are in the Store.
func (s *Source) deliveredFirst() {
	s.mu.Lock()
	s.early--
	call := s.early == 0 && len(s.missing) > 0 && s.options.Early != nil
	s.mu.Unlock()
	if call {
		s.options.Early()
	}
}

func (s *Source) observe(c Change) {
	if s.options.Observe != nil {
		s.options.Observe(c)
	}
}

// touch has Run call changed.
func (s *Source) touch() {
	select {
	case s.wake <- struct{}{}:
	default: // a call is due anyway
	}
}
