package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fewRights: the program runs as in the pod of deploy/, and works.
func (c *cluster) fewRights(t *testing.T) {
	t.Parallel()
	for _, w := range []struct {
		name         string
		capabilities string // as setpriv names them
		set          uint64
	}{
		{"NET_ADMIN and NET_RAW", "+net_admin,+net_raw", 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW},
		{"NET_ADMIN alone, nft", "+net_admin", 1 << unix.CAP_NET_ADMIN},
	} {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			p := c.program(t, c.addNode(t))
			c.create(t, node(p.host.Name(), "192.168.0.199"))
			p.inside = []string{"sh", "-ec", confine, "confine", w.capabilities}
			p.start()
			p.inSync()
			p.isConfined(w.set)
			p.until("default/kubernetes", func() bool { return c.apiAnswers(t, p.host) == nil })
			p.warnsOnce()
		})
	}
}

// confine runs a program as a container runtime does that is told to drop all
// capabilities but those of $1, to allow no escalation, and to make the root
// read-only. `ip netns exec` has given it mounts of its own already.
const confine = `
only=$1; shift
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -o remount,bind,ro /
exec setpriv --bounding-set=-all,$only --inh-caps=-all --no-new-privs -- "$@"`

// isConfined holds that this test tests something.
func (p *program) isConfined(capabilities uint64) {
	p.t.Helper()
	proc := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	status := text(p.t, proc+"status")
	for _, line := range []string{fmt.Sprintf("CapEff:\t%016x\n", capabilities), fmt.Sprintf("CapBnd:\t%016x\n", capabilities), "NoNewPrivs:\t1\n"} {
		if !strings.Contains(status, line) {
			p.t.Errorf("its status has no %q:\n%s", line, status)
		}
	}
	mounts := text(p.t, proc+"mountinfo")
	for _, at := range []string{"/", "/proc/sys"} {
		if !regexp.MustCompile(`(?m)^\S+ \S+ \S+ \S+ ` + at + ` ro[, ]`).MatchString(mounts) {
			p.t.Errorf("%s is not read-only:\n%s", at, mounts)
		}
	}
}

// warnsOnce: one line for each sysctl that cannot be written, which names it.
func (p *program) warnsOnce() {
	p.t.Helper()
	named := map[string]int{}
	for _, line := range p.log.Lines("level=WARN") {
		if m := regexp.MustCompile(`set (?:sysctl )?([a-z_/.0-9]+)`).FindStringSubmatch(line); m != nil {
			named[m[1]]++
		} else {
			p.t.Errorf("a warning about something else: %s", line)
		}
	}
	for _, must := range []string{
		"net.netfilter.nf_conntrack_tcp_timeout_established", "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
		"net.ipv4.conf.all.route_localnet",
	} {
		if named[must] != 1 {
			p.t.Errorf("%s is named in %d warnings", must, named[must])
		}
	}
	for name, n := range named {
		if n > 1 {
			p.t.Errorf("%s is named in %d warnings", name, n)
		}
	}
}
