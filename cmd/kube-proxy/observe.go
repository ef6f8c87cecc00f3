package main

import (
	"errors"
	"sync"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/health"
)

// observer passes on what the engine did: to the health servers and to the
// cleaner of stale flows.
type observer struct {
	*proxy

	lock   sync.Mutex
	states map[proxier.Family]*proxier.State
	said   map[string]bool // listen errors that were logged
}

func newObserver(p *proxy) *observer {
	return &observer{proxy: p, states: map[proxier.Family]*proxier.State{}, said: map[string]bool{}}
}

// Queued implements engine.Observer.
func (o *observer) Queued(time.Time) {
	for _, f := range o.families {
		o.healthz.Queued(f)
	}
}

// Applied implements engine.Observer.
func (o *observer) Applied(f proxier.Family, last, next *proxier.State, _ proxier.Report) {
	o.healthz.Applied(f, o.lastLook(f))
	o.cleaner.Applied(last, next)
	if next.Node.NodePorts.Localhost {
		o.localhost.Do(o.openLocalhost)
	}

	o.lock.Lock()
	defer o.lock.Unlock()
	o.states[f] = next
	var states []*proxier.State
	for _, family := range o.families {
		if s := o.states[family]; s != nil {
			states = append(states, s)
		}
	}
	o.tell(o.service.Apply(states...))
}

// Failed implements engine.Observer; the engine logs it.
func (o *observer) Failed(proxier.Family, error) {}

// tell logs each health-check port that cannot be opened once, until it can.
func (o *observer) tell(errs []error) {
	said := map[string]bool{}
	for _, err := range errs {
		said[err.Error()] = true
		if o.said[err.Error()] {
			continue
		}
		var listen *health.ListenError
		if errors.As(err, &listen) {
			o.log.Warn("a health check node port is not answered; trying again at the next change",
				"service", listen.Namespace+"/"+listen.Service, "address", listen.Addr, "error", listen.Err)
			continue
		}
		o.log.Warn("a health check node port is not answered", "error", err)
	}
	o.said = said
}
