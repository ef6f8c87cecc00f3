package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// bound is one promise, what was measured of it, and whether it was kept. Promises in
// milliseconds are only looked at in User Mode Linux.
type bound struct {
	promise, measured string
	kept              bool
}

// bounds are the promises of which the run has measured something.
func (f *figures) bounds(p pace) (rows []bound) {
	f.mu.Lock()
	defer f.mu.Unlock()
	wrong := 0
	for _, n := range f.wrong {
		wrong += n
	}
	add := func(measured bool, kept bool, promise, format string, args ...any) {
		if measured {
			rows = append(rows, bound{promise, fmt.Sprintf(format, args...), kept})
		}
	}
	add(f.events["rolled services"]+f.restarts["SIGKILL"]+f.restarts["SIGTERM"] > 0, wrong == 0,
		"no connect fails through replacements and restarts", "%d of %d, through %d replacements, %d SIGKILL, %d SIGTERM",
		wrong, f.tried-f.excused, f.events["rolled services"], f.restarts["SIGKILL"], f.restarts["SIGTERM"])
	add(len(f.idle) >= enoughIdle, percentile(f.idle, 99) <= p.moved,
		fmt.Sprintf("endpoint's end known to its last connection: p99 < %s when idle", p.moved), "%s, %d times", percentiles(f.idle), len(f.idle))
	add(len(f.repairs) > 0, slices.Max(append(f.repairs, 0)) <= p.repair+time.Second,
		fmt.Sprintf("what others break is repaired in %s", p.repair), "%s, %d times", percentiles(f.repairs), len(f.repairs))
	add(f.idleRestarts > 0, f.idleWrites == 0,
		"a restart with nothing changed writes nothing", "%d writes in %d restarts", f.idleWrites, f.idleRestarts)
	add(len(f.beside) > 0, slices.Max(append(f.beside, 0)) <= p.beside,
		fmt.Sprintf("beside a refused Service others are in within %s", p.beside), "%s, %d times", percentiles(f.beside), len(f.beside))
	return rows
}

func printBounds(w io.Writer, mode string, rows []bound) {
	fmt.Fprintf(w, "bounds, mode %s\n", mode)
	for _, r := range rows {
		mark := "kept"
		if !r.kept {
			mark = "BROKEN"
		}
		fmt.Fprintf(w, "  %-6s  %-62s  %s\n", mark, r.promise, r.measured)
	}
}
