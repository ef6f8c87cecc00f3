package engine

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"switchyard/proxier"
)

// Observer is told what the engine does. The calls for one family come one at a
// time, those for another family and Queued may come meanwhile. They are made on
// the path of an apply: slow work is for a goroutine of the observer's own.
type Observer interface {
	// Queued tells of changes that nobody has applied yet; at is the time of the
	// oldest.
	Queued(at time.Time)
	// Applied tells that the kernel holds next, apart from the services that the
	// report sets aside. It held last before; last is nil if that is not known:
	// at the first apply, after a failure, when a service that was set aside went in,
	// and when something had to be put right that somebody else did.
	Applied(family proxier.Family, last, next *proxier.State, report proxier.Report)
	// Failed tells of each attempt that failed.
	Failed(family proxier.Family, err error)
}

// Status is how one family fares.
type Status struct {
	Family proxier.Family
	// LastSuccess is the end of the last apply that succeeded; zero: none did.
	LastSuccess time.Time
	// PendingSince is the time of the oldest change that is not applied; zero:
	// there is none.
	PendingSince time.Time
	// Failures counts the attempts that failed since the last success, and Error
	// is the latest of their errors.
	Failures int
	Error    error
	// SetAside are the services that the last successful apply left out.
	SetAside []proxier.SetAside
}

// progress is a Status that is read while the family works.
type progress struct {
	mu      sync.Mutex
	status  Status
	waiting time.Time // the oldest change that no attempt has looked at
	taken   time.Time // the oldest that one looked at, until one succeeds
}

// changed notes a change, and reports whether it is the first to wait.
func (p *progress) changed(at time.Time) (first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	first = p.waiting.IsZero()
	p.waiting = oldest(p.waiting, at)
	return first
}

// isWaiting reports whether there are changes that no attempt has looked at.
func (p *progress) isWaiting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.waiting.IsZero()
}

// take says that an attempt looks at all changes so far.
func (p *progress) take() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken, p.waiting = oldest(p.taken, p.waiting), time.Time{}
}

func (p *progress) failed(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.Failures++
	p.status.Error = err
}

func (p *progress) succeeded(at time.Time, aside []proxier.SetAside) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken = time.Time{}
	p.status = Status{Family: p.status.Family, LastSuccess: at, SetAside: aside}
}

func (p *progress) read() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.status
	s.PendingSince = oldest(p.taken, p.waiting)
	return s
}

// oldest is the earlier of two times, of which a zero one does not count.
func oldest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// observers are told together; one that panics is logged and harms nobody else.
type observers struct {
	list  []Observer
	mu    *sync.Mutex
	diary *diary
}

func newObservers(list []Observer, log *slog.Logger) observers {
	return observers{list: list, mu: new(sync.Mutex), diary: &diary{log: log}}
}

func (o observers) tell(what func(Observer)) {
	for _, observer := range o.list {
		err := guard("observe", func() error { what(observer); return nil })
		if err == nil {
			continue
		}
		o.mu.Lock()
		o.diary.trouble(&o.diary.failures, "an observer failed: metrics or clean-up may be behind", err)
		o.mu.Unlock()
	}
}

// panicked is a panic that was caught, as an error.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// guard runs what may panic and returns the panic as an error: one object that
// nobody thought of must not end the process that serves all others.
func guard(operation string, run func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("%s: %w", operation, &panicked{value, debug.Stack()})
		}
	}()
	return run()
}
