package ruleset

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"switchyard/proxier"
)

// The messages are those of iptables 1.8.9, word for word.
func TestExplainRestore(t *testing.T) {
	const (
		nft    = "iptables-nft-restore v1.8.9 (nf_tables): "
		legacy = "iptables-restore v1.8.9 (legacy): "
		try    = "Try `iptables-restore -h' or 'iptables-restore --help' for more information.\n"
	)
	// 1 *filter 2 :KUBE-F 3 rule 4 COMMIT 5 *nat 6 :KUBE-A 7,8,9 rules 10 COMMIT
	const input = "*filter\n:KUBE-F - [0:0]\n-A KUBE-F -j RETURN\nCOMMIT\n" +
		"*nat\n:KUBE-A - [0:0]\n-A KUBE-A -p tcp -j KUBE-B\n-A KUBE-A -j KUBE-C\n-A KUBE-A -g KUBE-D\nCOMMIT\n"
	for _, c := range []struct {
		name, stderr string
		status       int
		table        string
		lines        []int
		text         string
		temporary    bool
		whole        bool
	}{
		{"nft: unknown target chain, found by name", nft + "Chain 'KUBE-C' does not exist\nError occurred at line: 10\n" + try,
			2, "nat", []int{8}, "-A KUBE-A -j KUBE-C", false, false},
		{"nft: unknown goto chain", nft + "Chain 'KUBE-D' does not exist\nError occurred at line: 10\n" + try,
			2, "nat", []int{9}, "-A KUBE-A -g KUBE-D", false, false},
		{"nft: unknown chain that no line names", nft + "Chain 'KUBE-Z' does not exist\nError occurred at line: 10\n" + try,
			2, "nat", []int{10}, "COMMIT", false, true},
		{"legacy: unknown target chain", legacy + "Couldn't load target `KUBE-B':No such file or directory\n\nError occurred at line: 7\n" + try,
			2, "nat", []int{7}, "-A KUBE-A -p tcp -j KUBE-B", false, false},
		{"nft: rule for an unknown chain", "iptables-nft-restore: line 3 failed: No chain/target/match by that name.\n",
			1, "filter", []int{3}, "-A KUBE-F -j RETURN", false, false},
		{"legacy: rule for an unknown chain", "iptables-restore: line 3 failed\n",
			1, "filter", []int{3}, "-A KUBE-F -j RETURN", false, false},
		{"bad option", nft + "unknown option \"--dportt\"\nError occurred at line: 3\n" + try,
			2, "filter", []int{3}, "-A KUBE-F -j RETURN", false, false},
		{"not a rule", "Bad argument `hello'\nError occurred at line: 9\n" + try,
			2, "nat", []int{9}, "-A KUBE-A -g KUBE-D", false, false},
		{"unknown match", legacy + "Couldn't load match `nosuchmatch':No such file or directory\n\nError occurred at line: 8\n" + try,
			2, "nat", []int{8}, "-A KUBE-A -j KUBE-C", false, false},
		{"nft: refused by the kernel", nft + "\nline 7: RULE_APPEND failed (Invalid argument): rule in chain KUBE-A\n",
			4, "nat", []int{7}, "-A KUBE-A -p tcp -j KUBE-B", false, false},
		{"nft: several refused", nft + "\nline 9: RULE_APPEND failed (Too many links): rule in chain KUBE-A\nline 7: RULE_APPEND failed (Invalid argument): rule in chain KUBE-A\n",
			4, "nat", []int{7, 9}, "-A KUBE-A -p tcp -j KUBE-B", false, false},
		{"nft: chain in use", nft + "\nline 8: CHAIN_DEL failed (Device or resource busy): chain KUBE-B\n",
			4, "nat", []int{8}, "-A KUBE-A -j KUBE-C", false, false},
		{"nft: kernel out of memory", nft + "\nline 8: RULE_APPEND failed (Cannot allocate memory): rule in chain KUBE-A\n",
			4, "nat", []int{8}, "-A KUBE-A -j KUBE-C", true, false},
		{"legacy: refused by the kernel, which names no line", "iptables-restore: line 10 failed\n",
			1, "nat", []int{10}, "COMMIT", false, true},
		{"no COMMIT", "iptables-restore: COMMIT expected at line 11\n",
			1, "", []int{11}, "", false, false},
		{"unknown table", nft + "iptables-nft-restore: line 1 table name 'nosuch' invalid\nError occurred at line: 1\n" + try,
			2, "filter", []int{1}, "*filter", false, false},
		{"lock held", "Another app is currently holding the xtables lock. Stopped waiting after 5s.\n",
			4, "", nil, "", true, false},
		{"lock held, words of 1.6", "Another app is currently holding the xtables lock; still 4s 0us time ahead to have a chance to grab the lock...\nAnother app is currently holding the xtables lock. Stopped waiting after 5s.\n",
			4, "", nil, "", true, false},
		{"busy without words", "", 4, "", nil, "", true, false},
		{"no permission", nft + "Could not fetch rule set generation id: Permission denied (you must be root)\n",
			4, "", nil, "", false, false},
		{"a line beyond the input", "iptables-restore: line 99 failed\n", 1, "", []int{99}, "", false, false},
		{"a number beyond any input", "iptables-restore: line 99999999999999999999 failed\n", 1, "", nil, "", false, false},
		{"killed", "", -1, "", nil, "", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := explainRestore([]byte(input), c.stderr)
			e.Status, e.advice = c.status, advise(NFT, c.stderr)
			if e.Table != c.table || fmt.Sprint(e.Lines) != fmt.Sprint(c.lines) || e.Text != c.text {
				t.Errorf("table %q, lines %v, text %q", e.Table, e.Lines, e.Text)
			}
			if len(c.lines) > 0 && e.Line != c.lines[0] {
				t.Errorf("line %d", e.Line)
			}
			if e.Temporary() != c.temporary || e.WholeTable() != c.whole {
				t.Errorf("temporary %v, whole table %v", e.Temporary(), e.WholeTable())
			}
			if strings.ContainsAny(e.Error(), "\n") || strings.Contains(e.Error(), "Try `") {
				t.Errorf("not a line fit for a log: %q", e.Error())
			}
		})
	}
}

