package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"switchyard/ipvs"
	"switchyard/proxier"
	"switchyard/test/netlab"
)

// virtual is the IPVS mode: virtual servers, the addresses of kube-ipvs0, sets, and
// the legacy rules that look into them.
type virtual struct{ *xtables }

// curses: a Service's changes are messages.
func (v *virtual) curses(int, string) []string { return nil }

// device is what has the addresses of Services.
const device = "kube-ipvs0"

func (v *virtual) programs() []string { return append(v.xtables.programs(), "modprobe") }

func (v *virtual) traits() traits { return traits{netlink: true, hidesNode: true} }

func (v *virtual) fresh(ctx context.Context, host *netlab.Host, want states, s proxier.Settings) error {
	return host.Do(func() error {
		for f, state := range want {
			backend, _, err := ipvs.Driver().Open(ctx, f, s)
			if err != nil {
				return err
			}
			defer func() { _ = backend.Close() }()
			report, err := backend.Apply(ctx, state)
			if err != nil {
				return err
			}
			for _, aside := range report.SetAside {
				return fmt.Errorf("set aside on an empty node: %s", aside)
			}
		}
		return nil
	})
}

// dump has the servers as ipvsadm prints them, the addresses, and the sets.
func (v *virtual) dump(host *netlab.Host) (ours, others []string, err error) {
	ours, others, err = v.xtables.dump(host)
	if err != nil {
		return nil, nil, err
	}
	for _, part := range []func(*netlab.Host) (ours, others []string, err error){v.servers, v.addresses, v.sets} {
		mine, theirs, err := part(host)
		if err != nil {
			return nil, nil, err
		}
		slices.Sort(mine)
		slices.Sort(theirs)
		ours, others = append(ours, mine...), append(others, theirs...)
	}
	return ours, others, nil
}

// strangersNets are where the virtual servers of others are.
var strangersNets = []string{" 100.64.", " [2001:db8:64:", " -f "}

func (v *virtual) servers(host *netlab.Host) (ours, others []string, err error) {
	text, err := host.Output(context.Background(), "ipvsadm", "-Sn")
	if err != nil {
		return nil, nil, err
	}
	for line := range strings.Lines(text) {
		line = "ipvs " + strings.TrimSpace(line)
		if slices.ContainsFunc(strangersNets, func(s string) bool { return strings.Contains(line, s) }) {
			others = append(others, line)
		} else {
			ours = append(ours, line)
		}
	}
	return ours, others, nil
}

func (v *virtual) addresses(host *netlab.Host) (ours, others []string, err error) {
	text, err := host.Output(context.Background(), "ip", "-o", "addr", "show")
	if err != nil {
		return nil, nil, err
	}
	for line := range strings.Lines(text) {
		words := strings.Fields(line) // 7: kube-ipvs0 inet 172.30.0.40/32 scope global kube-ipvs0
		if words[1] == device && !strings.HasPrefix(words[3], "fe80:") {
			ours = append(ours, fmt.Sprintf("%s %s", device, words[3]))
		}
	}
	return ours, nil, nil
}

// sets are those of ours, and of others, without what a set's history decides.
func (v *virtual) sets(host *netlab.Host) (ours, others []string, err error) {
	text, err := host.Output(context.Background(), "ipset", "save", "-sorted")
	if err != nil {
		return nil, nil, err
	}
	for line := range strings.Lines(text) {
		words := strings.Fields(line) // create KUBE-CLUSTER-IP hash:ip,port family inet hashsize 1024 maxelem 65536 …
		for _, chance := range []string{"hashsize", "initval", "bucketsize"} {
			if i := slices.Index(words, chance); i > 0 {
				words = slices.Delete(words, i, min(len(words), i+2))
			}
		}
		line = "set " + strings.Join(words, " ")
		if strings.HasPrefix(words[1], "KUBE-") {
			ours = append(ours, line)
		} else {
			others = append(others, line)
		}
	}
	return ours, others, nil
}

