package iptables

import (
	"fmt"
	"testing"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// BenchmarkRenderAll is the cold start: from a State to the input, nothing standing.
func BenchmarkRenderAll(b *testing.B) {
	s := plainState(10_000, 5)
	h := ruleset.NewHasher()
	b.ReportAllocs()
	for b.Loop() {
		p := newPlan(emptyMemory(), s, testConfig, h)
		in := ruleset.Print(p.changes(), nftCommit)
		p.learn()
		b.ReportMetric(float64(in.Lines), "lines")
	}
}

// BenchmarkOneEndpointChange is from one State to the input for the next one, in
// which one service has an endpoint less or more.
func BenchmarkOneEndpointChange(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			more := plainState(n, 5)
			less := edited(more, n/2, lessOne)
			benchmarkBetween(b, more, less)
		})
	}
}

// BenchmarkServiceChange is the same for a service that comes and goes.
func BenchmarkServiceChange(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			more := plainState(n, 5)
			benchmarkBetween(b, more, stateWithout(more, more.Services[n/2]))
		})
	}
}

func benchmarkBetween(b *testing.B, one, other *proxier.State) {
	h := ruleset.NewHasher()
	mem := newPlan(emptyMemory(), one, testConfig, h).learn()
	next := other
	lines, rounds := 0, 0
	b.ReportAllocs()
	for b.Loop() {
		p := newPlan(mem, next, testConfig, h)
		in := ruleset.Print(p.changes(), nftCommit)
		mem = p.learn()
		if next == one {
			next = other
		} else {
			next = one
		}
		lines, rounds = lines+in.Lines, rounds+1
	}
	b.ReportMetric(float64(lines)/float64(rounds), "lines")
}
