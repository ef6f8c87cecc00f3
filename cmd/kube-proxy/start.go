package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
	"switchyard/proxier/node"
	"switchyard/proxier/watch"
)

// start decides when the kernel is written for the first time, and from what.
//
//	everything delivered ─┐
//	the Node known       ─┴─► begin: from all there is
//	default/kubernetes delivered, all else late, the kernel holds nothing ─► early: from that Service alone
//
// Until then nothing is written: half of a cluster in the kernel would take the
// other half out of it. An empty kernel has nothing to lose.
type start struct {
	store    *cluster.Store
	options  node.Options
	isAPI    bool
	changed  func() // starts the engine
	backends []proxier.Backend
	log      *slog.Logger

	mu        sync.Mutex
	isEarly   bool
	begun     bool
	waited    bool          // and said so
	delivered time.Time     // when everything was there; zero: not yet
	lastNode  *cluster.Node // as it was known last
}

const (
	// nodePatience is how long the Node object is waited for, as upstream does.
	nodePatience = 30 * time.Second
	// earlyPatience is how late everything else must be for a start with the API's
	// Service alone to be worth a sync of its own.
	earlyPatience = 300 * time.Millisecond
)

func newStart(p *proxy) *start {
	return &start{
		store: p.store, options: p.options.Node, isAPI: p.source.isAPI(),
		changed: func() { p.engine.Changed() }, backends: p.opened, log: p.log,
	}
}

// snapshot is what the engine compiles from. A Node that is gone from the API is
// taken for what it was: what it changes is told by the health check.
func (s *start) snapshot() cluster.Snapshot {
	snap := s.store.Snapshot()
	s.mu.Lock()
	defer s.mu.Unlock()
	if snap.Node != nil {
		s.lastNode = snap.Node
	} else if s.isAPI {
		snap.Node = s.lastNode
	}
	if !s.begun {
		snap.Services = only(snap.Services, watch.First)
	}
	return snap
}

// only is a list of the one Service of that name, or of none.
func only(l cluster.List, name cluster.Name) cluster.List {
	if i, found := l.Find(name); found {
		return cluster.ListOf(l.Slice()[i : i+1])
	}
	return cluster.ListOf(nil)
}

// deliver notes that the source has delivered everything, or changed it since.
func (s *start) deliver() {
	s.mu.Lock()
	if s.delivered.IsZero() {
		s.delivered = time.Now()
	}
	s.mu.Unlock()
	s.proceed()
}

// proceed starts the engine once nothing is missing, and passes changes on from
// then.
func (s *start) proceed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.begun && (s.delivered.IsZero() || s.lacks(s.store.Snapshot().Node) != "") {
		return
	}
	if !s.begun {
		s.sayBegun()
	}
	s.begun = true
	s.changed()
}

// sayBegun tells how a wait ended that was told of. The caller holds mu.
func (s *start) sayBegun() {
	switch missing, _ := s.missing(s.store.Snapshot().Node); {
	case missing != "":
		s.log.Warn("going on without what was waited for; it is followed once it comes", "missing", missing, "waited", nodePatience)
	case s.waited:
		s.log.Info("what was waited for is here")
	}
}

// hasBegun reports whether the engine was started with all there is.
func (s *start) hasBegun() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun
}

// lacks says what of the Node is worth waiting for, "" if nothing is. The caller
// holds mu.
func (s *start) lacks(n *cluster.Node) string {
	missing, needed := s.missing(n)
	if needed || time.Since(s.delivered) < nodePatience {
		return missing
	}
	return ""
}

// missing says what of the Node is not known, and whether it is waited for as long as
// it takes: without its pods' range every packet would be taken for another's.
func (s *start) missing(n *cluster.Node) (what string, needed bool) {
	switch {
	case !s.isAPI:
	case n == nil:
		return "the Node " + s.store.NodeName(), s.options.Detect.Mode == node.NodeCIDR
	case s.options.Detect.Mode == node.NodeCIDR && len(n.PodCIDRs) == 0:
		return "spec.podCIDRs of the Node " + n.Name, true
	case len(node.NodeIPs(n, s.options.BindAddress)) == 0:
		return "an address of the Node " + n.Name, false
	}
	return "", false
}

// patiently says what is waited for, and ends a wait that lasted long enough.
func (s *start) patiently(ctx context.Context) {
	for wait := time.Second; !s.hasBegun(); wait = min(2*wait, nodePatience) {
		sleep(ctx, s.notLongerThanPatience(wait))
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		missing, holds := "", "no Service is programmed"
		if s.isEarly {
			holds = "only the Service of the API server is programmed"
		}
		if !s.delivered.IsZero() {
			missing = s.lacks(s.store.Snapshot().Node)
		}
		s.waited = s.waited || missing != ""
		longest := s.longest()
		s.mu.Unlock()
		if missing != "" {
			s.log.Warn("waiting, "+holds, "for", missing, "atMost", longest)
		}
		s.proceed()
	}
}

// longest is how long the wait for the Node can go on, for people. The caller holds mu.
func (s *start) longest() string {
	if _, needed := s.missing(s.store.Snapshot().Node); needed {
		return "as long as it takes"
	}
	return max(0, time.Until(s.delivered.Add(nodePatience))).Round(time.Second).String()
}

// notLongerThanPatience cuts a wait where the patience for the Node ends in it.
func (s *start) notLongerThanPatience(wait time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := time.Until(s.delivered.Add(nodePatience)); left > 0 {
		return min(wait, left)
	}
	return wait
}

// early starts the engine with the API server's Service alone if all else is late.
// It is called from a goroutine of the source, which it does not hold up.
func (s *start) early() {
	time.AfterFunc(earlyPatience, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.begun || s.isEarly || s.options.Detect.Mode == node.NodeCIDR || !s.emptyKernel() {
			return
		}
		s.isEarly = true
		s.log.Info("starting with the Service of the API server: all else is not here yet")
		s.changed()
	})
}

// emptyKernel asks every backend. It is not running yet: the engine was not started.
func (s *start) emptyKernel() bool {
	ctx, cancel := context.WithTimeout(context.Background(), nodePatience)
	defer cancel()
	for _, b := range s.backends {
		starter, ok := b.(proxier.Starter)
		if !ok {
			return false
		}
		if empty, err := starter.Empty(ctx); err != nil || !empty {
			return false
		}
	}
	return true
}
