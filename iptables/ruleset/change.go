package ruleset

import (
	"slices"
	"strings"
)

// Change is what is to happen to one table: chains to write whole, and chains to
// delete once nothing points at them any more.
type Change struct {
	Table   string
	Writes  []Write
	Deletes []string
}

// Write is a chain's wanted content as text.
type Write struct {
	Name  string
	Text  []byte // lines "-A name …"
	Rules int
	Owner int // what the chain belongs to, in its maker's count; negative: nothing
}

// Input is the text for one run of iptables-restore --noflush.
type Input struct {
	Text    []byte
	Lines   int
	Rules   int
	Commits int
	owners  []span
}

// span says which owner the lines from first on belong to.
type span struct{ first, owner int }

// Print makes the input for changes, in their order. With perCommit > 0 no
// COMMIT holds many more rules than that: nothing that a later one writes is
// needed by an earlier one, if the changes come leaves first. perCommit 0: one
// COMMIT for each run of changes to the same table.
//
// Within a COMMIT chains stand in sorted order: the nft flavour finds them by
// walking a sorted list.
func Print(changes []Change, perCommit int) Input {
	var in Input
	size := 0
	for _, c := range changes {
		for _, w := range c.Writes {
			size += len(w.Text) + len(w.Name) + len(": - [0:0]\n")
		}
	}
	in.Text = make([]byte, 0, size+size/64)
	for len(changes) > 0 {
		table := changes[0].Table
		n := 1
		for n < len(changes) && changes[n].Table == table {
			n++
		}
		in.table(table, changes[:n], perCommit)
		changes = changes[n:]
	}
	return in
}

// table prints changes of one table in as few commits as their size allows.
func (in *Input) table(table string, changes []Change, perCommit int) {
	var writes []Write
	var deletes []string
	rules := 0
	for _, c := range changes {
		for _, w := range c.Writes {
			if perCommit > 0 && rules > 0 && rules+w.Rules > perCommit {
				in.commit(table, writes, nil)
				writes, rules = nil, 0
			}
			writes, rules = append(writes, w), rules+w.Rules
		}
		deletes = append(deletes, c.Deletes...)
	}
	in.commit(table, writes, deletes)
}

func (in *Input) commit(table string, writes []Write, deletes []string) {
	if len(writes)+len(deletes) == 0 {
		return
	}
	slices.SortFunc(writes, func(a, b Write) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(deletes)
	names := slices.Clone(deletes)
	for _, w := range writes {
		names = append(names, w.Name)
	}
	slices.Sort(names)
	in.line("*", table, -1)
	for _, name := range slices.Compact(names) {
		in.line(":", name+" - [0:0]", -1)
	}
	for _, w := range writes {
		in.own(w.Owner)
		in.Text = append(in.Text, w.Text...)
		in.Lines += w.Rules
		in.Rules += w.Rules
	}
	for _, name := range deletes {
		in.line("-X ", name, -1)
	}
	in.line("COMMIT", "", -1)
	in.Commits++
}

func (in *Input) line(a, b string, owner int) {
	in.own(owner)
	in.Text = append(append(append(in.Text, a...), b...), '\n')
	in.Lines++
}

func (in *Input) own(owner int) {
	if n := len(in.owners); n > 0 && in.owners[n-1].first > in.Lines {
		in.owners = in.owners[:n-1] // it had no lines
	}
	if n := len(in.owners); n == 0 || in.owners[n-1].owner != owner {
		in.owners = append(in.owners, span{in.Lines + 1, owner})
	}
}

// Owner returns the owner of a line (1-based), negative if it has none.
func (in *Input) Owner(line int) int {
	i, found := slices.BinarySearchFunc(in.owners, line, func(s span, line int) int { return s.first - line })
	if !found {
		i--
	}
	if i < 0 || line > in.Lines {
		return -1
	}
	return in.owners[i].owner
}
