package iptables

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
	"switchyard/test/netlab"
)

// newNamespace is netlab.Alone with an xtables lock of its own.
func newNamespace(t testing.TB) {
	t.Helper()
	netlab.Alone(t)
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock"))
}

// realKernel is the programs of one flavour and family in a namespace.
type realKernel struct {
	t testing.TB
	*ruleset.Tool
}

// eachKernel runs a test for every family and flavour, each in a fresh namespace.
func eachKernel(t *testing.T, test func(*testing.T, realKernel)) {
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		for _, flavour := range []ruleset.Flavour{ruleset.NFT, ruleset.Legacy} {
			t.Run(family.String()+" "+string(flavour), func(t *testing.T) {
				newNamespace(t)
				test(t, openKernel(t, family, flavour))
			})
		}
	}
}

func openKernel(t testing.TB, family proxier.Family, flavour ruleset.Flavour) realKernel {
	t.Helper()
	tool, err := ruleset.Find(t.Context(), family, flavour)
	if err != nil {
		t.Fatal(err)
	}
	return realKernel{t, tool}
}

// program is one of the flavour's programs: "", "-save" or "-restore".
func (k realKernel) program(suffix string) string {
	name := "iptables"
	if k.Family() == proxier.IPv6 {
		name = "ip6tables"
	}
	return name + "-" + string(k.Flavour()) + suffix
}