// settled leaves out endpoints that get no new connections, and what stands of
// servers that have only such and are not wanted: they wait for the end of the
// connections that they have.
func (v *virtual) settled(ours, want []string) []string {
	wanted := map[string]bool{}
	for _, line := range want {
		wanted[line] = true
	}
	lasting := lastingServers(ours, wanted)
	return slices.DeleteFunc(slices.Clone(ours), func(line string) bool {
		words := strings.Fields(line)
		switch {
		case wanted[line]:
			return false
		case words[0] == "ipvs" && words[1] == "-a":
			return strings.HasSuffix(line, " -w 0")
		case words[0] == "ipvs":
			return lasting[words[3]]
		case words[0] == device:
			addr, _, _ := strings.Cut(words[1], "/")
			return anyKey(lasting, func(ip, _ string) bool { return ip == addr })
		case words[0] == "set" && words[1] == "add":
			return anyKey(lasting, func(ip, port string) bool { return recordOf(words[3], ip, port) })
		}
		return false
	})
}

// lastingServers are those, as "172.30.0.40:80", that are not wanted and have an
// endpoint that gets nothing new, and no other.
func lastingServers(ours []string, wanted map[string]bool) map[string]bool {
	lasting := map[string]bool{}
	for _, line := range ours {
		if words := strings.Fields(line); words[0] == "ipvs" && words[1] == "-a" && strings.HasSuffix(line, " -w 0") {
			lasting[words[3]] = true
		}
	}
	for _, line := range ours {
		words := strings.Fields(line)
		if words[0] == "ipvs" && (words[1] == "-a" && !strings.HasSuffix(line, " -w 0") || words[1] == "-A" && wanted[line]) {
			delete(lasting, words[3])
		}
	}
	return lasting
}

// recordOf reports whether a set's entry is one by which a server is known to be ours.
func recordOf(entry, ip, port string) bool {
	parts := strings.Split(entry, ",") // 172.30.0.40,tcp:80 or 172.30.0.40 or 30000
	switch {
	case entry == ip || entry == port:
		return true
	case len(parts) == 2:
		_, at, _ := strings.Cut(parts[1], ":")
		return parts[0] == ip && at == port
	}
	return false
}

// anyKey reports whether an address and port among servers fits.
func anyKey(servers map[string]bool, fits func(ip, port string) bool) bool {
	for key := range servers {
		i := strings.LastIndexByte(key, ':')
		if i > 0 && fits(strings.Trim(key[:i], "[]"), key[i+1:]) {
			return true
		}
	}
	return false
}

func (v *virtual) damages() map[string]damage {
	all := v.xtables.damages()
	for name, do := range map[string]func(*netlab.Host, int) error{
		"delete-server":      v.deleteServer,
		"delete-destination": v.deleteDestination,
		"empty-destination":  v.emptyDestination,
		"foreign-endpoint":   v.foreignEndpoint,
		"flush-servers":      v.flushServers,
		"delete-address":     v.deleteAddress,
		"delete-device":      v.deleteDevice,
		"flush-set":          v.flushSet,
		"delete-entry":       v.deleteEntry,
		"destroy-sets":       v.destroySets,
	} {
		all[name] = damage{do: do, flows: true}
	}
	return all
}

// command runs a program on a host.
func command(host *netlab.Host, words ...string) error {
	_, err := host.Output(context.Background(), words[0], words[1:]...)
	return err
}

// pickLine takes one of a dump's parts that begin so, nil if there is none.
func pickLine(host *netlab.Host, n int, part func(*netlab.Host) (ours, others []string, err error), prefix string) ([]string, error) {
	lines, _, err := part(host)
	lines = slices.DeleteFunc(lines, func(l string) bool { return !strings.HasPrefix(l, prefix) })
	if err != nil || len(lines) == 0 {
		return nil, err
	}
	slices.Sort(lines)
	return strings.Fields(lines[n%len(lines)]), nil
}

func (v *virtual) deleteServer(host *netlab.Host, n int) error {
	words, err := pickLine(host, n, v.servers, "ipvs -A ")
	if err != nil || words == nil {
		return err
	}
	return command(host, "ipvsadm", "-D", words[2], words[3])
}

