package vs

import "testing"

// Whatever a person writes as a scheduler: an error or a name, no panic.
func FuzzScheduler(f *testing.F) {
	for _, text := range []string{"rr", "mh,mh-port,mh-fallback", "sh,sh-port", "", ",", "wlc,flag-1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if name, _, err := ParseScheduler(text); err == nil && len(name) > len(text) {
			t.Fatalf("%q is read as %q", text, name)
		}
	})
}
