package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"testing"

	"switchyard/iptables"
	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/proxier/cluster"
	"switchyard/proxier/compile"
	"switchyard/test/bench/load"
	"switchyard/test/bench/record"
	"switchyard/test/bench/street"
)

// Slack is how many times its baseline a figure may be.
const Slack = 1.25

// The sizes that are compared.
const (
	few       = 10
	many      = 10_000
	endpoints = 2
)

// Figures are what is held, by name. Less is better.
type Figures map[string]float64

// Measure takes all figures; it needs root and about half a minute. Each step is told
// to doing.
func Measure(ctx context.Context, doing func(string)) (Figures, error) {
	f := Figures{}
	doing("compile and render")
	if err := f.allocations(); err != nil {
		return nil, err
	}
	small, err := openAvenue(ctx, few)
	if err != nil {
		return nil, err
	}
	defer small.close()
	doing(fmt.Sprintf("program %d services", many))
	big, err := openAvenue(ctx, many)
	if err != nil {
		return nil, err
	}
	defer big.close()
	doing("one change")
	if err := f.oneChange(ctx, big); err != nil {
		return nil, err
	}
	doing("first connects")
	return f, f.connects(ctx, small, big)
}

// Compare lists what is beyond Slack times the baseline, or has no baseline.
func Compare(baseline, now Figures) (worse []string) {
	for _, name := range slices.Sorted(maps.Keys(now)) {
		was, ok := baseline[name]
		switch {
		case !ok:
			worse = append(worse, fmt.Sprintf("%s: %.3g, and the baseline does not know it", name, now[name]))
		case now[name] > Slack*was:
			worse = append(worse, fmt.Sprintf("%s: %.3g, more than %.2f × the baseline of %.3g", name, now[name], Slack, was))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(baseline)) {
		if _, ok := now[name]; !ok {
			worse = append(worse, name+": not measured any more")
		}
	}
	return worse
}

// Read reads a baseline.
func Read(path string) (Figures, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f := Figures{}
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return f, nil
}

// Write makes the figures the baseline.
func (f Figures) Write(path string) error {
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

var settings = proxier.Settings{MasqueradeBit: 14}

func storeOf(l *load.Load) *cluster.Store {
	store := cluster.NewStore(load.NodeName)
	for i := range l.Services {
		store.SetService(load.Service(i))
		store.SetSlice(l.Slice(i))
	}
	return store
}

// describe is the node.
func describe() proxier.Node {
	return proxier.Node{
		Name: load.NodeName, PodRanges: []netip.Prefix{load.PodCIDR()},
		NodePorts: proxier.NodePorts{Any: true, Localhost: true}, Local: []netip.Addr{street.NodeAddr},
	}
}

// allocations counts those of a whole start without the kernel, for each service.
func (f Figures) allocations() error {
	const n = 1000
	l, err := load.New(n, endpoints)
	if err != nil {
		return err
	}
	snap := storeOf(l).Snapshot()
	var failed error
	all := testing.AllocsPerRun(3, func() {
		state := compile.New(proxier.IPv4, compile.Options{}).Compile(snap, describe())
		_, err := iptables.RenderIn(state, settings, 2000)
		failed = errors.Join(failed, err)
	})
	f["compile and render: allocations for each service"] = all / n
	return failed
}

// avenue is a street whose node is programmed by a backend in this process.
type avenue struct {
	*street.Street
	load     *load.Load
	store    *cluster.Store
	compiler *compile.Compiler
	backend  *iptables.Backend
}

func openAvenue(ctx context.Context, n int) (*avenue, error) {
	l, err := load.New(n, endpoints)
	if err != nil {
		return nil, err
	}
	a := &avenue{load: l, store: storeOf(l), compiler: compile.New(proxier.IPv4, compile.Options{})}
	if a.Street, err = street.New(nil); err != nil {
		return nil, err
	}
	err = a.Node.Do(func() error {
		tool, err := ruleset.Find(ctx, proxier.IPv4, ruleset.NFT)
		if err != nil {
			return err
		}
		a.backend = iptables.New(tool, settings)
		return nil
	})
	if err == nil {
		_, err = a.apply(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, a.Street.Close())
	}
	return a, nil
}

func (a *avenue) apply(ctx context.Context) (report proxier.Report, err error) {
	err = a.Node.Do(func() error {
		report, err = a.backend.Apply(ctx, a.compiler.Compile(a.store.Snapshot(), describe()))
		return err
	})
	if err == nil && len(report.SetAside) > 0 {
		err = report.SetAside[0].Reason
	}
	return report, err
}

func (a *avenue) close() { _ = a.Street.Close() } // what it measured stands

// oneChange replaces an endpoint on a node with many services.
func (f Figures) oneChange(ctx context.Context, a *avenue) error {
	const changes = 10
	lines, operations := 0, 0
	for k := range changes {
		i := (k + 1) * a.load.Services / (changes + 1)
		a.load.Turn(i)
		a.store.SetSlice(a.load.Slice(i))
		report, err := a.apply(ctx)
		if err != nil {
			return err
		}
		operations += report.Operations
		for _, counts := range []map[string]int{report.Written, report.Deleted} {
			for _, n := range counts {
				lines += n
			}
		}
	}
	f["one change: chains and rules written or deleted"] = float64(lines) / changes
	f["one change: kernel operations"] = float64(operations) / changes
	return nil
}

// connects compares first connects to services at random, in turns of fifty: the middle
// of the turns' ratios, so that what else the machine did in some of them has no say.
func (f Figures) connects(ctx context.Context, small, big *avenue) error {
	const turns, each = 60, 50
	var ratios []float64
	for turn := range turns {
		median := map[*avenue]float64{}
		for _, a := range []*avenue{small, big} {
			took := make([]float64, 0, each)
			err := a.Walk(func(w *street.Walker) error {
				for k := range each {
					one, err := w.Connect(load.VIP((turn*each + k) * 7919 % a.load.Services))
					if err := errors.Join(err, ctx.Err()); err != nil {
						return err
					}
					took = append(took, one.Seconds())
				}
				return nil
			})
			if err != nil {
				return err
			}
			median[a] = record.SpreadOf(took).Median
		}
		ratios = append(ratios, median[big]/median[small])
	}
	f[fmt.Sprintf("first connect: %d services to %d", many, few)] = record.SpreadOf(ratios).Median
	return nil
}
