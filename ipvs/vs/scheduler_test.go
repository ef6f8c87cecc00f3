package vs

import (
	"strings"
	"testing"
	"time"
)

func TestParseScheduler(t *testing.T) {
	for _, c := range []struct {
		text, name string
		flags      Flags
		wrong      string
	}{
		{"rr", "rr", 0, ""},
		{"mh", "mh", 0, ""},
		{"mh,mh-port", "mh", Port, ""},
		{"mh,mh-port,mh-fallback", "mh", Port | Fallback, ""},
		{" sh , sh-fallback", "sh", Fallback, ""},
		{"sh,sh-port,sh-port", "sh", Port, ""},
		{"", "", 0, `scheduler "" is unknown: there are rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh`},
		{"mhh", "", 0, `scheduler "mhh" is unknown`},
		{"RR", "", 0, `scheduler "RR" is unknown`},
		{"mh,sh-port", "", 0, `scheduler mh has no flag "sh-port": there are mh-port, mh-fallback`},
		{"mh,", "", 0, `scheduler mh has no flag ""`},
		{"rr,mh-port", "", 0, `scheduler rr has no flag "mh-port": only sh and mh have flags`},
	} {
		name, flags, err := ParseScheduler(c.text)
		switch {
		case c.wrong != "":
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%q: error %v does not say %q", c.text, err, c.wrong)
			}
		case err != nil || name != c.name || flags != c.flags:
			t.Errorf("%q: %s %b, %v; want %s %b", c.text, name, flags, err, c.name, c.flags)
		}
	}
	for _, name := range Schedulers() {
		if got, flags, err := ParseScheduler(name); got != name || flags != 0 || err != nil {
			t.Errorf("%s: %s %b, %v", name, got, flags, err)
		}
	}
}

func TestServerPrintsAsParsed(t *testing.T) {
	for _, s := range []Server{
		{Scheduler: "rr"}, {Scheduler: "sh", Flags: Port}, {Scheduler: "mh", Flags: Port | Fallback},
	} {
		name, flags, err := ParseScheduler(s.String())
		if name != s.Scheduler || flags != s.Flags || err != nil {
			t.Errorf("%s: %s %b, %v", s, name, flags, err)
		}
	}
	s := Server{Scheduler: "rr", Persistence: 3 * time.Hour}
	if got := s.String(); got != "rr persistent 3h0m0s" {
		t.Error(got)
	}
}
