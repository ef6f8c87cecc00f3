package ruleset

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// write is a chain of n rules "-A name -j Ti".
func write(name string, n, owner int) Write {
	w := Write{Name: name, Rules: n, Owner: owner}
	for i := range n {
		w.Text = fmt.Appendf(w.Text, "-A %s -j T%d\n", name, i)
	}
	return w
}

func TestPrint(t *testing.T) {
	for _, c := range []struct {
		name      string
		changes   []Change
		perCommit int
		want      string
		commits   int
	}{
		{"nothing", nil, 0, "", 0},
		{"a change of nothing", []Change{{Table: "nat"}}, 10, "", 0},
		{"chains are sorted", []Change{{Table: "nat", Writes: []Write{write("B", 1, 0), write("C", 2, 1), write("A", 1, 2)}}}, 0,
			"*nat\n:A - [0:0]\n:B - [0:0]\n:C - [0:0]\n-A A -j T0\n-A B -j T0\n-A C -j T0\n-A C -j T1\nCOMMIT\n", 1},
		{"an empty chain", []Change{{Table: "nat", Writes: []Write{write("A", 0, 0)}}}, 0, "*nat\n:A - [0:0]\nCOMMIT\n", 1},
		{"deletes: declared, so that they are empty and exist", []Change{{Table: "nat", Deletes: []string{"Z", "A"}}}, 5,
			"*nat\n:A - [0:0]\n:Z - [0:0]\n-X A\n-X Z\nCOMMIT\n", 1},
		{"deletes behind writes", []Change{{Table: "nat", Writes: []Write{write("B", 1, 0)}, Deletes: []string{"A"}}}, 0,
			"*nat\n:A - [0:0]\n:B - [0:0]\n-A B -j T0\n-X A\nCOMMIT\n", 1},
		{"commits in the order of the writes", []Change{{Table: "nat", Writes: []Write{write("B", 2, 0), write("A", 2, 0)}}}, 3,
			"*nat\n:B - [0:0]\n-A B -j T0\n-A B -j T1\nCOMMIT\n*nat\n:A - [0:0]\n-A A -j T0\n-A A -j T1\nCOMMIT\n", 2},
		{"deletes in the last commit of a table", []Change{
			{Table: "nat", Writes: []Write{write("A", 1, 0)}, Deletes: []string{"X"}}, {Table: "nat", Writes: []Write{write("B", 1, 0)}}}, 1,
			"*nat\n:A - [0:0]\n-A A -j T0\nCOMMIT\n*nat\n:B - [0:0]\n:X - [0:0]\n-A B -j T0\n-X X\nCOMMIT\n", 2},
		{"a chain larger than a commit stays whole", []Change{{Table: "nat", Writes: []Write{write("A", 3, 0), write("B", 0, 0)}}}, 2,
			"*nat\n:A - [0:0]\n-A A -j T0\n-A A -j T1\n-A A -j T2\nCOMMIT\n*nat\n:B - [0:0]\nCOMMIT\n", 2},
		{"a commit that is just full", []Change{{Table: "nat", Writes: []Write{write("A", 1, 0), write("B", 1, 0)}}}, 2,
			"*nat\n:A - [0:0]\n:B - [0:0]\n-A A -j T0\n-A B -j T0\nCOMMIT\n", 1},
		{"empty chains go with the next", []Change{{Table: "nat", Writes: []Write{write("A", 0, 0), write("B", 2, 0)}}}, 1,
			"*nat\n:A - [0:0]\n:B - [0:0]\n-A B -j T0\n-A B -j T1\nCOMMIT\n", 1},
		{"tables in the order of the changes", []Change{
			{Table: "nat", Writes: []Write{write("B", 1, 0)}}, {Table: "filter", Writes: []Write{write("A", 1, 0)}},
			{Table: "nat", Deletes: []string{"C"}}}, 0,
			"*nat\n:B - [0:0]\n-A B -j T0\nCOMMIT\n*filter\n:A - [0:0]\n-A A -j T0\nCOMMIT\n*nat\n:C - [0:0]\n-X C\nCOMMIT\n", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := Print(c.changes, c.perCommit)
			if string(in.Text) != c.want || in.Commits != c.commits {
				t.Errorf("%d commits:\n%swant %d:\n%s", in.Commits, in.Text, c.commits, c.want)
			}
		})
	}
}

func TestOwnersAroundEmptyChains(t *testing.T) {
	in := Print([]Change{{Table: "nat", Writes: []Write{write("A", 0, 1), write("B", 1, 2), write("C", 0, 3), write("D", 0, 4)}}}, 0)
	// 1 *nat, 2-5 declarations, 6 the rule of B, 7 COMMIT
	for line, want := range []int{-1, -1, -1, -1, -1, -1, 2, -1, -1} {
		if got := in.Owner(line); got != want {
			t.Errorf("line %d belongs to %d, want %d", line, got, want)
		}
	}
	if got := (&Input{}).Owner(1); got >= 0 {
		t.Errorf("the line of an empty input belongs to %d", got)
	}
}

