package relay

import "testing"

// Whatever conntrack answers when it is asked for a flow's destination: an address or
// an error.
func FuzzOriginal(f *testing.F) {
	f.Add(make([]byte, 20))
	f.Fuzz(func(t *testing.T, data []byte) {
		if to, err := originalIn(data); err == nil && !to.IsValid() {
			t.Fatal("neither an address nor an error")
		}
	})
}
