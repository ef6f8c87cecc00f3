package switching

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"switchyard/test/uml"
)

// longest is how long a way may be closed to new connects.
const longest = time.Second

// pairs are all ordered pairs of some modes.
func pairs(all ...mode) (list [][2]mode) {
	for _, from := range all {
		for _, to := range all {
			if from != to {
				list = append(list, [2]mode{from, to})
			}
		}
	}
	return list
}

// everything is for when time does not matter, `make switch`: all pairs with upstream's
// modes, and IPVS.
var everything = os.Getenv("SWITCH") == "all"

// TestSwitch changes from each mode to each other by a restart, under load, and to each
// from those that upstream's kube-proxy has.
func TestSwitch(t *testing.T) {
	st := setUp(t, build(t))
	nft, legacy, userspace := mode{name: "iptables", flavour: "nft"}, mode{name: "iptables", flavour: "legacy"}, mode{name: "userspace"}
	for _, p := range pairs(nft, legacy, userspace) {
		st.try(t, p[0], p[1])
	}
	t.Run("upstream", func(t *testing.T) {
		st.startAPI(t)
		for i, from := range []mode{nft, legacy, {name: "nftables"}} {
			from.upstream = true
			for j, to := range []mode{userspace, nft, legacy} {
				if i == j || everything {
					st.try(t, from, to)
				}
			}
		}
	})
	st.compare(t)
}

// builtProgram names the program to the tests that run in the other kernel.
const builtProgram = "SWITCHYARD_SWITCH_PROGRAM"

// TestSwitchIPVS is the same for the pairs with IPVS, in a kernel that has it. That
// kernel is slow: it is one walk through all of them, and cleanup comes at its end.
func TestSwitchIPVS(t *testing.T) {
	if !everything {
		t.Log("not walked: it takes some minutes; make switch does")
		return
	}
	o := uml.Options{Timeout: 10 * time.Minute}
	if !uml.Inside() {
		o.Env = []string{builtProgram + "=" + build(t)}
	}
	uml.Tests(t, o, uml.Case{Name: "Pairs", Test: func(t *testing.T) {
		st := setUp(t, os.Getenv(builtProgram))
		legacy, ipvs, userspace := mode{name: "iptables", flavour: "legacy"}, mode{name: "ipvs", flavour: "legacy"}, mode{name: "userspace", flavour: "legacy"}
		st.walk(t, legacy, ipvs, userspace, ipvs, legacy)
		st.compare(t)
	}})
}

// walk changes from mode to mode. What a mode makes of the node must be the same
// wherever it came from.
func (st *stage) walk(t *testing.T, modes ...mode) {
	t.Helper()
	p := st.begin(t, modes[0])
	for i, to := range modes[1:] {
		from := modes[i]
		t.Run(fmt.Sprintf("%s to %s", from, to), func(sub *testing.T) { p = st.restart(sub, p, from, to) })
	}
	p.end(t, syscall.SIGTERM)
	st.cleanUp(t, modes[len(modes)-1])
}

// try changes from one mode to another as a subtest.
func (st *stage) try(t *testing.T, from, to mode) {
	t.Helper()
	// The flavour of a mode that names none is the other's: the kubelet's stays.
	if from.flavour == "" {
		from.flavour = to.flavour
	}
	if to.flavour == "" {
		to.flavour = from.flavour
	}
	if from.flavour == "" {
		from.flavour, to.flavour = flavours()[0], flavours()[0]
	}
	t.Run(fmt.Sprintf("%s to %s", from, to), func(t *testing.T) { st.change(t, from, to) })
}

// record notes what a mode makes of a node that holds nothing of any mode.
func (st *stage) record(t *testing.T, m mode) {
	t.Helper()
	if st.fresh[m] == "" {
		st.fresh[m] = st.dump(t)
	}
}

// compare finds what a change of modes left on the node beside what a first start of
// the new one makes.
func (st *stage) compare(t *testing.T) {
	t.Helper()
	for _, c := range st.changed {
		if st.fresh[c.to] == "" { // never started on a clean node
			st.fresh[c.to] = c.dump
		}
		if d := difference(st.fresh[c.to], c.dump); d != "" {
			t.Errorf("%s to %s: the node is not as after a first start:\n%s", c.from, c.to, d)
		}
	}
}

// changed is what the node held after a change.
type changed struct {
	from, to mode
	dump     string
}