func TestErrorTextIsBounded(t *testing.T) {
	long := strings.Repeat("x", 5000)
	e := explainRestore([]byte("*nat\n-A "+long+"\nCOMMIT\n"), "Bad argument `"+long+"'\nError occurred at line: 2\n")
	if len(e.Text) != maxText || len(e.Error()) > 1000 {
		t.Errorf("text of %d bytes, error of %d", len(e.Text), len(e.Error()))
	}
}

// What the installed programs and this kernel really answer.
func TestRestoreRefusals(t *testing.T) {
	for _, c := range []struct {
		name, input string
		table, text string
		whole       bool // by the legacy flavour, which cannot tell the line then
	}{
		{"unknown target chain", "*nat\n:A - [0:0]\n-A A -j RETURN\n-A A -p tcp -j NOPE\nCOMMIT\n", "nat", "-A A -p tcp -j NOPE", false},
		{"rule for an unknown chain", "*nat\n-A NOPE -j RETURN\nCOMMIT\n", "nat", "-A NOPE -j RETURN", false},
		{"bad option", "*nat\n:A - [0:0]\n-A A -p tcp --dportt 80 -j RETURN\nCOMMIT\n", "nat", "-A A -p tcp --dportt 80 -j RETURN", false},
		{"bad port", "*nat\n:A - [0:0]\n-A A -p tcp --dport 99999 -j RETURN\nCOMMIT\n", "nat", "-A A -p tcp --dport 99999 -j RETURN", false},
		{"unknown match", "*nat\n:A - [0:0]\n-A A -m nosuchmatch -j RETURN\nCOMMIT\n", "nat", "-A A -m nosuchmatch -j RETURN", false},
		{"name of a chain too long", "*nat\n:KUBE-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA - [0:0]\nCOMMIT\n", "nat", ":KUBE-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA - [0:0]", false},
		{"DNAT outside of table nat", "*nat\nCOMMIT\n*filter\n:A - [0:0]\n-A A -j RETURN\n-A A -p tcp -j DNAT --to-destination :80\nCOMMIT\n",
			"filter", "-A A -p tcp -j DNAT --to-destination :80", true},
		{"recent with a name that is no file name", "*nat\n:A - [0:0]\n-A A -m recent --name a/b --rcheck -j RETURN\nCOMMIT\n",
			"nat", "-A A -m recent --name a/b --rcheck -j RETURN", true},
		{"chain in use deleted", "*nat\n:A - [0:0]\n:B - [0:0]\n-A A -j B\n-X B\nCOMMIT\n", "nat", "-X B", false},
		{"loop", "*nat\n:A - [0:0]\n-A OUTPUT -j A\n-A A -j A\nCOMMIT\n", "nat", "-A A -j A", true},
		{"no such table", "*nosuch\nCOMMIT\n", "nosuch", "*nosuch", false},
		{"rule outside of a table", "-A A -j RETURN\n", "", "-A A -j RETURN", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachTool(t, func(t *testing.T, tool *Tool) {
				err := tool.Restore(t.Context(), []byte(c.input))
				var e *RestoreError
				if !errors.As(err, &e) {
					t.Fatalf("%v is no RestoreError", err)
				}
				text, whole := c.text, c.whole && tool.Flavour() == Legacy
				if whole {
					text = "COMMIT"
				}
				if e.Table != c.table || e.Text != text || e.WholeTable() != whole || e.Temporary() {
					t.Errorf("table %q, line %d %q, whole %v, temporary %v\n%s", e.Table, e.Line, e.Text, e.WholeTable(), e.Temporary(), e.Stderr)
				}
			})
		})
	}
}

