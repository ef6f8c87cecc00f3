package main

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
	"switchyard/proxier/events"
	"switchyard/proxier/health"
)

// diary says each thing once, when it appears: in the log, and in an Event on the
// object that it is about.
type diary struct {
	log    *slog.Logger
	events *events.Recorder

	mu   sync.Mutex
	said map[string]bool
}

// entry is one thing to say.
type entry struct {
	object cluster.Object
	event  events.Event
	text   string // of the log
	about  []any
}

// tell takes everything that is so now. What was so before is not said again.
func (d *diary) tell(entries []entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := map[string]bool{}
	for _, e := range entries {
		key := e.object.String() + "\x00" + e.event.Reason + "\x00" + e.event.Note
		if !d.said[key] && !now[key] {
			d.log.Warn(e.text, append([]any{"object", e.object.String()}, e.about...)...)
			d.events.Object(e.object, e.event)
		}
		now[key] = true
	}
	d.said = now
}

// ofProblems are the parts of objects that are left out.
func ofProblems(problems []cluster.Problem) (all []entry) {
	for _, p := range problems {
		all = append(all, entry{
			object: p.Object,
			event:  events.Event{Reason: events.InvalidField, Action: actionSync, Note: p.Field + ": " + p.Reason},
			text:   "a part of this object is left out", about: []any{"field", p.Field, "reason", p.Reason},
		})
	}
	return all
}

func serviceObject(s proxier.ServicePort) cluster.Object {
	return cluster.Object{Kind: "Service", Name: cluster.Name{Namespace: s.Namespace, Name: s.Service}}
}

// ofReport are the services that are not in the kernel, or not quite as asked for.
// The engine logs the first.
func ofReport(f proxier.Family, r proxier.Report) (all []entry) {
	for _, s := range r.SetAside {
		all = append(all, entry{
			object: serviceObject(s.Service),
			event: events.Event{Reason: events.NotProgrammed, Action: actionSync,
				Note: fmt.Sprintf("port %q %s is not programmed for %s: %v", s.Service.Port, s.Protocol, f, s.Reason)},
			text: "this service is not programmed; an Event tells of it", about: []any{"family", f.String(), "reason", s.Reason.Error()},
		})
	}
	for _, n := range r.Notes {
		all = append(all, entry{
			object: serviceObject(n.Service),
			event: events.Event{Reason: events.NotAsAsked, Action: actionSync,
				Note: fmt.Sprintf("port %q %s: %s", n.Service.Port, n.Protocol, n.Text)},
			text: "a wish of this service is met in another way", about: []any{"family", f.String(), "port", n.Service.Port, "what", n.Text},
		})
	}
	return all
}

// ofListening are the health check node ports that cannot be opened.
func ofListening(errs []error) (all []entry) {
	for _, err := range errs {
		var listen *health.ListenError
		if !errors.As(err, &listen) {
			continue
		}
		all = append(all, entry{
			object: serviceObject(proxier.ServicePort{Namespace: listen.Namespace, Service: listen.Service}),
			event: events.Event{Reason: events.HealthNodePortNotBound, Action: actionListen,
				Note: fmt.Sprintf("healthCheckNodePort: cannot listen at %s: %v", listen.Addr, listen.Err)},
			text:  "a health check node port is not answered; trying again at the next change",
			about: []any{"address", listen.Addr.String(), "error", listen.Err.Error()},
		})
	}
	return all
}
