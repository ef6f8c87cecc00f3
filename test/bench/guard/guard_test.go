package guard

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestCompare(t *testing.T) {
	baseline := Figures{"lines": 8, "operations": 2}
	for _, c := range []struct {
		now  Figures
		want string // part of the only complaint; "" : none
	}{
		{Figures{"lines": 8, "operations": 2}, ""},
		{Figures{"lines": 10, "operations": 1}, ""},
		{Figures{"lines": 10.1, "operations": 2}, "lines: 10.1"},
		{Figures{"lines": 8}, "operations: not measured"},
		{Figures{"lines": 8, "operations": 2, "new": 1}, "new: 1"},
	} {
		got := Compare(baseline, c.now)
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], c.want)) {
			t.Errorf("%v: %q, want %q", c.now, got, c.want)
		}
	}
}

func TestBaselineFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "baseline.json")
	want := Figures{"lines": 8.5}
	if err := want.Write(path); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(path); err != nil || got["lines"] != 8.5 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := Read(path + ".not"); err == nil {
		t.Error("a baseline that is not there was read")
	}
}
