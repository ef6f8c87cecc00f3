package ruleset

import (
	"hash/fnv"
	"testing"
)

// Whatever the kernel answers about nft tables: an error or attributes, no panic.
func FuzzAnswers(f *testing.F) {
	f.Add(make([]byte, 20))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = parseGeneration(data)
		a := answers{each: func(attrs []byte) {
			hashRule(fnv.New64a(), attrs)
			_ = text(attrs, 1)
		}}
		if len(data) >= 12 {
			a.seq = uint32(data[8]) | uint32(data[9])<<8 | uint32(data[10])<<16 | uint32(data[11])<<24
		}
		_ = a.read(data)
	})
}

// Whatever iptables prints: what it says of the flavour, of counters and of an error is
// read without a panic.
func FuzzListing(f *testing.F) {
	f.Add([]byte("*nat\n:KUBE-IPTABLES-HINT - [0:0]\n-A A -j B\nCOMMIT\n"))
	f.Add([]byte("-N A\n-A A -c 1 60 -j DROP\n"))
	f.Add([]byte("iptables-restore: line 2 failed\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		kubeletChain(data)
		countLines(data)
		parsePackets(data)
		explainRestore(data, string(data))
	})
}
