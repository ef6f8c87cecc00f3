package main

import (
	"bytes"
	"testing"
)

// Whatever stands in a script: an error, or steps that are written as they are read.
func FuzzScript(f *testing.F) {
	f.Add([]byte("# mode iptables nft\n# seed 7\n10ms wait\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseScript(bytes.NewReader(data))
		if err != nil {
			return
		}
		var text bytes.Buffer
		if _, err := s.WriteTo(&text); err != nil {
			t.Fatal(err)
		}
		again, err := parseScript(&text)
		if err != nil || len(again.Steps) != len(s.Steps) {
			t.Fatalf("%d steps, then %d: %v", len(s.Steps), len(again.Steps), err)
		}
	})
}
