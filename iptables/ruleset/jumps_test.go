package ruleset

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"switchyard/proxier"
)

func rulesOf(t *testing.T, tool *Tool, table string) []string {
	t.Helper()
	save, err := tool.Save(t.Context(), table)
	if err != nil {
		t.Fatal(err)
	}
	var rules []string
	for line := range strings.Lines(string(save)) {
		if strings.HasPrefix(line, "-A ") {
			rules = append(rules, strings.TrimSpace(line))
		}
	}
	return rules
}

func TestJumps(t *testing.T) {
	services := Jump{Table: "filter", From: "FORWARD", To: "KUBE-SERVICES", Comment: "kubernetes service portals",
		Match: []string{"-m", "conntrack", "--ctstate", "NEW"}}
	forward := Jump{Table: "filter", From: "FORWARD", To: "KUBE-FORWARD", Comment: "kubernetes forwarding rules"}
	last := Jump{Table: "filter", From: "FORWARD", To: "KUBE-LAST", Append: true}
	jumps := []Jump{services, forward, last}
	want := []string{
		`-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD`,
		`-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES`,
		`-A FORWARD -j ACCEPT`,
		`-A FORWARD -j KUBE-LAST`,
	}
	eachTool(t, func(t *testing.T, tool *Tool) {
		if err := tool.Restore(t.Context(), []byte("*filter\n-A FORWARD -j ACCEPT\nCOMMIT\n")); err != nil {
			t.Fatal(err)
		}
		for _, j := range jumps {
			for range 2 { // the second finds the chain there
				if err := tool.EnsureChain(j.Table, j.To); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, wantAdded := range []bool{true, false} {
			for _, j := range jumps {
				if added, err := tool.EnsureJump(j); err != nil || added != wantAdded {
					t.Fatalf("%s: added %v, %v; want %v", j, added, err, wantAdded)
				}
			}
			if got := rulesOf(t, tool, "filter"); strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Fatalf("rules:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		if _, err := tool.DeleteChain("filter", "KUBE-FORWARD"); err == nil {
			t.Error("deleted a chain that a rule jumps to")
		}
		// A second copy, as a racing program would leave.
		if err := tool.Restore(t.Context(), []byte("*filter\n"+want[1]+"\nCOMMIT\n")); err != nil {
			t.Fatal(err)
		}
		for _, wantRemoved := range []bool{true, false} {
			for _, j := range jumps {
				if removed, err := tool.RemoveJump(j); err != nil || removed != wantRemoved {
					t.Fatalf("%s: removed %v, %v; want %v", j, removed, err, wantRemoved)
				}
			}
		}
		for range 2 {
			for _, j := range jumps {
				if _, err := tool.DeleteChain(j.Table, j.To); err != nil {
					t.Fatal(err)
				}
				if removed, err := tool.RemoveJump(j); err != nil || removed { // its target is gone
					t.Fatalf("%s: removed %v, %v", j, removed, err)
				}
			}
		}
		save, err := tool.Save(t.Context(), "filter")
		if err != nil {
			t.Fatal(err)
		}
		if got := rulesOf(t, tool, "filter"); len(got) != 1 || strings.Contains(string(save), "KUBE-") {
			t.Errorf("left behind:\n%s", save)
		}
	})
}

func TestJumpToOrFromNothing(t *testing.T) {
	eachTool(t, func(t *testing.T, tool *Tool) {
		for _, j := range []Jump{
			{Table: "nat", From: "PREROUTING", To: "KUBE-NONE"},
			{Table: "nat", From: "NO-SUCH-CHAIN", To: "KUBE-NONE"},
		} {
			if added, err := tool.EnsureJump(j); err == nil || added || !strings.Contains(err.Error(), j.String()) {
				t.Errorf("ensure %s: added %v, %v", j, added, err)
			} else if strings.Contains(err.Error(), "\n") {
				t.Errorf("not a line fit for a log: %q", err)
			}
			if removed, err := tool.RemoveJump(j); err != nil || removed {
				t.Errorf("remove %s: removed %v, %v", j, removed, err)
			}
		}
		if err := tool.EnsureChain("nat", strings.Repeat("X", 40)); err == nil {
			t.Error("made a chain with a name of 40 bytes")
		}
	})
}

// A held lock looks the same from a jump, a restore and the start.
func TestJumpNamesTheHolderOfTheLock(t *testing.T) {
	tool := newTool(t, proxier.IPv4, Legacy)
	holdLock(t)
	j := Jump{Table: "nat", From: "PREROUTING", To: "ACCEPT"}
	_, ensure := tool.EnsureJump(j)
	_, find := Find(t.Context(), proxier.IPv4, Legacy)
	for name, err := range map[string]error{"ensure": ensure, "find": find} {
		var e *RestoreError
		if !errors.As(err, &e) || !e.Temporary() || !strings.HasPrefix(e.Holder, fmt.Sprintf("pid %d (", os.Getpid())) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDeleteChainEmptiesIt(t *testing.T) {
	tool := newTool(t, proxier.IPv4, NFT)
	if err := tool.Restore(t.Context(), []byte("*nat\n:MINE - [0:0]\n-A MINE -j RETURN\nCOMMIT\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := tool.DeleteChain("nat", "MINE"); err != nil {
		t.Fatal(err)
	}
	if save, err := tool.Save(t.Context(), "nat"); err != nil || strings.Contains(string(save), "MINE") {
		t.Errorf("%s, %v", save, err)
	}
}