func (v *virtual) deleteDestination(host *netlab.Host, n int) error {
	words, err := pickLine(host, n, v.servers, "ipvs -a ")
	if err != nil || words == nil {
		return err
	}
	return command(host, "ipvsadm", "-d", words[2], words[3], "-r", words[5])
}

// emptyDestination sets the weight of an endpoint to 0: not all that looks like
// draining is our own doing.
func (v *virtual) emptyDestination(host *netlab.Host, n int) error {
	words, err := pickLine(host, n, v.servers, "ipvs -a ")
	if err != nil || words == nil {
		return err
	}
	return command(host, "ipvsadm", "-e", words[2], words[3], "-r", words[5], "-m", "-w", "0")
}

// foreignEndpoint adds one that no Service has.
func (v *virtual) foreignEndpoint(host *netlab.Host, n int) error {
	words, err := pickLine(host, n, v.servers, "ipvs -A ")
	if err != nil || words == nil {
		return err
	}
	addr := "192.0.2.99:7"
	if strings.HasPrefix(words[3], "[") {
		addr = "[2001:db8:192::63]:7"
	}
	return command(host, "ipvsadm", "-a", words[2], words[3], "-r", addr, "-m")
}

// flushServers empties IPVS, as another load balancer does that takes all for its own.
func (v *virtual) flushServers(host *netlab.Host, _ int) error { return command(host, "ipvsadm", "-C") }

func (v *virtual) deleteAddress(host *netlab.Host, n int) error {
	words, err := pickLine(host, n, v.addresses, device)
	if err != nil || words == nil {
		return err
	}
	return command(host, "ip", "addr", "del", words[1], "dev", device)
}

func (v *virtual) deleteDevice(host *netlab.Host, _ int) error {
	if here, err := pickLine(host, 0, v.addresses, device); err != nil || here == nil {
		return err
	}
	return command(host, "ip", "link", "del", device)
}

func (v *virtual) flushSet(host *netlab.Host, n int) error {
	words, err := pickLine(host, n, v.sets, "set create ")
	if err != nil || words == nil {
		return err
	}
	return command(host, "ipset", "flush", words[2])
}

func (v *virtual) deleteEntry(host *netlab.Host, n int) error {
	words, err := pickLine(host, n, v.sets, "set add ")
	if err != nil || words == nil {
		return err
	}
	return command(host, "ipset", "del", words[2], words[3])
}

// destroySets takes out all rules, and then the sets, that no rule holds any more.
func (v *virtual) destroySets(host *netlab.Host, n int) error {
	if err := v.flushAll(host, n); err != nil {
		return err
	}
	for _, f := range families {
		if err := command(host, v.tool(f, ""), "-w", "-t", "mangle", "-F"); err != nil {
			return err
		}
	}
	lines, _, err := v.sets(host)
	for _, line := range lines {
		if words := strings.Fields(line); words[1] == "create" {
			_ = command(host, "ipset", "destroy", words[2]) // the proxy may be quicker
		}
	}
	return err
}

func (v *virtual) strangers(n int) (add, remove [][]string) {
	add, remove = v.xtables.strangers(n)
	set := fmt.Sprintf("stranger-%d", n)
	add = append(add, []string{"ipset", "create", set, "hash:ip"}, []string{"ipset", "add", set, "192.0.2.250"})
	remove = append(remove, []string{"ipset", "destroy", set})
	mark := fmt.Sprint(100 + n)
	add = append(add, []string{"ipvsadm", "-A", "-f", mark, "-s", "rr"}, []string{"ipvsadm", "-a", "-f", mark, "-r", "192.0.2.1:80", "-m"})
	remove = append(remove, []string{"ipvsadm", "-D", "-f", mark})
	for _, at := range []string{"100.64.0.%d:80", "[2001:db8:64::%d]:80"} {
		at = fmt.Sprintf(at, 10+n)
		add = append(add, []string{"ipvsadm", "-A", "-t", at, "-s", "wrr"}, []string{"ipvsadm", "-a", "-t", at, "-r", at, "-m"})
		remove = append(remove, []string{"ipvsadm", "-D", "-t", at})
	}
	return add, remove
}
