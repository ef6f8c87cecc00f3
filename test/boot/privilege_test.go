package boot

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCapabilities: a program that was given everything keeps three capabilities, in
// every thread, and rules are written all the same.
func TestCapabilities(t *testing.T) {
	binary := build(t)
	const stays = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_NET_BIND_SERVICE
	for _, c := range []struct {
		name   string
		inside []string // what stands before the program
		legacy bool
		flags  []string
		stays  uint64
	}{
		{name: "nft", stays: stays},
		{name: "legacy", legacy: true, stays: stays},
		{name: "userspace", flags: []string{"--proxy-mode=userspace"}, stays: stays},
		{name: "less is given", inside: []string{"setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all"},
			stays: 1 << unix.CAP_NET_ADMIN},
		{name: "a manifest that is another user's", inside: []string{"sh", "-ec", foreignManifest, "foreign"},
			stays: stays | 1<<unix.CAP_DAC_READ_SEARCH},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := bare(t, binary)
			m.plug()
			if c.legacy {
				_, err := m.node.Output(context.Background(), "iptables-legacy", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
				check(t, err)
			}
			m.start(c.inside, append(c.flags, "--cluster-cidr=10.180.0.0/16")...)
			m.says("capabilities that are not needed are given up")
			m.answers(m.neighbor, nodePort)
			m.answers(m.node, vip)
			m.threads(c.stays)
		})
	}
}

// foreignManifest gives the folder of the manifest to another user and shuts it.
const foreignManifest = `
for word in "$@"; do case $word in --manifest=*) dir=${word#--manifest=};; esac; done
chown -R 12345 "$dir"; chmod 0700 "$dir"; chmod 0600 "$dir"/*
exec "$@"`

// threads holds what every thread of the program may.
func (m *machine) threads(stays uint64) {
	m.t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", m.cmd.Process.Pid))
	check(m.t, err)
	want := map[string]uint64{"CapInh": 0, "CapAmb": 0, "CapPrm": stays, "CapEff": stays, "CapBnd": stays, "NoNewPrivs": 1}
	for _, task := range tasks {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", m.cmd.Process.Pid, task.Name()))
		check(m.t, err)
		found := 0
		for _, line := range regexp.MustCompile(`(?m)^(Cap...|NoNewPrivs):\t(\S+)$`).FindAllStringSubmatch(string(status), -1) {
			found++
			if got := strings.TrimLeft(line[2], "0"); got != strings.TrimPrefix(fmt.Sprintf("%x", want[line[1]]), "0") {
				m.t.Errorf("thread %s: %s, want %x", task.Name(), line[0], want[line[1]])
			}
		}
		if found != len(want) {
			m.t.Errorf("thread %s: %d lines of %d", task.Name(), found, len(want))
		}
	}
	m.t.Logf("%d threads with %#x", len(tasks), stays)
}
