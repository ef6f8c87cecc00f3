package engine

import (
	"context"
	"errors"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
)

const (
	// maxDriftWait bounds the wait between two questions to a Watcher that keeps
	// saying yes: short enough to repair within 5 s, long enough not to spend the
	// node on a drift that no apply cures.
	maxDriftWait = 4 * time.Second
	// forgetDrifts is the quiet after which the same drift is news again.
	forgetDrifts = 10 * time.Minute
)

// family is the loop of one Target. All fields but wake and progress belong to
// its goroutine.
type family struct {
	Target
	options   Options
	snapshot  func() cluster.Snapshot
	observers observers
	diary     diary

	wake     chan struct{}
	progress progress

	agenda    agenda
	notBefore time.Time // MinSync after the end of the last attempt
	retries   backoff
	driftWait backoff
	lastDrift time.Time

	// last is what the kernel holds, nil if that is not known.
	last *proxier.State
}

func newFamily(t Target, o Options) *family {
	f := &family{Target: t, options: o, wake: make(chan struct{}, 1)}
	f.progress.status.Family = t.Family
	f.retries = backoff{first: min(firstRetry, o.Retry), limit: o.Retry}
	f.driftWait = backoff{first: o.DriftEvery, limit: max(o.DriftEvery, maxDriftWait)}
	return f
}

// run does what the agenda says, when it says so.
func (f *family) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		if at, ok := f.agenda.next(); ok {
			timer.Reset(time.Until(at))
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-timer.C:
		}
		f.step(ctx)
	}
}

// step does all that is due now.
func (f *family) step(ctx context.Context) {
	now := time.Now()
	if f.agenda.change.IsZero() && f.progress.isWaiting() {
		f.agenda.change = later(now, f.notBefore)
	}
	drifted := due(f.agenda.drift, now) && f.drifted(ctx)
	resync := due(f.agenda.resync, now)
	change := due(f.agenda.change, now)
	if again := drifted || resync || due(f.agenda.retry, now); again || change {
		f.attempt(ctx, resync, again)
	}
}

// drifted asks the Watcher.
func (f *family) drifted(ctx context.Context) bool {
	var what string
	err := guard("look for drift", func() (err error) {
		what, err = f.Backend.(proxier.Watcher).Drifted(ctx)
		return err
	})
	now := time.Now()
	f.agenda.drift = now.Add(f.options.DriftEvery)
	switch {
	case ctx.Err() != nil:
		return false
	case err != nil:
		f.diary.trouble(&f.diary.blind, "cannot see whether somebody else changed the kernel; asking again", err)
		return false
	}
	f.diary.over(&f.diary.blind, "changes to the kernel by others are seen again")
	if what == "" {
		f.driftWait.reset()
		return false
	}
	if now.Sub(f.lastDrift) > forgetDrifts {
		f.diary.drifts.forget()
	}
	f.lastDrift = now
	f.agenda.drift = now.Add(f.driftWait.next())
	f.diary.drifted(what)
	return true
}

// attempt brings the kernel to what the cluster wants. It applies the same State
// again if again is set, and first makes the backend forget if resync is.
func (f *family) attempt(ctx context.Context, resync, again bool) {
	want, err := f.want()
	if err == nil && want == f.last && len(f.diary.aside) > 0 && !again {
		// The change was none of this family's: the services that are set aside
		// wait for their own turn.
		f.progress.succeeded(time.Now(), f.diary.aside)
		return
	}
	var report proxier.Report
	if err == nil {
		report, err = f.apply(ctx, want, resync)
	}
	end := time.Now()
	f.notBefore = end.Add(f.options.MinSync)
	switch {
	case err == nil:
		f.succeeded(want, report, end)
	case ctx.Err() == nil: // else the process is ending: that is no failure
		f.failed(err, end)
	}
}

