package ipset

import "testing"

// Whatever a list of sets answers: no panic, and what is read of an entry can be
// written.
func FuzzList(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		h, _ := parseHeader(data)
		parseRevisions(data)
		for _, kind := range []Type{h.Type, HashIP, BitmapPort, HashIPPortNet} {
			parseEntries(data, kind, func(e Entry) { _ = e.append(nil, kind.fields()) })
		}
	})
}
