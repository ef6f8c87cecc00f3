package contest

import (
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	known := Known("ours", "theirs")
	for _, c := range []struct {
		text    string
		want    Contestant
		problem string
	}{
		{text: "iptables", want: Contestant{Name: "iptables", Kind: Program, Path: "ours", Mode: "iptables", Tables: NFT}},
		{text: "upstream-ipvs", want: Contestant{Name: "upstream-ipvs", Kind: Program, Path: "theirs", Mode: "ipvs", Tables: NFT}},
		{text: "direct", want: Contestant{Name: "direct", Kind: Direct}},
		{text: "old=/bin/proxy", want: Contestant{Name: "old", Kind: Program, Path: "/bin/proxy", Mode: "iptables", Tables: NFT}},
		{text: "old=/bin/proxy,mode=ipvs,tables=legacy,arg=--v=4,arg=--x",
			want: Contestant{Name: "old", Kind: Program, Path: "/bin/proxy", Mode: "ipvs", Tables: Legacy, Args: []string{"--v=4", "--x"}}},
		{text: "nobody", problem: "one of iptables"},
		{text: "=x", problem: "neither"},
		{text: "a=b,colour=red", problem: "must be mode="},
		{text: "a=b,tables=round", problem: "must be nft or legacy"},
	} {
		got, err := Parse(c.text, known)
		if c.problem != "" {
			if err == nil || !strings.Contains(err.Error(), c.problem) {
				t.Errorf("%s: %v, want an error with %q", c.text, err, c.problem)
			}
			continue
		}
		if err != nil || got.Name != c.want.Name || got.Kind != c.want.Kind || got.Path != c.want.Path || got.Mode != c.want.Mode ||
			got.Tables != c.want.Tables || !slices.Equal(got.Args, c.want.Args) {
			t.Errorf("%s: %+v, %v, want %+v", c.text, got, err, c.want)
		}
	}
}

// A minimum interval of none has to be said by another number than 0, which is the
// default of a file, and the default by nothing at all.
func TestConfiguration(t *testing.T) {
	for _, c := range []struct {
		mode     string
		settings Settings
		want     string // "" : no minSyncPeriod at all
	}{
		{"iptables", Default(), ""},
		{"iptables", Settings{MinSync: 0}, "iptables: {minSyncPeriod: 1ns}"},
		{"ipvs", Settings{MinSync: 0}, "ipvs: {minSyncPeriod: 1ns}"},
		{"nftables", Settings{MinSync: 5e9}, "nftables: {minSyncPeriod: 5s}"},
		{"userspace", Settings{MinSync: 0}, "iptables: {minSyncPeriod: 1ns}"},
	} {
		p := program{contestant: Contestant{Mode: c.mode}}
		got := string(p.configuration(c.settings))
		if c.want == "" && strings.Contains(got, "minSyncPeriod") || !strings.Contains(got, c.want) {
			t.Errorf("%s, %v:\n%s\nwant %q", c.mode, c.settings, got, c.want)
		}
	}
}

// The floor of a change writes what differs, and nothing else.
func TestDifference(t *testing.T) {
	was := ownChains{"KUBE-SVC-A": "-A KUBE-SVC-A -j KUBE-SEP-1\n", "KUBE-SEP-1": "-A KUBE-SEP-1 -j DNAT\n", "KUBE-SEP-2": "-A KUBE-SEP-2 -j DNAT\n"}
	now := ownChains{"KUBE-SVC-A": "-A KUBE-SVC-A -j KUBE-SEP-3\n", "KUBE-SEP-2": "-A KUBE-SEP-2 -j DNAT\n"}
	want := "*nat\n:KUBE-SVC-A - [0:0]\n:KUBE-SEP-1 - [0:0]\n-A KUBE-SVC-A -j KUBE-SEP-3\n-X KUBE-SEP-1\nCOMMIT\n"
	if got := difference(was, now); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if got := chainsOf("*nat\n:KUBE-SVC-A - [0:0]\n-A KUBE-SERVICES -j KUBE-SVC-A\n-A KUBE-SVC-A -j KUBE-SEP-1\n"); len(got) != 1 ||
		got["KUBE-SVC-A"] != "-A KUBE-SVC-A -j KUBE-SEP-1\n" {
		t.Errorf("the service's own chains: %v", got)
	}
}