// want is the State to apply: the last one if the cluster did not change since.
func (f *family) want() (want *proxier.State, err error) {
	if !f.progress.isWaiting() && f.last != nil {
		return f.last, nil
	}
	f.agenda.change = time.Time{}
	f.progress.take()
	err = guard("compile", func() error {
		want = f.Compile(f.snapshot())
		if want == nil {
			return errors.New("no state")
		}
		return nil
	})
	return want, err
}

func (f *family) apply(ctx context.Context, want *proxier.State, resync bool) (report proxier.Report, err error) {
	if resync {
		f.agenda.resync = time.Time{}
		if err := f.forget(); err != nil {
			return report, err
		}
	}
	f.first(ctx, want)
	err = guard("apply", func() (err error) {
		report, err = f.Backend.Apply(ctx, want)
		return err
	})
	if p := (*panicked)(nil); errors.As(err, &p) {
		// The backend did not live to note that it knows nothing any more.
		err = errors.Join(err, f.forget())
	}
	return report, err
}

// first lets somebody look at what the process before left, while it stands.
func (f *family) first(ctx context.Context, want *proxier.State) {
	look := f.First
	f.First = nil
	if look == nil {
		return
	}
	if err := guard("look at what stands", func() error { look(ctx, want); return nil }); err != nil {
		f.diary.log.Error("what the process before left may stay", "error", err)
	}
}

func (f *family) forget() error {
	r, ok := f.Backend.(proxier.Resyncer)
	if !ok {
		return nil
	}
	return guard("forget", func() error { r.Forget(); return nil })
}

// failed plans the retry. A change is tried at once, whatever is planned, and its
// failure leaves the plan as it is: else a few changes in a moment of trouble would put
// the retry off until long after it.
func (f *family) failed(err error, end time.Time) {
	if f.last != nil { // it worked until now
		f.retries.reset()
		f.agenda.retry = time.Time{}
	}
	retry := f.agenda.retry
	if !retry.After(end) {
		retry = end.Add(f.retries.next())
	}
	retry = later(retry, end.Add(f.options.MinSync))
	// The retry reads everything back: no need for a resync or a look at what
	// others did.
	f.agenda = agenda{retry: retry}
	f.last = nil
	f.progress.failed(err)
	f.diary.failed(err, retry.Sub(end))
	f.observers.tell(func(o Observer) { o.Failed(f.Family, err) })
}

func (f *family) succeeded(want *proxier.State, report proxier.Report, end time.Time) {
	last := f.last
	f.last = want
	f.diary.applied(want, report)
	gone, back := f.diary.setAside(report.SetAside)
	// A retry is one only with the State that the backend had before; an apply of
	// another neither counts as one nor puts it off.
	f.planRetry(end, last == nil || len(gone) > 0, last == want)
	f.planWatch(end, report.Full)
	f.progress.succeeded(end, report.SetAside)
	if len(back) > 0 || report.Repaired != "" || report.Full && report.Operations > 0 {
		last = nil // what the kernel held meanwhile is not known
	}
	f.observers.tell(func(o Observer) { o.Applied(f.Family, last, want, report) })
}

// planRetry plans when the services that are set aside are tried again: soon if
// any of them is new, later each time they were tried.
func (f *family) planRetry(end time.Time, fresh, tried bool) {
	if len(f.diary.aside) == 0 || fresh {
		f.retries.reset()
	}
	switch {
	case len(f.diary.aside) == 0:
		f.agenda.retry = time.Time{}
	case fresh, tried, f.agenda.retry.IsZero():
		f.agenda.retry = end.Add(max(f.retries.next(), f.options.MinSync))
	}
}

// planWatch plans the resync and the first look for drift, as far as the backend
// can do either.
func (f *family) planWatch(end time.Time, full bool) {
	_, resyncs := f.Backend.(proxier.Resyncer)
	if resyncs && f.options.Resync > 0 && (full || f.agenda.resync.IsZero()) {
		f.agenda.resync = end.Add(jitter(f.options.Resync))
	}
	if _, watches := f.Backend.(proxier.Watcher); watches && f.agenda.drift.IsZero() {
		f.agenda.drift = end.Add(f.options.DriftEvery)
	}
}

// later is the later of two times.
func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
