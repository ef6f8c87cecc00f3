package watch

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// How long a follower waits after the end of a round.
func TestPauses(t *testing.T) {
	const retry = time.Second
	gone := apierrors.NewResourceExpired("too old resource version")
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "x"}, "", errors.New("no role"))
	missing := apierrors.NewNotFound(schema.GroupResource{Resource: "x"}, "")
	for _, c := range []struct {
		name     string
		err      error
		failures int // before it
		optional bool
		at       string // the version
		least    time.Duration
	}{
		{"a watch that ended in good order", nil, 0, false, "7", 0},
		{"the first failure", errors.New("refused"), 0, false, "7", retry},
		{"the third failure", errors.New("refused"), 2, false, "7", 4 * retry},
		{"the hundredth failure", errors.New("refused"), 99, false, "7", maxRetryFactor * retry},
		{"the server is back, and has forgotten the version", gone, 6, false, "7", retry},
		{"no role", forbidden, 99, false, "7", maxRetryFactor * retry},
		{"no role yet for what nothing waits for", forbidden, 0, true, "7", retry},
		{"no role for what nothing waits for", forbidden, refusals, true, "7", longPause},
		{"no such kind", missing, 0, true, "", longPause},
	} {
		s := &Source{options: Options{Retry: retry}, log: newDiary(slog.New(slog.DiscardHandler))}
		f := &follower{source: s, version: c.at, failures: c.failures}
		f.optional = c.optional
		if got := f.judge(c.err); got < c.least || got > 2*c.least {
			t.Errorf("%s: %v, want %v to twice that", c.name, got, c.least)
		}
	}
}
