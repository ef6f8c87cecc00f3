package measure

import (
	"bytes"
	"context"
	"time"

	"switchyard/test/bench/contest"
)

// listing is a program that prints what the kernel holds, and how its lines count.
type listing struct {
	command []string
	counts  []count
}

// count is a metric: how many lines begin with a prefix.
type count struct{ prefix, metric string }

// size counts what a contestant keeps in the kernel.
func (v *Visit) size(ctx context.Context) error {
	tables := "iptables-" + v.Contestant.Tables + "-save"
	listings := []listing{
		{[]string{tables}, []count{{"-A", "rules"}, {":", "chains"}}},
		{[]string{"ipset", "save"}, []count{{"create", "sets"}, {"add", "set entries"}}},
	}
	switch v.Contestant.Mode {
	case "nftables":
		listings = []listing{{[]string{"nft", "--terse", "list", "ruleset"}, []count{{"\t\t", "rules"}, {"\tchain", "chains"}, {"\tmap", "maps"}, {"\tset", "sets"}}}}
	case "ipvs":
		listings = append(listings, listing{[]string{"ipvsadm", "-Sn"}, []count{{"-A", "virtual servers"}, {"-a", "real servers"}}})
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for _, l := range listings {
		out, err := v.Street.Node.Command(ctx, l.command[0], l.command[1:]...).Output()
		if err != nil {
			continue // the program or its part of the kernel is not there
		}
		for _, c := range l.counts {
			if n := linesWith(out, c.prefix); n > 0 {
				v.emit(Size, c.metric, "", float64(n))
			}
		}
	}
	if kernel := v.Runner.Usage().Kernel; kernel > 0 {
		v.emit(Size, "kernel memory", "MiB", float64(kernel)/mebibyte)
	}
	if v.Contestant.Kind == contest.Program {
		return v.ended()
	}
	return nil
}

func linesWith(text []byte, prefix string) (n int) {
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(line, []byte(prefix)) {
			n++
		}
	}
	return n
}
