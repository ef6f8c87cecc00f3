package main

import (
	"sync"
	"time"

	"switchyard/proxier"
)

// observer passes on what the engine did: to the health servers, the cleaner of
// stale flows, and the people who wrote the Services.
type observer struct {
	*proxy

	lock    sync.Mutex
	states  map[proxier.Family]*proxier.State
	reports map[proxier.Family]*diary
	ports   diary
}

func newObserver(p *proxy) *observer {
	o := &observer{
		proxy: p, states: map[proxier.Family]*proxier.State{}, reports: map[proxier.Family]*diary{},
		ports: diary{log: p.log, events: p.source.events},
	}
	for _, f := range p.families {
		o.reports[f] = &diary{log: p.log, events: p.source.events}
	}
	return o
}

// Queued implements engine.Observer.
func (o *observer) Queued(time.Time) {
	for _, f := range o.families {
		o.healthz.Queued(f)
	}
}

// Applied implements engine.Observer.
func (o *observer) Applied(f proxier.Family, last, next *proxier.State, report proxier.Report) {
	o.healthz.Applied(f, o.lastLook(f))
	o.cleaner.Applied(last, next)
	if next.Node.NodePorts.Localhost && o.driver.Localnet {
		o.localhost.Do(func() { openLocalhost(o.log) })
	}
	o.reports[f].tell(ofReport(f, report))

	o.lock.Lock()
	defer o.lock.Unlock()
	o.states[f] = next
	var states []*proxier.State
	for _, family := range o.families {
		if s := o.states[family]; s != nil {
			states = append(states, s)
		}
	}
	o.ports.tell(ofListening(o.service.Apply(states...)))
}

// Failed implements engine.Observer; the engine logs it.
func (o *observer) Failed(proxier.Family, error) {}