// randomChanges draws changes of chains that all have different names.
func randomChanges(r *rand.Rand) (changes []Change, owners map[string]int) {
	owners = map[string]int{}
	for range r.IntN(6) {
		c := Change{Table: []string{"nat", "filter"}[r.IntN(2)]}
		for range r.IntN(8) {
			name := fmt.Sprintf("C%d-%d", r.IntN(100), len(owners))
			owners[name] = r.IntN(5) - 1
			c.Writes = append(c.Writes, write(name, r.IntN(4), owners[name]))
		}
		for range r.IntN(3) {
			name := fmt.Sprintf("D%d-%d", r.IntN(100), len(owners))
			owners[name] = -1
			c.Deletes = append(c.Deletes, name)
		}
		changes = append(changes, c)
	}
	return changes, owners
}

func TestRandomChanges(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 7))
		changes, owners := randomChanges(r)
		perCommit := r.IntN(8)
		in := Print(changes, perCommit)
		lines := strings.Split(strings.TrimSuffix(string(in.Text), "\n"), "\n")
		if len(in.Text) == 0 {
			lines = nil
		}
		if in.Lines != len(lines) {
			t.Fatalf("seed %d: %d lines, counted %d", seed, len(lines), in.Lines)
		}
		for i, line := range lines {
			want := -1
			if rule, ok := strings.CutPrefix(line, "-A "); ok {
				want = owners[strings.Fields(rule)[0]]
			}
			if got := in.Owner(i + 1); got != want {
				t.Fatalf("seed %d: line %d %q belongs to %d, want %d, in\n%s", seed, i+1, line, got, want, in.Text)
			}
		}
		if in.Owner(0) >= 0 || in.Owner(len(lines)+1) >= 0 {
			t.Fatalf("seed %d: lines outside of the input belong to somebody", seed)
		}
		checkCommits(t, changes, perCommit, in)
		if t.Failed() {
			t.Fatalf("seed %d, %d a commit:\n%s", seed, perCommit, in.Text)
		}
	}
}

// checkCommits checks the size and order of each COMMIT, and that everything is
// said once.
func checkCommits(t *testing.T, changes []Change, perCommit int, in Input) {
	t.Helper()
	var want, got []string
	for _, c := range changes {
		for _, w := range c.Writes {
			want = append(want, c.Table+" :"+w.Name)
			for line := range strings.Lines(string(w.Text)) {
				want = append(want, c.Table+" "+strings.TrimSpace(line))
			}
		}
		for _, d := range c.Deletes {
			want = append(want, c.Table+" :"+d, c.Table+" -X "+d)
		}
	}
	commits, rules := 0, 0
	for commit := range strings.SplitSeq(strings.TrimSuffix(string(in.Text), "COMMIT\n"), "COMMIT\n") {
		if commit == "" {
			continue
		}
		commits++
		lines := strings.Split(strings.TrimSpace(commit), "\n")
		var declared, ruled []string
		own := 0
		for _, line := range lines[1:] {
			name, declares := strings.CutPrefix(strings.TrimSuffix(line, " - [0:0]"), ":")
			switch {
			case declares:
				declared, line = append(declared, name), ":"+name
			case strings.HasPrefix(line, "-A "):
				ruled = append(ruled, strings.Fields(line)[1])
				own++
			}
			got = append(got, lines[0][1:]+" "+line)
		}
		if !slices.IsSorted(declared) || !slices.IsSorted(ruled) {
			t.Errorf("not sorted: %q, %q", declared, ruled)
		}
		if chains := slices.Compact(ruled); perCommit > 0 && own > perCommit && len(chains) > 1 {
			t.Errorf("%d rules of %d chains in a commit", own, len(chains))
		}
		rules += own
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("says %q, want %q", got, want)
	}
	if commits != in.Commits || rules != in.Rules {
		t.Errorf("%d commits, %d rules; counted %d, %d", commits, rules, in.Commits, in.Rules)
	}
}

// What a Change says is what stands in the kernel afterwards.
func TestChangesInTheKernel(t *testing.T) {
	eachTool(t, func(t *testing.T, tool *Tool) {
		text := func(c Chain) []byte { return c.AppendTo(nil) }
		leaf := Chain{"LEAF", []Rule{{Jump: "RETURN"}}}
		root := Chain{"A-ROOT", []Rule{{Jump: "LEAF"}, {Jump: "LEAF", Comment: "x y"}}}
		put := []Change{{Table: "nat", Writes: []Write{
			{Name: "LEAF", Text: text(leaf), Rules: 1}, {Name: "A-ROOT", Text: text(root), Rules: 2}, {Name: "EMPTY"}}}}
		take := []Change{{Table: "nat", Writes: []Write{{Name: "A-ROOT"}}, Deletes: []string{"LEAF", "NEVER-WAS"}}}
		for _, step := range []struct {
			changes []Change
			want    []string
		}{
			{put, []string{"-A A-ROOT -j LEAF", `-A A-ROOT -m comment --comment "x y" -j LEAF`, "-A LEAF -j RETURN"}},
			{take, nil},
		} {
			in := Print(step.changes, 1)
			if err := tool.Restore(t.Context(), in.Text); err != nil {
				t.Fatalf("%v\n%s", err, in.Text)
			}
			if got := rulesOf(t, tool, "nat"); !slices.Equal(got, step.want) {
				t.Errorf("rules %q, want %q", got, step.want)
			}
		}
		save, err := tool.Save(t.Context(), "nat")
		if err != nil || strings.Contains(string(save), "LEAF") || !strings.Contains(string(save), ":A-ROOT ") {
			t.Errorf("%v\n%s", err, save)
		}
	})
}
