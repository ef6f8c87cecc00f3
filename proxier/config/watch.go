package config

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settleFor is the time between two looks that must agree: a file that is being
	// written is not judged half-way.
	settleFor = 100 * time.Millisecond
	// pollEvery bounds how long an edit goes unseen where the kernel does not tell of
	// it, as on network file systems.
	pollEvery = 30 * time.Second
)

// Watch follows the configuration file, by whatever way it changes: written in place,
// replaced, or swapped as a ConfigMap volume does, through a symbolic link in its
// path.
type Watch struct {
	Flags   *Flags
	Modes   []string // as for Flags.Options
	Options Options  // what runs

	// Changed is called for content that is valid and asks for something else than
	// runs; from then on that is what runs.
	Changed func(Options)
	// Invalid is called once for content that cannot be taken, and once if the file
	// is gone. What runs stays. The error has a line for each fault.
	Invalid func(error)
}

// Run follows the file until ctx ends, at once where there is none. A change is
// noticed within a second, within half a minute where the kernel tells of none.
func (w Watch) Run(ctx context.Context, log *slog.Logger) {
	if w.Flags.config == "" {
		return
	}
	f := follower{Watch: w, log: log, settle: settleFor, poll: pollEvery}
	f.run(ctx)
}

// follower is one Run.
type follower struct {
	Watch
	log          *slog.Logger
	settle, poll time.Duration

	watcher *fsnotify.Watcher // nil: the poll alone has to do
	judged  content
}

// content is what a look saw: a hash of the text, or why there was none.
type content struct {
	sum  [sha256.Size]byte
	fail string
}

func (f *follower) run(ctx context.Context) {
	wake := make(<-chan fsnotify.Event) // never
	lost := make(<-chan error)
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		f.log.Warn("cannot watch the configuration file, looking at it every half minute instead", "error", err)
	} else {
		defer watcher.Close()
		f.watcher, wake, lost = watcher, watcher.Events, watcher.Errors
	}
	tick := time.NewTicker(f.poll)
	defer tick.Stop()
	for f.look(ctx) {
		select {
		case <-ctx.Done():
		case <-wake:
		case <-lost: // events were: look
		case <-tick.C:
		}
	}
}

// look judges content that is new once two looks agree on it. It reports whether to
// go on.
func (f *follower) look(ctx context.Context) bool {
	f.rewatch()
	for last := f.judged; ; {
		now, text, err := f.read()
		if now == f.judged {
			return ctx.Err() == nil
		}
		if now == last {
			f.judged = now
			f.judge(text, err)
			return ctx.Err() == nil
		}
		last = now
		select {
		case <-ctx.Done():
			return false
		case <-time.After(f.settle):
		}
	}
}

// read looks at the file. A path that is not there is one content, whichever part of
// it is missing.
func (f *follower) read() (content, []byte, error) {
	text, err := readText(f.Flags.config)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return content{fail: "missing"}, nil, err
	case err != nil:
		return content{fail: err.Error()}, nil, err
	}
	return content{sum: sha256.Sum256(text)}, text, nil
}

func (f *follower) judge(text []byte, err error) {
	var read *file
	if err == nil {
		read, err = decode(f.Flags.config, text)
	}
	var o Options
	if err == nil {
		o, err = f.Flags.options(read, f.Modes)
	}
	switch {
	case err != nil:
		f.Invalid(err)
	case !o.SameEffect(f.Options):
		f.Options = o
		f.Changed(o)
	}
}

// rewatch watches the directories in which the path may change: its own, and that
// where its links lead. Adding what is watched already costs one system call.
func (f *follower) rewatch() {
	if f.watcher == nil {
		return
	}
	path := f.Flags.config
	_ = f.watcher.Add(filepath.Dir(path)) // missing, or no more watches: the poll sees it
	if real, err := filepath.EvalSymlinks(path); err == nil {
		_ = f.watcher.Add(filepath.Dir(real))
	}
}
