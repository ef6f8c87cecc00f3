package iptables

import "testing"

func TestEmpty(t *testing.T) {
	for _, nft := range []bool{true, false} {
		k := newFake(nft)
		k.tables["nat"]["CNI-HOSTPORT-DNAT"] = []string{"-A CNI-HOSTPORT-DNAT -j RETURN"}
		ask := func(want bool) {
			t.Helper()
			if got, err := k.backend().Empty(t.Context()); got != want || err != nil {
				t.Errorf("nft %t: empty %t, %v; want %t", nft, got, err, want)
			}
		}
		ask(true)
		b := k.backend()
		mustApply(t, b, plainState(3, 2))
		ask(false)
		before := k.writes
		if _, err := b.Empty(t.Context()); err != nil || k.writes != before {
			t.Errorf("nft %t: asking wrote %d times, %v", nft, k.writes-before, err)
		}
		if report := mustApply(t, b, plainState(3, 2)); report.Operations != 0 {
			t.Errorf("nft %t: after asking, an unchanged State took %d operations", nft, report.Operations)
		}
	}
}