func TestRestoreAndSave(t *testing.T) {
	eachTool(t, func(t *testing.T, tool *Tool) {
		for _, c := range []struct{ input, want string }{
			{"*nat\n:KUBE-A - [0:0]\n-A KUBE-A -p tcp -m tcp --dport 80 -j RETURN\n:KUBE-B - [0:0]\nCOMMIT\n",
				"-A KUBE-A -p tcp -m tcp --dport 80 -j RETURN"},
			{"*nat\n-A KUBE-B -j KUBE-A\nCOMMIT\n", // what the input does not declare stays
				"-A KUBE-A -p tcp -m tcp --dport 80 -j RETURN\n-A KUBE-B -j KUBE-A"},
			{"*nat\n:KUBE-A - [0:0]\n-A KUBE-A -j RETURN\nCOMMIT\n", // what it declares is emptied
				"-A KUBE-A -j RETURN\n-A KUBE-B -j KUBE-A"},
			{"", "-A KUBE-A -j RETURN\n-A KUBE-B -j KUBE-A"},
		} {
			if err := tool.Restore(t.Context(), []byte(c.input)); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(rulesOf(t, tool, "nat"), "\n"); got != c.want {
				t.Errorf("rules:\n%s\nwant:\n%s", got, c.want)
			}
		}
		if _, err := tool.Save(t.Context(), "nosuch"); err == nil || !strings.Contains(err.Error(), "nosuch") {
			t.Errorf("save of a table that does not exist: %v", err)
		}
	})
}

// Every COMMIT stands alone: what is before the refused section is in.
func TestSectionsBeforeTheRefusedOneStay(t *testing.T) {
	eachTool(t, func(t *testing.T, tool *Tool) {
		err := tool.Restore(t.Context(), []byte("*nat\n:A - [0:0]\n-A A -j RETURN\nCOMMIT\n*filter\n:B - [0:0]\n-A B -j NOPE\nCOMMIT\n"))
		var e *RestoreError
		if !errors.As(err, &e) || e.Table != "filter" {
			t.Fatal(err)
		}
		if got := rulesOf(t, tool, "nat"); len(got) != 1 {
			t.Errorf("table nat has %q", got)
		}
	})
}

// holdLock takes the xtables lock as another program would, until release.
func holdLock(t *testing.T) (release func()) {
	t.Helper()
	lock, err := os.OpenFile(os.Getenv("XTABLES_LOCKFILE"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	release = func() { _ = lock.Close() }
	t.Cleanup(release)
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return release
}

func TestRestoreNamesTheHolderOfTheLock(t *testing.T) {
	tool := newTool(t, proxier.IPv4, Legacy)
	release := holdLock(t)
	input := []byte("*nat\n:A - [0:0]\nCOMMIT\n")
	start := time.Now()
	err := tool.Restore(t.Context(), input)
	var e *RestoreError
	if !errors.As(err, &e) || !e.Temporary() {
		t.Fatalf("want a temporary RestoreError: %v", err)
	}
	if waited := time.Since(start); waited < 4*time.Second || waited > 8*time.Second {
		t.Errorf("waited %v for the lock, want 5s", waited)
	}
	if want := fmt.Sprintf("held by pid %d (%s", os.Getpid(), os.Args[0]); !strings.Contains(err.Error(), want[:min(len(want), 100)]) {
		t.Errorf("%q does not say %q", err, want)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start = time.Now()
	if err := tool.Restore(ctx, input); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	if waited := time.Since(start); waited > 2*time.Second {
		t.Errorf("the deadline of 100ms ended the program after %v", waited)
	}

	release()
	if err := tool.Restore(t.Context(), input); err != nil {
		t.Errorf("with the lock free: %v", err)
	}
}

func TestFlockPID(t *testing.T) {
	const locks = "1: POSIX  ADVISORY  WRITE 11 fe:00:99 0 EOF\n" +
		"2: FLOCK  ADVISORY  WRITE 12 fe:00:98 0 EOF\n" +
		"2: -> FLOCK  ADVISORY  WRITE 13 fe:00:99 0 EOF\n" +
		"3: FLOCK  ADVISORY  READ 14 fe:00:99 0 EOF\n" +
		"4: FLOCK  ADVISORY  WRITE 15 fe:00:99 0 EOF\n"
	for id, want := range map[string]string{"fe:00:99": "15", "fe:00:98": "12", "00:19:99": "", "": ""} {
		if got := flockPID(locks, id); got != want {
			t.Errorf("%s: %q, want %q", id, got, want)
		}
	}
}
