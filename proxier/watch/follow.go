package watch

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"switchyard/proxier/cluster"
)

const (
	// pageSize is for servers that cannot stream the first list; client-go's.
	pageSize = 500
	// A watch lasts a random time between these, as client-go's do: a restarted
	// API server does not get all its watches back in the same minute for ever.
	minWatch, maxWatch = 300, 600 // seconds
	// longPause is for what this server does not have or does not give us.
	longPause = 10 * time.Minute
	// refusals are how many it takes to believe them: an API server that is starting
	// does not know its roles yet.
	refusals = 5
	// brief is the time in which a watch that ends without a word has failed.
	brief = time.Second
)

var (
	errSilent = errors.New("nothing was heard for too long")
	errBrief  = errors.New("the watch was closed at once")
)

// follower keeps the Store at what the API says of one kind.
type follower struct {
	kind
	source  *Source
	keys    map[cluster.Name]struct{} // what the Store has from here
	version string                    // up to which the Store is; "": take everything
	listed  bool                      // everything was taken at least once
	streams bool                      // the server can send everything through a watch
	// pending are the objects of a stream that has not sent all of them yet.
	pending  map[cluster.Name]struct{}
	heard    bool // in this round
	failures int  // in sequence
}

func (f *follower) run(ctx context.Context) {
	f.takeFirst(ctx)
	for ctx.Err() == nil {
		f.heard = false
		began := time.Now()
		err := f.round(ctx)
		if ctx.Err() != nil {
			return
		}
		if f.heard || time.Since(began) >= brief && err == nil {
			f.failures = 0
		}
		pause := f.judge(err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// round follows until something ends it. Nil: the server closed a watch in good
// order.
func (f *follower) round(ctx context.Context) error {
	if f.version == "" && !f.streams {
		if err := f.takeAll(ctx); err != nil {
			return err
		}
	}
	return f.follow(ctx)
}

// judge decides what to do about the end of a round, and after which pause.
func (f *follower) judge(err error) time.Duration {
	if err == nil {
		return 0
	}
	switch {
	case lost(err) && f.version != "":
		f.version = ""   // in the order of things, so nothing to tell
		f.failures = 0   // and an answer: what failed before it is over
		return f.pause() // not all nodes at once
	case f.version == "" && f.streams && unheardOf(err):
		f.streams = false
		return 0
	case f.version == "":
		f.streams = f.source.streaming // whatever it was, it was not the stream
	}
	if f.optional && (apierrors.IsNotFound(err) || apierrors.IsForbidden(err) && f.failures >= refusals) {
		f.source.log.without(f.name, err)
		return longPause + rand.N(longPause)
	}
	f.source.log.failed(f.name, err, f.source.waits())
	return f.pause()
}

// pause counts a failure and returns how long to wait after it.
func (f *follower) pause() time.Duration {
	f.failures++
	factor := min(1<<min(f.failures-1, 10), maxRetryFactor)
	pause := f.source.options.Retry * time.Duration(factor)
	return pause + rand.N(pause)
}

// lost reports whether the server has forgotten the version that a watch is to
// begin from, or does not have it yet and may never: it was restored from a backup.
func lost(err error) bool {
	return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err) ||
		apierrors.IsBadRequest(err) || apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge)
}

// unheardOf reports whether an answer may mean that the server cannot stream a list:
// it is old, has the feature switched off, or an etcd before 3.4.25 (which it says
// with an internal error). A server that is not ready or refuses everything is not
// meant.
func unheardOf(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsInternalError(err) ||
		apierrors.ReasonForError(err) == metav1.StatusReasonUnknown && errors.As(err, new(apierrors.APIStatus))
}

// follow watches from the version on or, if there is none, takes everything
// through the watch too.
func (f *follower) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	guard := time.AfterFunc(f.source.options.Silence, func() { cancel(errSilent) })
	defer guard.Stop()
	f.pending = nil
	if f.version == "" {
		f.pending = map[cluster.Name]struct{}{}
	}
	w, err := f.watch(ctx, f.watchOptions())
	if err != nil {
		return first(context.Cause(ctx), err)
	}
	defer w.Stop()
	s := &stream{follower: f, opened: time.Now()}
	defer s.close()
	settled := time.NewTimer(brief)
	defer settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return s.cut(ctx)
		case <-settled.C:
			s.stands()
		case e, ok := <-w.ResultChan():
			if !ok && ctx.Err() != nil {
				return s.cut(ctx)
			}
			if !ok {
				return s.ended()
			}
			guard.Reset(f.source.options.Silence)
			if err := f.take(e); err != nil {
				return first(context.Cause(ctx), err)
			}
			s.stands()
		}
	}
}

// first returns the first error: what cancelled a request is the better reason
// than what the request says of it.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// stream is one watch while it lasts.
type stream struct {
	*follower
	opened  time.Time
	counted bool // as standing
}

// stands notes once that the watch does what it should.
func (s *stream) stands() {
	if s.counted || s.pending != nil {
		return
	}
	s.counted = true
	s.count(1)
	s.source.log.fine(s.name)
}

func (s *stream) close() {
	if s.counted {
		s.count(-1)
	}
}

func (s *stream) count(by int) {
	if !s.optional {
		s.source.stands(by)
	}
}

// cut is why we ended the watch ourselves. A watch that has said nothing for long is
// opened anew, and that is no failure: an API server sends bookmarks only of kinds of
// which it has seen a change since it started.
func (s *stream) cut(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, errSilent) || s.pending != nil {
		return cause
	}
	return nil
}