// run runs iptables itself.
func (k realKernel) run(args ...string) {
	k.t.Helper()
	cmd := exec.Command(k.program(""), append([]string{"-w"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		k.t.Fatalf("%v: %v: %s", cmd.Args, err, out)
	}
}

// restore gives an input to iptables-restore.
func (k realKernel) restore(input string, args ...string) error {
	cmd := exec.Command(k.program("-restore"), args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w: %s", cmd.Args, err, out)
	}
	return nil
}

var counters = regexp.MustCompile(`\[\d+:\d+\]`)

// save is the tables nat and filter without what changes by itself: comments with
// the time, and counters.
func (k realKernel) save() string {
	k.t.Helper()
	text := ""
	for _, table := range []string{"nat", "filter"} {
		dump, err := k.Save(context.Background(), table)
		if err != nil {
			k.t.Fatal(err)
		}
		for line := range strings.Lines(string(dump)) {
			if !strings.HasPrefix(line, "#") {
				text += counters.ReplaceAllString(line, "[0:0]")
			}
		}
	}
	return text
}

// foreign is what others keep, in the words of the family.
func (k realKernel) foreign() string {
	if k.Family() == proxier.IPv4 {
		return foreignDump
	}
	return strings.NewReplacer("172.17.0.0/16", "fd00:17::/64", "203.0.113.99/32", "2001:db8::99/128").Replace(foreignDump)
}

func (k realKernel) stamp() ruleset.Stamp {
	k.t.Helper()
	s, err := k.Stamp()
	if err != nil {
		k.t.Fatal(err)
	}
	return s
}

func (k realKernel) backend() *Backend { return New(k.Tool, proxier.Settings{MasqueradeBit: 14}) }

// hasSCTP reports whether the kernel matches SCTP ports.
func (k realKernel) hasSCTP() bool {
	return k.restore("*filter\n:T - [0:0]\n-A T -p sctp -m sctp --dport 1 -j DROP\nCOMMIT\n", "--noflush", "--test") == nil
}

// supported is a State with what this kernel can match.
func (k realKernel) supported(s *proxier.State) *proxier.State {
	if k.hasSCTP() {
		return s
	}
	next := *s
	next.Services = slices.DeleteFunc(slices.Clone(s.Services), func(svc *proxier.Service) bool { return svc.Protocol == proxier.SCTP })
	return &next
}

// The same walks as on the fake kernel, shorter and without faults, on the real one.
func TestWalksOnTheRealKernel(t *testing.T) {
	eachKernel(t, func(t *testing.T, k realKernel) {
		if err := k.restore(k.foreign(), "--noflush"); err != nil {
			t.Fatal(err)
		}
		if !k.hasSCTP() {
			t.Log("the kernel does not match SCTP ports: SCTP services are left out")
		}
		b := k.backend()
		var last *proxier.State
		for seed := range uint64(2) {
			e := evolve(seed, k.Family())
			for range 8 {
				last = k.supported(e.next())
				noneAside(t, mustApply(t, b, last))
			}
		}
		got := k.save()
		k.checkQuiet(b, last)

		// What stands is what the last State makes of a kernel without anything of ours.
		for _, table := range []string{"nat", "filter"} {
			k.run("-t", table, "-F")
			k.run("-t", table, "-X")
		}
		if err := k.restore(k.foreign(), "--noflush"); err != nil {
			t.Fatal(err)
		}
		noneAside(t, mustApply(t, k.backend(), last))
		if want := k.save(); comparableSave(got) != comparableSave(want) {
			t.Errorf("ends with other tables: %s", firstDifference(comparableSave(got), comparableSave(want)))
		}
	})
}

// comparableSave sorts chains: the programs list them in the order of making.
func comparableSave(dump string) string {
	lines := strings.SplitAfter(comparable(dump), "\n")
	table := ""
	for i, l := range lines {
		if strings.HasPrefix(l, "*") {
			table = strings.TrimSpace(l)
		}
		lines[i] = table + " " + l
	}
	slices.SortStableFunc(lines, func(a, b string) int {
		return strings.Compare(chainKey(a), chainKey(b))
	})
	return strings.Join(lines, "")
}

// chainKey sorts a line by table and chain; the rules of a base chain by themselves.
func chainKey(line string) string {
	fields := strings.Fields(line)
	if len(fields) > 2 && fields[1] == "-A" && strings.HasPrefix(fields[2], "KUBE") {
		return strings.Join(fields[:3], " ")
	}
	return line
}

// checkQuiet applies the same State again, and by a Backend that knows nothing:
// neither writes.
func (k realKernel) checkQuiet(b *Backend, s *proxier.State) {
	k.t.Helper()
	before, stamp := k.save(), k.stamp()
	for name, b := range map[string]*Backend{"again": b, "after a restart": k.backend()} {
		if report := mustApply(k.t, b, s); report.Operations != 0 {
			k.t.Errorf("%s: %d operations, wrote %v, deleted %v", name, report.Operations, report.Written, report.Deleted)
		}
		if what, err := b.Drifted(k.t.Context()); what != "" || err != nil {
			k.t.Errorf("%s: drifted: %q, %v", name, what, err)
		}
	}
	if k.stamp() != stamp || k.save() != before {
		k.t.Errorf("unchanged State, but it wrote")
	}
}

// Every name and rule of a large cluster is one that the kernel takes, and that it
// gives back as we wrote it.
func TestLargeTreesOnTheRealKernel(t *testing.T) {
	eachKernel(t, func(t *testing.T, k realKernel) {
		s := &proxier.State{Family: k.Family(), Node: proxier.Node{NodePorts: proxier.NodePorts{Any: true}}}
		for i := range 300 {
			svc := plainService(i, 0)
			if i%2 == 0 {
				svc.Cluster = many(k.Family(), 1)
			}
			routes := clusterIPRoutes(len(svc.Cluster))[len(svc.Cluster):]
			vip := plainVIP(i)
			if k.Family() == proxier.IPv6 {
				vip = addrPort6(i)
			}
			svc.Frontends = []proxier.Frontend{{Kind: proxier.ClusterIP, Addr: vip, Routes: routes}}
			external("", uint16(30000+i), routes...)(svc)
			s.Services = append(s.Services, svc)
		}
		b := k.backend()
		noneAside(t, mustApply(t, b, s))
		k.checkQuiet(b, s)
	})
}
