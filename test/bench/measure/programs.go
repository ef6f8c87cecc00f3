package measure

import (
	"context"
	"time"

	"switchyard/test/bench/contest"
)

// tallied are the most changes that churn makes under a tally, which slows all down.
const tallied = 250

// programs counts what a contestant starts to reach the kernel, and how much it
// feeds to it: around a restart with nothing changed, for each change alone, and for
// each of many. What goes to the kernel by netlink is not seen.
func (v *Visit) programs(ctx context.Context) error {
	if err := v.restartTallied(ctx, 0); err != nil {
		return err
	}
	restart, err := v.Runner.Tally()
	if err != nil {
		return err
	}
	made := 0
	for began := time.Now(); !v.enough(made, began); made++ {
		if _, err := v.changeOne(ctx, v.Random.IntN(v.Load.Services)); err != nil {
			return err
		}
		if err := v.quiet(ctx); err != nil {
			return err
		}
	}
	all, err := v.Runner.Tally()
	if err != nil {
		return err
	}
	v.emit(Programs, "at a restart", "", float64(restart.Programs))
	v.emit(Programs, "input at a restart", "KiB", float64(restart.Input)/1024)
	v.emitTally("for each change", all.Since(restart), made)
	return v.churnTallied(ctx)
}

// restartTallied restarts the contestant with a tally and waits until it is quiet.
func (v *Visit) restartTallied(ctx context.Context, minSync time.Duration) error {
	if err := v.stop(); err != nil {
		return err
	}
	if _, err := v.start(ctx, contest.Settings{MinSync: minSync, Tally: true}); err != nil {
		return err
	}
	return v.quiet(ctx)
}

// churnTallied is churn with the default interval, in which changes come together.
func (v *Visit) churnTallied(ctx context.Context) error {
	if err := v.restartTallied(ctx, contest.Default().MinSync); err != nil {
		return err
	}
	before, err := v.Runner.Tally()
	if err != nil {
		return err
	}
	n := min(v.Effort.Churn, tallied)
	if _, err := v.writeMany(ctx, n); err != nil {
		return err
	}
	if err := v.quiet(ctx); err != nil {
		return err
	}
	after, err := v.Runner.Tally()
	if err == nil {
		v.emitTally("in churn, for each change", after.Since(before), n)
	}
	return err
}

func (v *Visit) emitTally(metric string, t contest.Tally, changes int) {
	v.emit(Programs, metric, "", float64(t.Programs)/float64(changes))
	v.emit(Programs, "input "+metric, "KiB", float64(t.Input)/1024/float64(changes))
}