func (s *stream) ended() error {
	if s.pending != nil || !s.heard && time.Since(s.opened) < brief {
		return errBrief
	}
	return nil
}

func (f *follower) watchOptions() metav1.ListOptions {
	seconds := minWatch + rand.Int64N(maxWatch-minWatch)
	o := metav1.ListOptions{
		LabelSelector: f.labels, FieldSelector: f.fields,
		ResourceVersion: f.version, AllowWatchBookmarks: true, TimeoutSeconds: &seconds,
	}
	if f.version == "" {
		yes := true
		o.SendInitialEvents, o.ResourceVersionMatch = &yes, metav1.ResourceVersionMatchNotOlderThan
	}
	return o
}

// take brings one event of a watch into the Store.
func (f *follower) take(e watch.Event) error {
	if e.Type == watch.Error {
		return apierrors.FromObject(e.Object)
	}
	object, err := meta.Accessor(e.Object)
	if err != nil {
		return nil // no event that this client knows of
	}
	f.heard = true
	f.source.alive()
	switch e.Type {
	case watch.Added, watch.Modified:
		f.put(object, e.Object, f.pending)
	case watch.Deleted:
		f.drop(cluster.Name{Namespace: object.GetNamespace(), Name: object.GetName()})
	case watch.Bookmark:
		if f.pending != nil && object.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true" {
			f.complete(f.pending)
			f.pending = nil
		}
	}
	if f.pending == nil {
		f.version = object.GetResourceVersion()
	}
	return nil
}

// put sets an object and notes its key, also in a list that is under way. One that is
// new is a change even where it changes nothing yet: an EndpointSlice may come before
// its Service.
func (f *follower) put(about metav1.Object, object runtime.Object, listing map[cluster.Name]struct{}) {
	name := cluster.Name{Namespace: about.GetNamespace(), Name: about.GetName()}
	_, known := f.keys[name]
	f.keys[name] = struct{}{}
	if listing != nil {
		listing[name] = struct{}{}
	}
	if f.set(object) || !known {
		f.source.observe(Change{Kind: f.name, Trigger: triggerOf(about)})
		f.source.touch()
	}
}

// triggerOf is when the endpoints of a slice changed, by the clock of whoever
// noticed it.
func triggerOf(about metav1.Object) time.Time {
	at, err := time.Parse(time.RFC3339Nano, about.GetAnnotations()[corev1.EndpointsLastChangeTriggerTime])
	if err != nil {
		return time.Time{}
	}
	return at
}

// drop deletes an object. It is a change even where it changes nothing any more: an
// EndpointSlice mostly goes after its Service.
func (f *follower) drop(name cluster.Name) {
	_, known := f.keys[name]
	delete(f.keys, name)
	delete(f.pending, name)
	if f.delete(name) || known {
		f.source.observe(Change{Kind: f.name})
		f.source.touch()
	}
}

// complete deletes what a full list does not hold. It comes after all objects
// are set, so that whoever looks in between finds rather too much.
func (f *follower) complete(listed map[cluster.Name]struct{}) {
	for name := range f.keys {
		if _, there := listed[name]; !there {
			f.drop(name)
		}
	}
	f.keys, f.listed = listed, true
	f.source.delivered(f.name)
}

// takeFirst takes the objects that the rest of the cluster needs, while all others
// are under way. One that was deleted since goes with the list of everything.
func (f *follower) takeFirst(ctx context.Context) {
	if f.first == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	list, err := f.first(ctx)
	if err != nil {
		return // it comes with everything else, which says what is wrong
	}
	err = meta.EachListItem(list, func(object runtime.Object) error {
		about, err := meta.Accessor(object)
		if err == nil {
			f.put(about, object, nil)
		}
		return err
	})
	if err == nil && len(f.keys) > 0 {
		f.source.deliveredFirst()
	}
}

// takeAll takes everything in pages. Once something is known it asks for what is
// newest, since any server may have an older state than the last one had.
func (f *follower) takeAll(ctx context.Context) error {
	o := metav1.ListOptions{LabelSelector: f.labels, FieldSelector: f.fields, Limit: pageSize}
	if !f.listed {
		o.ResourceVersion = "0"
	}
	listed := map[cluster.Name]struct{}{}
	for {
		about, err := f.takePage(ctx, o, listed)
		if apierrors.IsResourceExpired(err) && o.Continue != "" {
			o.Limit, o.Continue = 0, "" // too slow for pages: whole
			clear(listed)
			continue
		}
		if err != nil {
			return err
		}
		f.heard = true
		f.source.alive()
		if o.Continue = about.GetContinue(); o.Continue == "" {
			f.complete(listed)
			f.version = about.GetResourceVersion()
			return nil
		}
		o.ResourceVersion = ""
	}
}

func (f *follower) takePage(ctx context.Context, o metav1.ListOptions, listed map[cluster.Name]struct{}) (metav1.ListInterface, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, f.source.options.Silence, errSilent)
	defer cancel()
	page, err := f.list(ctx, o)
	if err != nil {
		return nil, first(context.Cause(ctx), err)
	}
	err = meta.EachListItem(page, func(object runtime.Object) error {
		about, err := meta.Accessor(object)
		if err == nil {
			f.put(about, object, listed)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return meta.ListAccessor(page)
}
