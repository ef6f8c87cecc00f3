package ruleset

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"switchyard/proxier"
)

// minVersion is the oldest iptables that this project drives: the first whose
// iptables-restore takes -w with seconds and whose rules take --random-fully.
var minVersion = [3]int{1, 6, 2}

// Tool is one family's iptables programs of one flavour. It is the only door to
// them. Its methods may be used from several goroutines; the kernel and the xtables
// lock order their writes.
//
// The programs act on the network namespace of the calling thread.
type Tool struct {
	family  proxier.Family
	flavour Flavour
	reason  string
	version [3]int
	bin     binaries
	ipt     *ruleTool
	itself  proxier.Family
	execs   atomic.Int64
}

// Find finds the programs for family. An empty want chooses the flavour that the
// node uses already; ask once and pass the first family's Flavour for the second,
// so that both agree.
//
// It fails, with a sentence on what to do, if the programs are missing or older
// than 1.6.2, if the process lacks NET_ADMIN, or if the kernel lacks the tables.
// It reads table nat once, which makes a kernel of the legacy flavour create it.
func Find(ctx context.Context, family proxier.Family, want Flavour) (*Tool, error) {
	if family != proxier.IPv4 && family != proxier.IPv6 {
		return nil, fmt.Errorf("find iptables: %s is not a family", family)
	}
	found := installed(ctx, family)
	flavour, reason, err := settle(ctx, settlement{family: family, want: want, found: found})
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", prefixOf(family), err)
	}
	t := &Tool{family: family, flavour: flavour, reason: reason, bin: found[flavour]}
	if t.ipt, err = openIPTables(t.bin.iptables, family); err != nil {
		return nil, fmt.Errorf("find %s: %w", prefixOf(family), err)
	}
	t.version[0], t.version[1], t.version[2] = t.ipt.GetIptablesVersion()
	if err := checkVersion(t.version); err != nil {
		return nil, fmt.Errorf("find %s: %s is %w", prefixOf(family), t.bin.iptables, err)
	}
	if err := t.probe(ctx); err != nil {
		return nil, fmt.Errorf("find %s: %w", prefixOf(family), err)
	}
	if t.takesItself(ctx) {
		t.itself = family
	}
	return t, nil
}

// settlement is what the flavour is settled from.
type settlement struct {
	family proxier.Family
	want   Flavour
	found  map[Flavour]binaries
}

// settle returns the flavour to use and why.
func settle(ctx context.Context, s settlement) (Flavour, string, error) {
	prefix := prefixOf(s.family)
	switch {
	case s.want != "" && s.want != NFT && s.want != Legacy:
		return "", "", fmt.Errorf("flavour %q is unknown: use nft or legacy", s.want)
	case len(s.found) == 0:
		return "", "", fmt.Errorf("no %s with its -save and -restore is in PATH: install the package iptables (Fedora, RHEL: iptables-nft)", prefix)
	case s.want != "":
		if _, ok := s.found[s.want]; !ok {
			return "", "", fmt.Errorf("the flavour %s was asked for and is not in PATH: install the package that holds %s-%s", s.want, prefix, s.want)
		}
		return s.want, fmt.Sprintf("%s: asked for", s.want), nil
	case len(s.found) == 1:
		for only := range s.found {
			return only, fmt.Sprintf("%s: the only flavour of %s that is installed", only, prefix), nil
		}
	}
	other := proxier.IPv6
	if s.family == proxier.IPv6 {
		other = proxier.IPv4
	}
	flavour, reason := chooseFlavour(savesOf(ctx, []map[Flavour]binaries{s.found, installed(ctx, other)}))
	return flavour, reason, nil
}

// checkVersion returns an error that reads on from "… is".
func checkVersion(v [3]int) error {
	for i := range v {
		if v[i] > minVersion[i] {
			return nil
		}
		if v[i] < minVersion[i] {
			return fmt.Errorf("version %s, too old: %s or newer is needed (iptables-restore with -w); upgrade the package iptables",
				versionString(v), versionString(minVersion))
		}
	}
	return nil
}

func versionString(v [3]int) string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

// probe makes one call that changes no rule and fails where later ones would. It
// asks for one rule of one chain, so its output is small at any size of the table.
func (t *Tool) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*saveTimeout)
	defer cancel()
	r := t.execute(ctx, program{path: t.bin.iptables, args: []string{"-w", "5", "-t", "nat", "-S", "PREROUTING", "1"}})
	if r.err == nil {
		return nil
	}
	return t.refusal(ctx, t.bin.iptables, r, &RestoreError{Table: "nat", Stderr: r.stderr})
}

// takesItself looks for a rule that is not there. The programs say so only if they
// and the kernel know its match; nothing is written.
func (t *Tool) takesItself(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*saveTimeout)
	defer cancel()
	r := t.execute(ctx, program{path: t.bin.iptables, args: []string{
		"-w", "5", "-t", "nat", "-C", "PREROUTING", "-m", "bpf", "--bytecode", itself[t.family]}})
	return strings.Contains(r.stderr, "matching rule exist") && !strings.Contains(r.stderr, "not supported")
}

// advise says what to do about a message of the programs that has one cause, or "".
func advise(flavour Flavour, stderr string) string {
	says := func(texts ...string) bool {
		for _, text := range texts {
			if strings.Contains(stderr, text) {
				return true
			}
		}
		return false
	}
	switch {
	case says("Permission denied", "Operation not permitted") && flavour == Legacy:
		return "no permission: the capabilities NET_ADMIN and NET_RAW are needed (run as root, or privileged in a pod)"
	case says("Permission denied", "Operation not permitted"):
		return "no permission: the capability NET_ADMIN is needed (run as root, or privileged in a pod)"
	case flavour == Legacy && says("do you need to insmod", "able does not exist"):
		return "the kernel lacks a table: load the modules ip_tables and iptable_nat (IPv6: ip6_tables and ip6table_nat), or use the nft flavour"
	case flavour == Legacy && says("unable to initialize table"):
		return "the kernel lacks this table (for nat: load the module iptable_nat or ip6table_nat), or the capability NET_ADMIN is missing"
	case flavour == NFT && says("Could not fetch rule set generation id", "Failed to initialize nft", "Protocol not supported"):
		return "the kernel lacks nf_tables: load the modules nf_tables and nft_compat, or use the legacy flavour"
	case flavour == NFT && says("CHAIN_ADD failed (No such file or directory)", "CHAIN_ADD failed (Operation not supported)"):
		return "the kernel lacks a chain type of nf_tables: load the modules nft_chain_nat and nft_compat, or use the legacy flavour"
	case says("use 'nft' tool"):
		return "another program has changed this table with nft in a way that iptables cannot show: undo that, or use the legacy flavour"
	}
	return ""
}

// Family is the family whose tables the programs write.
func (t *Tool) Family() proxier.Family { return t.family }

// Flavour is the flavour of the programs.
func (t *Tool) Flavour() Flavour { return t.flavour }

// Reason says in a sentence for the log why the flavour was taken.
func (t *Tool) Reason() string { return t.reason }

// Version is the programs' version, like 1.8.9.
func (t *Tool) Version() string { return versionString(t.version) }

// RandomFully tells whether MASQUERADE takes --random-fully.
func (t *Tool) RandomFully() bool { return t.ipt.HasRandomFully() }

// Itself is what Rule.Itself may be: the family, or 0 where the programs or the
// kernel lack xt_bpf.
func (t *Tool) Itself() proxier.Family { return t.itself }

// Execs is the number of programs run so far, for reports.
func (t *Tool) Execs() int64 { return t.execs.Load() }
