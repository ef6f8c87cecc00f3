package relay

import (
	"math/rand/v2"
	"testing"
)

// FuzzPump is TestBytes with what a fuzzer thinks of. The first byte says who resets
// and who reads slowly; each one after that is a write, by the client or the endpoint,
// of a size around those at which the relay does otherwise.
func FuzzPump(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3})
	f.Add([]byte{1, 0x85, 5, 0x86})
	f.Add([]byte{2, 7, 7, 0x87})
	f.Add([]byte{4 | 8, 7, 0x87, 4, 0x84})
	f.Add([]byte{3})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) == 0 || len(script) > 16 {
			return
		}
		client, endpoint := part{resets: script[0]&1 > 0}, part{resets: script[0]&2 > 0}
		if script[0]&4 > 0 {
			client.slow = 5000
		}
		if script[0]&8 > 0 {
			endpoint.slow = 5000
		}
		sizes := []int{0, 1, 100, bufferSize - 1, bufferSize, bufferSize + 1, 3 * bufferSize, 200_000}
		content := rand.New(rand.NewPCG(1, 1))
		for _, b := range script[1:] {
			who := &client
			if b&0x80 > 0 {
				who = &endpoint
			}
			n := sizes[b&7]
			who.chunks = append(who.chunks, n)
			for range n {
				who.data = append(who.data, byte(content.Uint32()))
			}
		}
		if err := playBoth(t, client, endpoint); err != nil {
			t.Fatalf("%v\nclient %v resets %t, endpoint %v resets %t", err, client.chunks, client.resets, endpoint.chunks, endpoint.resets)
		}
	})
}