// cleanUp runs cleanup twice: the first takes away all that the mode made, the second
// finds nothing.
func (st *stage) cleanUp(t *testing.T, m mode) {
	t.Helper()
	said := st.run(t, st.binary+" cleanup")
	if d := difference(st.clean[m.flavour], st.dump(t)); d != "" {
		t.Errorf("cleanup of %s: the node is not as it was:\n%s\nit said:\n%s", m, d, said)
	}
	if again := st.run(t, st.binary+" cleanup"); !strings.Contains(again, "nothing of ours") {
		t.Errorf("a second cleanup of %s found: %s", m, again)
	}
	check(t, st.node.ForgetFlows())
}

// change is one restart in another mode, on a node that was clean and is clean again.
func (st *stage) change(t *testing.T, from, to mode) {
	t.Helper()
	after := st.restart(t, st.begin(t, from), from, to)
	after.end(t, syscall.SIGTERM)
	st.cleanUp(t, to)
}

// restart ends one mode and starts another, under load.
func (st *stage) restart(t *testing.T, before *program, from, to mode) (after *program) {
	t.Helper()
	streams := st.streams(t, from)
	load := st.load(t)
	time.Sleep(20 * every)
	st.hint(t, to.flavour)
	began := time.Now()
	before.end(t, syscall.SIGTERM)
	ended := time.Since(began)
	after = st.start(t, to)
	synced := after.inSync(t)
	alone := after.isAlone(t)
	time.Sleep(10 * every)
	load.end()
	time.Sleep(silence) // what is cut is silent
	t.Logf("%s to %s: %d connects, %d failed %v, longest gap %s, without a Service %s, the load late by %s; the old process took %s to end, the new one %s to its first sync, %s more until nothing was left",
		from, to, load.tried, load.failed, load.why, load.longest.Round(time.Millisecond), load.control.Round(time.Millisecond), load.late.Round(time.Millisecond),
		ended.Round(time.Millisecond), synced.Round(time.Millisecond), alone.Round(time.Millisecond))
	bound := longest + load.control + 2*load.late
	if uml.Inside() && from.name == "userspace" { // what it takes a process there to start is no measure
		bound += synced + alone
	}
	if load.longest > bound {
		t.Errorf("by %v nobody got through for %s; without a Service, for %s", load.where, load.longest, load.control)
	}
	judge(t, streams, from, to)
	st.changed = append(st.changed, changed{from, to, st.dump(t)})
	return after
}

// begin starts the mode that is to be left, on a node that holds nothing of any mode.
func (st *stage) begin(t *testing.T, m mode) *program {
	t.Helper()
	st.hint(t, m.flavour)
	if m.upstream {
		return st.startUpstream(t, m)
	}
	p := st.start(t, m)
	p.inSync(t)
	p.isAlone(t)
	st.record(t, m)
	return p
}

// streams opens those that the mode can have.
func (st *stage) streams(t *testing.T, m mode) (all []*stream) {
	t.Helper()
	for kind, w := range kinds {
		all = append(all, st.dial(t, kind, w, perKind)...)
	}
	if m.name == "iptables" {
		all = append(all, st.dial(t, loopback, way{"node-a", "127.0.0.1:30041"}, perKind)...)
	}
	return all
}

// judge compares what became of the streams with what docs/upgrade.md says.
func judge(t *testing.T, streams []*stream, from, to mode) {
	t.Helper()
	ends := map[string]map[string]int{} // by heading, then by how it ended
	for _, s := range streams {
		heading := "Established connections"
		if s.kind == loopback {
			heading = "Connections to 127.0.0.1"
		}
		if ends[heading] == nil {
			ends[heading] = map[string]int{}
		}
		ends[heading][s.end()]++
		_ = s.conn.Close()
	}
	for heading, ways := range ends {
		live, all := ways[""], 0
		for _, n := range ways {
			all += n
		}
		delete(ways, "")
		t.Logf("%s: %d of %d live, the others ended so: %v", heading, live, all, ways)
		cell := promise(t, heading, from, to)
		if !(cell == "live" && live == all) && !(cell == "end" && live < all) {
			t.Errorf("%s: docs/upgrade.md says %q", heading, cell)
		}
	}
}

// promise is what the page says of a change: a cell of the table under a heading.
func promise(t *testing.T, heading string, from, to mode) string {
	t.Helper()
	page, err := os.ReadFile(root + "/docs/upgrade.md")
	check(t, err)
	_, section, _ := strings.Cut(string(page), "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var columns []string
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if columns == nil && len(cells) > 1 {
			columns = cells
		}
		for i, c := range cells[1:] {
			if cells[0] == from.String() && columns[1+i] == to.String() {
				return strings.Trim(c, "*")
			}
		}
	}
	return "nothing"
}
