package bounded

import "testing"

// Whatever a netlink socket hands out: every message lies within it.
func FuzzAnswers(f *testing.F) {
	f.Add(make([]byte, 20))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := 0
		for a := range answers(data) {
			a.end()
			for _, value := range Attributes(a.data) {
				Uint16(value)
				Uint32(value)
			}
			n += 16 + len(a.data)
		}
		if n > len(data) {
			t.Fatalf("messages of %d bytes in %d", n, len(data))
		}
	})
}
