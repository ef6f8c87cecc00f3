package ruleset

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"switchyard/proxier"
	"switchyard/test/netlab"
)

// newTool is a tool in a fresh namespace with a lock file of its own.
func newTool(t testing.TB, family proxier.Family, flavour Flavour) *Tool {
	t.Helper()
	netlab.Alone(t)
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock"))
	tool, err := Find(t.Context(), family, flavour)
	if err != nil {
		t.Fatal(err)
	}
	return tool
}

// eachTool runs a test for every family and flavour.
func eachTool(t *testing.T, test func(*testing.T, *Tool)) {
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		for _, flavour := range []Flavour{NFT, Legacy} {
			t.Run(family.String()+" "+string(flavour), func(t *testing.T) {
				test(t, newTool(t, family, flavour))
			})
		}
	}
}

// fakePrograms fills a directory with shell scripts and makes it the whole PATH.
func fakePrograms(t *testing.T, scripts map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, body := range scripts {
		for _, suffix := range []string{"", "-save", "-restore"} {
			text := "#!/bin/sh\n" + body + "\n"
			if err := os.WriteFile(filepath.Join(dir, name+suffix), []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PATH", dir)
}

func TestFindTellsWhatItFound(t *testing.T) {
	eachTool(t, func(t *testing.T, tool *Tool) {
		if !strings.HasPrefix(tool.Version(), "1.") || !tool.RandomFully() {
			t.Errorf("version %q, random-fully %v", tool.Version(), tool.RandomFully())
		}
		if want := string(tool.Flavour()) + ": asked for"; tool.Reason() != want {
			t.Errorf("reason %q, want %q", tool.Reason(), want)
		}
		if tool.Itself() != tool.Family() {
			t.Error("the match of a packet to itself is not known")
		}
		if tool.Execs() != 2 {
			t.Errorf("%d programs run, want 2: the probes", tool.Execs())
		}
	})
}

// A probe must not make anything in the nft tables, where a table of ours would make
// the wrapper scripts of other programs believe that the node uses nft.
func TestFindWritesNothing(t *testing.T) {
	tool := newTool(t, proxier.IPv4, NFT)
	before, err := tool.Stamp()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Find(t.Context(), proxier.IPv4, ""); err != nil {
		t.Fatal(err)
	}
	if after, _ := tool.Stamp(); after != before {
		t.Errorf("stamp went from %v to %v", before, after)
	}
}

func TestFindRefuses(t *testing.T) {
	const (
		old    = `echo "iptables v1.4.21"`
		denied = `case "$1" in --version) echo "iptables v1.8.9 (nf_tables)";; *) echo "iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)" >&2; exit 4;; esac`
		insmod = `case "$1" in --version) echo "iptables v1.8.9 (legacy)";; *) echo "iptables v1.8.9 (legacy): can't initialize iptables table 'nat': Table does not exist (do you need to insmod?)" >&2; exit 3;; esac`
		nonft  = `case "$1" in --version) echo "iptables v1.8.9 (nf_tables)";; *) echo "iptables: Failed to initialize nft: Protocol not supported" >&2; exit 1;; esac`
		mute   = `exit 1`
	)
	for _, c := range []struct {
		name     string
		programs map[string]string
		family   proxier.Family
		want     Flavour
		says     []string
	}{
		{"nothing in PATH", nil, proxier.IPv4, "", []string{"iptables", "install the package iptables"}},
		{"only IPv4's programs", map[string]string{"iptables-nft": old}, proxier.IPv6, "", []string{"no ip6tables", "install"}},
		{"the other flavour only", map[string]string{"iptables-legacy": insmod}, proxier.IPv4, NFT, []string{"nft", "iptables-nft", "install"}},
		{"too old", map[string]string{"iptables": old}, proxier.IPv4, "", []string{"1.4.21", "1.6.2", "upgrade"}},
		{"no permission", map[string]string{"iptables-nft": denied}, proxier.IPv4, "", []string{"NET_ADMIN", "you must be root"}},
		{"no legacy table", map[string]string{"iptables-legacy": insmod}, proxier.IPv4, "", []string{"iptable_nat", "nft flavour"}},
		{"no nf_tables", map[string]string{"iptables-nft": nonft}, proxier.IPv4, "", []string{"nf_tables", "nft_compat"}},
		{"a program without a version", map[string]string{"iptables-nft": mute}, proxier.IPv4, "", []string{"version", "iptables-nft"}},
		{"no such flavour", map[string]string{"iptables-nft": denied}, proxier.IPv4, "ebtables", []string{`"ebtables"`, "nft or legacy"}},
		{"no family", nil, 0, "", []string{"no family"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			fakePrograms(t, c.programs)
			tool, err := Find(t.Context(), c.family, c.want)
			if err == nil {
				t.Fatalf("found %v", tool)
			}
			for _, want := range c.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

func TestPlainNamesStandForTheFlavourTheyTell(t *testing.T) {
	for version, want := range map[string]Flavour{
		"iptables v1.8.9 (nf_tables)": NFT,
		"iptables v1.8.9 (legacy)":    Legacy,
		"iptables v1.6.2":             Legacy,
	} {
		fakePrograms(t, map[string]string{"iptables": `echo "` + version + `"`})
		tool, err := Find(t.Context(), proxier.IPv4, "")
		if err != nil {
			t.Fatal(err)
		}
		if tool.Flavour() != want || !strings.Contains(tool.Reason(), "only flavour") {
			t.Errorf("%s: %s, %q", version, tool.Flavour(), tool.Reason())
		}
	}
}

func TestCheckVersion(t *testing.T) {
	for v, ok := range map[[3]int]bool{
		{1, 4, 11}: false, {1, 6, 1}: false, {1, 6, 2}: true, {1, 8, 0}: true, {2, 0, 0}: true, {0, 9, 9}: false,
	} {
		if err := checkVersion(v); (err == nil) != ok {
			t.Errorf("%v: %v", v, err)
		}
	}
}
