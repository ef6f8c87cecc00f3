package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"switchyard/proxier/cluster"
	"switchyard/proxier/config"
	"switchyard/proxier/events"
	"switchyard/proxier/manifest"
	"switchyard/proxier/watch"
)

// source is what fills the store: the API server, or files.
type source struct {
	// run calls changed once everything is there, and after each change.
	run func(ctx context.Context, changed func(), log *slog.Logger) error
	// age is how long the API server has been silent; nil: there is none.
	age    func() time.Duration
	events *events.Recorder // nil: nobody to tell
}

// hooks are what a source tells besides.
type hooks struct {
	observe func(watch.Change)
	early   func()
}

func newSource(o config.Options, store *cluster.Store, h hooks) (source, error) {
	if o.Manifest != "" {
		return source{run: manifest.New(o.Manifest, store).Run}, nil
	}
	c := o.Client
	client, err := watch.NewClient(c.Kubeconfig, c.Master, watch.ClientOptions{
		QPS: c.QPS, Burst: c.Burst, UserAgent: "kube-proxy/" + version,
		ContentType: c.ContentType, AcceptContentTypes: c.AcceptContentTypes,
	})
	if err != nil {
		return source{}, fmt.Errorf("run: %w; --manifest does without an API server", err)
	}
	w := watch.New(client, store, watch.Options{Observe: h.observe, Early: h.early})
	return source{run: w.Run, age: w.Age, events: events.New(client, store.NodeName())}, nil
}

// isAPI reports whether there is an API server.
func (s source) isAPI() bool { return s.age != nil }

// heard is when the API server last proved alive.
func (s source) heard() time.Time { return time.Now().Add(-s.age()) }
