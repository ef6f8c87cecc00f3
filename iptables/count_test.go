package iptables

import (
	"testing"

	"switchyard/proxier"
)

func TestPackets(t *testing.T) {
	for _, c := range []struct {
		name               string
		liberal, localhost bool
		want               proxier.Packets
	}{
		// The fake counts 1, 2, 3, … packets for the rules of a chain.
		{"both rules stand", false, true, proxier.Packets{Invalid: 1, Localhost: 3}},
		{"no node ports on localhost", false, false, proxier.Packets{Invalid: 1}},
		{"INVALID packets are not dropped", true, true, proxier.Packets{Localhost: 3}},
	} {
		k := newFake(true)
		b := k.backend()
		b.config.Liberal = c.liberal
		if got, err := b.Packets(t.Context()); got.Localhost != 0 || err != nil {
			t.Errorf("%s: before the first apply: %+v, %v", c.name, got, err)
		}
		s := plainState(1, 1)
		s.Node.NodePorts.Localhost = c.localhost
		mustApply(t, b, s)
		if got, err := b.Packets(t.Context()); got != c.want || err != nil {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
}
