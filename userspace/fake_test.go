package userspace

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// fakeKernel is as much of iptables-restore --noflush as the backend uses: a declared
// chain is emptied or made, -A appends, -X deletes, each COMMIT takes effect alone and
// whole or not at all.
type fakeKernel struct {
	tables   map[string]map[string][]string
	refuse   func(table, line string) bool // nil: nothing
	nft      bool                          // a refusal names the lines, not the COMMIT
	restores int
	lost     map[string]bool // rules that were there once, and were missing after a COMMIT
}

func newFake() *fakeKernel {
	return &fakeKernel{lost: map[string]bool{}, tables: map[string]map[string][]string{
		"nat": {"PREROUTING": nil, "OUTPUT": nil}, "filter": {"INPUT": nil, "FORWARD": nil, "OUTPUT": nil}}}
}

func (k *fakeKernel) backend() *Backend {
	b := newBackend(k, proxier.Settings{MasqueradeBit: 14})
	b.relay = &fakeRelay{}
	return b
}

func (k *fakeKernel) Save(_ context.Context, table string) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "*%s\n", table)
	names := slices.Sorted(maps.Keys(k.tables[table]))
	for _, name := range names {
		fmt.Fprintf(&b, ":%s - [0:0]\n", name)
	}
	for _, name := range names {
		for _, r := range k.tables[table][name] {
			fmt.Fprintf(&b, "-A %s %s\n", name, r)
		}
	}
	b.WriteString("COMMIT\n")
	return b.Bytes(), nil
}

func (k *fakeKernel) Restore(_ context.Context, input []byte) error {
	k.restores++
	table, next := "", map[string][]string(nil)
	var bad []int
	for i, line := range strings.Split(strings.TrimSpace(string(input)), "\n") {
		word, rest, _ := strings.Cut(line, " ")
		name, rule, _ := strings.Cut(rest, " ")
		switch {
		case k.refuse != nil && k.refuse(table, line):
			bad = append(bad, i+1)
		case line[0] == '*':
			table, next, bad = line[1:], maps.Clone(k.tables[line[1:]]), nil
		case line[0] == ':':
			next[word[1:]] = nil
		case word == "-A":
			next[name] = append(next[name], rule)
		case word == "-X":
			delete(next, name)
		case line == "COMMIT" && len(bad) > 0:
			return k.refusal(table, bad, i+1)
		case line == "COMMIT":
			k.commit(table, next)
		}
	}
	return nil
}

// refusal is the error of the one flavour or the other.
func (k *fakeKernel) refusal(table string, bad []int, commit int) error {
	e := &ruleset.RestoreError{Table: table, Line: commit, Lines: []int{commit}, Text: "COMMIT", Status: 1}
	if k.nft {
		e.Line, e.Lines, e.Text = bad[0], bad, "a rule"
	}
	return e
}

func (k *fakeKernel) commit(table string, next map[string][]string) {
	rules := func(chains map[string][]string) map[string]bool {
		set := map[string]bool{}
		for _, list := range chains {
			for _, r := range list {
				set[r] = true
			}
		}
		return set
	}
	is := rules(next)
	for r := range rules(k.tables[table]) {
		k.lost[r] = k.lost[r] || !is[r]
	}
	k.tables[table] = next
}

func (k *fakeKernel) EnsureJump(j ruleset.Jump) (bool, error) {
	k.tables[j.Table][j.From] = append(k.tables[j.Table][j.From], "-j "+j.To)
	return true, nil
}

func (k *fakeKernel) Stamp() (s ruleset.Stamp, err error) { return s, nil }

// fakeRelay remembers the State that it was told last.
type fakeRelay struct{ knows *proxier.State }

func (r *fakeRelay) Add(s *proxier.State) []proxier.Note { r.knows = s; return nil }
func (*fakeRelay) Settle()                               {}
func (*fakeRelay) Traffic() []proxier.Traffic            { return nil }
func (*fakeRelay) Close(time.Duration) error             { return nil }
