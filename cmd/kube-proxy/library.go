package main

import (
	"context"
	"log/slog"

	"k8s.io/klog/v2"
)

// logLibraries has client-go's own lines in our log, for those who debug: what of
// them concerns somebody is said in words of our own, once.
func logLibraries(log *slog.Logger) {
	klog.SetSlogLogger(slog.New(atDebug{log.Handler()}))
}

// atDebug is a handler that takes every record for one of debugging.
type atDebug struct{ slog.Handler }

// Enabled implements slog.Handler.
func (h atDebug) Enabled(ctx context.Context, _ slog.Level) bool {
	return h.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle implements slog.Handler.
func (h atDebug) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h atDebug) WithAttrs(attrs []slog.Attr) slog.Handler {
	return atDebug{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h atDebug) WithGroup(name string) slog.Handler { return atDebug{h.Handler.WithGroup(name)} }
