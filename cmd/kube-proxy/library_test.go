package main

import (
	"log/slog"
	"strings"
	"testing"
)

// What libraries call an error is for those who debug.
func TestLibrariesAreQuiet(t *testing.T) {
	for level, want := range map[slog.Level]string{slog.LevelInfo: "", slog.LevelDebug: "level=DEBUG msg=trouble of=Services n=1"} {
		var out strings.Builder
		handler := slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level})
		slog.New(atDebug{handler}).With("of", "Services").Error("trouble", "n", 1)
		if _, got, _ := strings.Cut(strings.TrimSpace(out.String()), " "); got != want {
			t.Errorf("at %s: %q, want %q", level, got, want)
		}
	}
}
