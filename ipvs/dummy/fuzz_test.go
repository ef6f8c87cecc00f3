package dummy

import "testing"

// Whatever rtnetlink answers: no panic, and a prefix that is read has a length that
// its address may have.
func FuzzAnswers(f *testing.F) {
	f.Add(make([]byte, 16))
	f.Fuzz(func(t *testing.T, data []byte) {
		parseLink(data)
		if p, _ := parseAddress(data); p.Addr().IsValid() && !p.IsValid() {
			t.Fatalf("%v", p)
		}
	})
}
