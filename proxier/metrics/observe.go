package metrics

import (
	"maps"
	"slices"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/conntrack"
)

// ServiceChanged counts a change of a Service, and SliceChanged one of an
// EndpointSlice, that the source has put into the store. Each is counted once,
// whatever the number of families. Call them once the change is there, and before
// engine.Engine.Changed.
func (m *Metrics) ServiceChanged() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changes.services++
	m.serviceChanges.Inc()
}

// SliceChanged see ServiceChanged. Trigger is when the pods behind it changed: the
// annotation endpoints.kubernetes.io/last-change-trigger-time; zero: not known, or
// the slice is deleted. What changed before the start of this process has no
// latency of its own: how long the process did not run is not one.
func (m *Metrics) SliceChanged(trigger time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changes.slices++
	m.sliceChanges.Inc()
	if trigger.Before(m.start) {
		return
	}
	for _, family := range m.families {
		if len(family.triggers) < maxTriggers {
			family.triggers = append(family.triggers, trigger)
		}
	}
}

// maxTriggers bounds what is remembered while nothing can be applied.
const maxTriggers = 1 << 16

// Look tells that a family takes a snapshot of the cluster now: its next Applied
// tells that all changes counted so far are in the kernel. Call it first thing in
// engine.Target.Compile: a change that comes between the snapshot and this call, in
// microseconds, is taken for applied one sync too early. What is never looked at
// stays pending.
func (m *Metrics) Look(f proxier.Family) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if family := m.family(f); family != nil {
		family.looked, family.seen = m.changes, len(family.triggers)
	}
}

// pending are the changes that some family has not applied.
func (m *Metrics) pending() (p changes) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.families {
		p.services = max(p.services, m.changes.services-f.applied.services)
		p.slices = max(p.slices, m.changes.slices-f.applied.slices)
	}
	return p
}

// Queued implements engine.Observer.
func (m *Metrics) Queued(at time.Time) {
	for _, f := range m.options.Families {
		m.lastQueued.WithLabelValues(f.String()).Set(unix(at))
	}
}

// Applied implements engine.Observer.
func (m *Metrics) Applied(f proxier.Family, _, next *proxier.State, report proxier.Report) {
	name, took := f.String(), report.Took.Seconds()
	m.syncs.WithLabelValues(name).Observe(took)
	if report.Full {
		m.fullSyncs.WithLabelValues(name).Observe(took)
	} else {
		m.partialSyncs.WithLabelValues(name).Observe(took)
	}
	m.lastSync.WithLabelValues(name).Set(unix(time.Now()))
	m.took.WithLabelValues(name).Observe(took)
	m.operations.WithLabelValues(name).Observe(float64(report.Operations))
	m.operationsTotal.WithLabelValues(name).Add(float64(report.Operations))
	for kind, n := range report.Written {
		m.written.WithLabelValues(name, kind).Add(float64(n))
	}
	for kind, n := range report.Deleted {
		m.deleted.WithLabelValues(name, kind).Add(float64(n))
	}
	if report.Repaired != "" {
		m.repairs.WithLabelValues(name).Inc()
	}
	m.rules(f, report)
	m.programmed(f)
	m.remember(f, next, report.Total)
}

// remember keeps what later scrapes and applies ask for. The State is compared
// with the one seen before, not with what the engine knew of the kernel: the
// count is of what is wanted.
func (m *Metrics) remember(f proxier.Family, next *proxier.State, total map[string]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	family := m.family(f)
	if family == nil || next == nil {
		return
	}
	if next != family.state {
		family.noLocal.follow(family.state, next)
	}
	family.state, family.applied, family.known = next, family.looked, true
	family.total = maps.Clone(total)
	m.noLocalEndpoints.WithLabelValues(f.String(), "internal").Set(float64(family.noLocal.internal))
	m.noLocalEndpoints.WithLabelValues(f.String(), "external").Set(float64(family.noLocal.external))
}

// rules counts the rules of an Apply. A table that it did not write has written 0.
func (m *Metrics) rules(f proxier.Family, report proxier.Report) {
	for table, n := range report.Rules {
		m.rulesLast.WithLabelValues(f.String(), table).Set(float64(n.Written))
		m.rulesTotal.WithLabelValues(f.String(), table).Set(float64(n.Total))
	}
	m.refused(f, report.Refused, !report.Full)
}

// refused counts writes of rules that the kernel refused. Partial: they started
// from what the sync before had left, not from a reading of the kernel.
// A family without any has no sample, as upstream's.
func (m *Metrics) refused(f proxier.Family, n int, partial bool) {
	if n == 0 {
		return
	}
	m.restoreFailures.WithLabelValues(f.String()).Add(float64(n))
	if partial {
		m.partialFailures.WithLabelValues(f.String()).Add(float64(n))
	}
}

// Failed implements engine.Observer. Each failure counts as one of a write of
// rules, since an Apply hardly fails elsewhere; a panic before it is the exception.
func (m *Metrics) Failed(f proxier.Family, _ error) {
	m.failures.WithLabelValues(f.String()).Inc()
	m.mu.Lock()
	partial := false
	if family := m.family(f); family != nil {
		partial, family.known = family.known, false
	}
	m.mu.Unlock()
	m.refused(f, 1, partial)
}

// programmed observes how long the changes took that are in the kernel now. The
// time of a clock that is ahead of ours counts as 0.
func (m *Metrics) programmed(f proxier.Family) {
	m.mu.Lock()
	defer m.mu.Unlock()
	family := m.family(f)
	if family == nil {
		return
	}
	now := time.Now()
	for _, at := range family.triggers[:family.seen] {
		m.programming.WithLabelValues(f.String()).Observe(max(0, now.Sub(at).Seconds()))
	}
	family.triggers = slices.Delete(family.triggers, 0, family.seen)
	family.seen = 0
}

// ConntrackPass counts a pass over the connection table, also one that failed:
// pass it to conntrack.Cleaner.Observe.
func (m *Metrics) ConntrackPass(p conntrack.Pass) {
	m.reconciled.WithLabelValues(p.Family.String()).Observe(p.Duration.Seconds())
	m.reconcileDeleted.WithLabelValues(p.Family.String()).Add(float64(p.Deleted))
}

// unix is a time as Prometheus has it: seconds, with a fraction.
func unix(at time.Time) float64 { return float64(at.UnixNano()) / float64(time.Second) }
