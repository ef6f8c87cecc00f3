package manifest

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settleFor is the time between two looks while something changes.
	settleFor = 100 * time.Millisecond
	// pollEvery bounds how long an edit goes unseen where the kernel does not
	// tell of it: behind symbolic links, on network file systems.
	pollEvery = 750 * time.Millisecond
)

// Run loads everything and then follows every edit within about a second, until
// ctx ends; it returns nil then. A file that is bad leaves its last good content
// in place and is logged, once for each fault. A path that is missing is waited
// for; one that goes missing leaves everything in place, since nothing is known
// then, while a directory without manifests has no objects.
//
// changed is called after the first load, whatever that gave, and then after
// each change of the Store's Snapshot.
func (s *Source) Run(ctx context.Context, changed func(), log *slog.Logger) error {
	r := &runner{Source: s, log: log, changed: changed, said: map[string]bool{}}
	defer r.watch()()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		again := r.look()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settleFor):
		}
		if again {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-tick.C:
		}
	}
}

// runner is one Run.
type runner struct {
	*Source
	log     *slog.Logger
	changed func()
	loaded  bool
	waited  bool // the path was missing at the last look
	settling
	watcher *fsnotify.Watcher // nil: the poll alone has to do
	wake    chan struct{}
	said    map[string]bool // what was logged and still holds
}

// look takes what changed and reports whether to look again soon.
func (r *runner) look() (again bool) {
	r.rewatch()
	now, err := look(r.path)
	if err != nil {
		r.waited = true
		r.say(err)
		return false
	}
	if r.waited { // whoever makes a directory is about to fill it
		r.waited = false
		return true
	}
	if !r.loaded {
		r.take(now)
		r.commit()
		return false
	}
	take, again := r.ready(r.taken, now)
	if take && r.take(now) || !take && !again && r.slipped() {
		r.commit()
	} else if !again {
		r.say(nil)
	}
	return again
}

func (r *runner) commit() {
	did := r.apply()
	r.say(nil)
	if did.set+did.deleted > 0 || !r.loaded {
		r.log.Info("manifests applied", "path", r.path, "files", len(r.files), "objects", len(r.applied),
			"set", did.set, "deleted", did.deleted)
	}
	if did.snapshot || !r.loaded {
		r.loaded = true
		r.changed()
	}
}

// say logs what is wrong and what is ignored, each once as long as it holds.
func (r *runner) say(missing error) {
	now := map[string]bool{}
	once := func(level slog.Level, message string, about ...any) {
		text := fmt.Sprint(message, about)
		if !r.said[text] && !now[text] {
			r.log.Log(context.Background(), level, message, about...)
		}
		now[text] = true
	}
	if missing != nil {
		once(slog.LevelWarn, "cannot read manifests, waiting until they are there", "error", missing)
	}
	for _, err := range r.errors() {
		once(slog.LevelError, "manifest not taken, what was good before stays", "error", err)
	}
	for _, i := range r.Ignored() {
		once(slog.LevelInfo, "object ignored: a proxy has no use for its kind", "kind", i.Kind, "file", i.File)
	}
	r.said = now
}

// watch has the kernel tell of changes, until the returned function is called.
// Where it cannot (no more inotify instances) the poll finds them, a little
// later.
func (r *runner) watch() (stop func()) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		r.log.Warn("cannot watch manifests, looking at them every second instead", "error", err)
		return func() {}
	}
	r.watcher, r.wake = watcher, make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.listen(watcher)
	}()
	return func() {
		_ = watcher.Close() // it only ever says that it is closed
		<-done
	}
}

// listen turns any number of events into one look.
func (r *runner) listen(watcher *fsnotify.Watcher) {
	path, _ := filepath.Abs(r.path)
	for {
		select {
		case e, ok := <-watcher.Events:
			if !ok {
				return
			}
			if !concerns(e.Name, path) {
				continue
			}
		case _, ok := <-watcher.Errors: // events were lost: look
			if !ok {
				return
			}
		}
		select {
		case r.wake <- struct{}{}:
		default: // a look is due anyway
		}
	}
}

// concerns leaves out the neighbours of a path, as of a directory in /tmp. The
// hidden names count: they are how a ConfigMap volume swaps the target of a
// single file.
func concerns(name, path string) bool {
	return name == path || strings.HasPrefix(name, path+string(filepath.Separator)) ||
		strings.HasPrefix(filepath.Base(name), "..")
}

// rewatch watches the path and its parent, again at each look since either may
// have been replaced. Adding what is watched already costs one system call.
func (r *runner) rewatch() {
	path, err := filepath.Abs(r.path)
	if r.watcher == nil || err != nil {
		return
	}
	for _, dir := range []string{filepath.Dir(path), path} {
		_ = r.watcher.Add(dir) // missing, or no more watches: the poll sees it
	}
}
