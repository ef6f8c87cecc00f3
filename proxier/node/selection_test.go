package node

import (
	"strings"
	"testing"
)

func TestParseSelection(t *testing.T) {
	for name, c := range map[string]struct {
		entries []string
		wrong   []string // in the error; none: no error
		empty   bool
	}{
		"nothing":                 {empty: true},
		"a CIDR of each family":   {entries: []string{"10.0.0.0/8", "fd00::/64"}},
		"every keyword once":      {entries: []string{"primary", "localhost", "all"}},
		"a keyword and a CIDR":    {entries: []string{"primary", "10.1.2.3/16"}},
		"a keyword twice":         {entries: []string{"primary", "primary"}, wrong: []string{`[1] "primary"`, "repeated"}},
		"no such keyword":         {entries: []string{"Primary"}, wrong: []string{`[0] "Primary"`, "primary, localhost, all", "CIDR"}},
		"an address":              {entries: []string{"10.0.0.1"}, wrong: []string{`[0] "10.0.0.1"`, "CIDR"}},
		"empty entry":             {entries: []string{""}, wrong: []string{`[0] ""`}},
		"too long a prefix":       {entries: []string{"10.0.0.0/33"}, wrong: []string{`[0] "10.0.0.0/33"`}},
		"IPv4-mapped":             {entries: []string{"::ffff:10.0.0.0/104"}, wrong: []string{"IPv4 CIDR"}},
		"all wrong ones are told": {entries: []string{"x", "10.0.0.0/8", "y"}, wrong: []string{`[0] "x"`, `[2] "y"`}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := ParseSelection(c.entries)
			if (err != nil) != (len(c.wrong) > 0) {
				t.Fatalf("error %v, want one: %v", err, len(c.wrong) > 0)
			}
			for _, w := range c.wrong {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not contain %q", err, w)
				}
			}
			if err == nil && s.IsEmpty() != c.empty {
				t.Errorf("empty is %v, want %v", s.IsEmpty(), c.empty)
			}
		})
	}
}
