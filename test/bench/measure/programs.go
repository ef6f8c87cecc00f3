package measure

import (
	"context"
	"time"

	"switchyard/test/bench/contest"
)

// programs counts what a contestant starts to reach the kernel, and how much it
// feeds to it: around a restart with nothing changed, and for each change. Those that
// write by netlink alone start none.
func (v *Visit) programs(ctx context.Context) error {
	if err := v.stop(); err != nil {
		return err
	}
	if _, err := v.start(ctx, contest.Settings{MinSync: 0, Tally: true}); err != nil {
		return err
	}
	if err := v.quiet(ctx); err != nil {
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
	n := float64(made)
	v.emit(Programs, "at a restart", "", float64(restart.Programs))
	v.emit(Programs, "input at a restart", "KiB", float64(restart.Input)/1024)
	v.emit(Programs, "for each change", "", float64(all.Programs-restart.Programs)/n)
	v.emit(Programs, "input for each change", "KiB", float64(all.Input-restart.Input)/1024/n)
	return nil
}
