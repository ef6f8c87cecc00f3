package health

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"switchyard/proxier"
)

// Healthz is the handler of /healthz and /livez; other paths are not found. Both
// answer 200 while the proxy keeps up with changes; /healthz only if the node is
// eligible for new traffic besides (KEP-3836). Before the first change the proxy
// is healthy.
type Healthz struct {
	limit   time.Duration
	silence func() time.Duration // of the API server; nil: there is none

	mu       sync.Mutex
	eligible bool
	families map[proxier.Family]*progress
}

// progress of one family. oldest and newest are when the pending changes were
// queued, zero if there are none.
type progress struct {
	oldest, newest time.Time
	updated        time.Time
}

// NewHealthz returns a Healthz that takes the proxy for unhealthy when a change
// has been waiting for twice the sync period or longer. The node is not eligible
// until SetEligible says so. silence is how long the API server has not been heard;
// nil: there is none. It is told in the answer and does not change its code: a
// cluster without its API server must not lose its nodes at the load balancers.
func NewHealthz(syncPeriod time.Duration, silence func() time.Duration) *Healthz {
	return &Healthz{limit: 2 * syncPeriod, silence: silence, families: map[proxier.Family]*progress{}}
}

// maxSilence is how long the API server may be silent while all is well.
const maxSilence = time.Minute

// Queued tells that a change waits to be applied.
func (h *Healthz) Queued(family proxier.Family) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	p := h.progress(family)
	if p.oldest.IsZero() {
		p.oldest = now
	}
	p.newest = now
}

// Applied tells that all changes queued up to a time are in the kernel. Changes
// queued after it keep waiting; how long is counted from the newest.
func (h *Healthz) Applied(family proxier.Family, upTo time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.progress(family)
	p.updated = time.Now()
	switch {
	case !p.newest.After(upTo):
		p.oldest, p.newest = time.Time{}, time.Time{}
	case !p.oldest.After(upTo):
		p.oldest = p.newest
	}
}

// SetEligible tells whether the node may get new traffic: the Node object is
// known, not being deleted, and without the taint
// ToBeDeletedByClusterAutoscaler.
func (h *Healthz) SetEligible(eligible bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.eligible = eligible
}

// Healthy reports whether every family keeps up, whatever the node's
// eligibility: what the answers at healthCheckNodePorts depend on.
func (h *Healthz) Healthy() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.report(time.Now()).Healthy
}

func (h *Healthz) progress(family proxier.Family) *progress {
	p, ok := h.families[family]
	if !ok {
		p = &progress{}
		h.families[family] = p
	}
	return p
}

// report has upstream's field names, in its order.
type report struct {
	LastUpdated  time.Time               `json:"lastUpdated"`
	CurrentTime  time.Time               `json:"currentTime"`
	NodeEligible *bool                   `json:"nodeEligible,omitempty"` // /healthz only
	Healthy      bool                    `json:"healthy"`
	Status       map[string]familyReport `json:"status"`
	APIServer    *apiReport              `json:"apiServer,omitempty"` // ours
}

// apiReport tells how far what the proxy knows may be behind.
type apiReport struct {
	SilentSeconds int    `json:"silentSeconds"`
	Stale         bool   `json:"stale"`
	Reason        string `json:"reason,omitempty"`
}

func (h *Healthz) api() *apiReport {
	if h.silence == nil {
		return nil
	}
	silent := h.silence()
	r := &apiReport{SilentSeconds: int(silent.Seconds()), Stale: silent > maxSilence}
	if r.Stale {
		r.Reason = "the API server has not been heard for longer than a minute: what is programmed may be out of date"
	}
	return r
}

type familyReport struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

func (h *Healthz) report(now time.Time) report {
	r := report{CurrentTime: now, Healthy: true, Status: map[string]familyReport{}}
	for family, p := range h.families {
		healthy := p.oldest.IsZero() || now.Sub(p.oldest) < h.limit
		r.Status[family.String()] = familyReport{p.updated, healthy}
		r.Healthy = r.Healthy && healthy
		if p.updated.After(r.LastUpdated) {
			r.LastUpdated = p.updated
		}
	}
	return r
}

// ServeHTTP answers any method, as upstream does.
func (h *Healthz) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/healthz" && r.URL.Path != "/livez" {
		http.NotFound(w, r)
		return
	}
	h.mu.Lock()
	rep, eligible := h.report(time.Now()), h.eligible
	h.mu.Unlock()
	rep.APIServer = h.api()
	ok := rep.Healthy
	if r.URL.Path == "/healthz" {
		rep.NodeEligible = &eligible
		ok = ok && eligible
	}
	if ok {
		// Load balancers of old read it as the time of the proxy's last sign of life.
		rep.LastUpdated = rep.CurrentTime
	}
	text, err := json.Marshal(rep)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	reply(w, ok, text)
}
