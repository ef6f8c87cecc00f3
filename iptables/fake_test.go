package iptables

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// fakeKernel is a small iptables in memory. It executes the input of
// iptables-restore --noflush as the programs do: a declared chain is emptied or
// made, -A appends, -X deletes what nothing points at, and each COMMIT takes
// effect alone and whole, or not at all.
type fakeKernel struct {
	tables map[string]fakeTable
	nft    bool   // refusals name the lines at fault, not the COMMIT
	writes uint32 // transactions that took effect
	execs  int64

	refuse   func(line string) bool          // rules that the kernel does not take
	fault    func(commit int) error          // asked before every COMMIT (counted from 0) and, with -1, every other call
	onCommit func(table string, t fakeTable) // after a COMMIT took effect
	onPrints func()                          // after prints were read
	restores []string                        // every input
}

// fakeTable is the rules of each chain, in the form of iptables-save.
type fakeTable map[string][]string

var builtIn = map[string][]string{
	"nat":    {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"},
	"filter": {"INPUT", "FORWARD", "OUTPUT"},
}

// foreignDump is what others keep in the tables: the kubelet, Docker, an admin.
const foreignDump = `*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:CORP - [0:0]
:KUBE-FIREWALL - [0:0]
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -j KUBE-FIREWALL
-A FORWARD -j CORP
-A OUTPUT -j KUBE-FIREWALL
-A CORP -s 203.0.113.99/32 -j DROP
-A KUBE-FIREWALL -m comment --comment "kubernetes firewall for dropping marked packets" -m mark --mark 0x8000/0x8000 -j DROP
COMMIT
`

// newFake is a kernel that holds the rules of others.
func newFake(nft bool) *fakeKernel {
	k := emptyFake(nft)
	if err := k.Restore(context.Background(), []byte(foreignDump)); err != nil {
		panic(err)
	}
	return k
}

// emptyFake is a kernel without a rule.
func emptyFake(nft bool) *fakeKernel {
	k := &fakeKernel{nft: nft, tables: map[string]fakeTable{}}
	for table, chains := range builtIn {
		k.tables[table] = fakeTable{}
		for _, c := range chains {
			k.tables[table][c] = nil
		}
	}
	return k
}

func (k *fakeKernel) backend() *Backend {
	b := &Backend{kernel: k, config: testConfig, hasher: ruleset.NewHasher()}
	if k.nft {
		b.perCommit = nftCommit
	}
	return b
}

var testConfig = Config{MasqueradeBit: 14, RandomFully: true, Itself: proxier.IPv4}

func (k *fakeKernel) Execs() int64 { return k.execs }

// Stamp puts the count of writes where the nft flavour has its generation, the
// first field.
func (k *fakeKernel) Stamp() (s ruleset.Stamp, err error) {
	*(*uint32)(unsafe.Pointer(&s)) = k.writes
	return s, nil
}

// Prints hashes the text of chains.
func (k *fakeKernel) Prints(table string, chains []string) (map[string]uint64, error) {
	if !k.nft {
		return nil, errors.ErrUnsupported
	}
	if k.onPrints != nil {
		defer k.onPrints()
	}
	prints := map[string]uint64{}
	for _, name := range chains {
		if rules, ok := k.tables[table][name]; ok {
			prints[name] = printOf(rules...)
		}
	}
	return prints, nil
}

func (k *fakeKernel) RulePrints(table, chain string) (prints []uint64, err error) {
	if !k.nft {
		return nil, errors.ErrUnsupported
	}
	for _, rule := range k.tables[table][chain] {
		prints = append(prints, printOf(rule))
	}
	return prints, nil
}

func (k *fakeKernel) Packets(_ context.Context, table, chain string) ([]uint64, error) {
	counts := make([]uint64, len(k.tables[table][chain]))
	for i := range counts {
		counts[i] = uint64(i + 1)
	}
	return counts, nil
}

func (k *fakeKernel) Chains(table string) ([]string, error) {
	if !k.nft {
		return nil, errors.ErrUnsupported
	}
	return slices.Collect(maps.Keys(k.tables[table])), nil
}

func printOf(rules ...string) uint64 {
	h := fnv.New64a()
	for _, r := range rules {
		_, _ = h.Write([]byte(r + "\n"))
	}
	return h.Sum64()
}

func (k *fakeKernel) call() error {
	k.execs++
	if k.fault == nil {
		return nil
	}
	return k.fault(-1)
}

func (k *fakeKernel) Save(_ context.Context, table string) ([]byte, error) {
	if err := k.call(); err != nil {
		return nil, err
	}
	return []byte(k.dump(table)), nil
}

// dump is a table as iptables-save prints it: built-in chains first.
func (k *fakeKernel) dump(table string) string {
	var b, rules strings.Builder
	t := k.tables[table]
	names := slices.Clone(builtIn[table])
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	fmt.Fprintf(&b, "*%s\n", table)
	for _, name := range names {
		policy := "-"
		if slices.Contains(builtIn[table], name) {
			policy = "ACCEPT"
		}
		fmt.Fprintf(&b, ":%s %s [0:0]\n", name, policy)
		for _, r := range t[name] {
			fmt.Fprintf(&rules, "-A %s %s\n", name, r)
		}
	}
	return b.String() + rules.String() + "COMMIT\n"
}

func (k *fakeKernel) dumps() string { return k.dump("nat") + k.dump("filter") }

// Restore executes the input COMMIT by COMMIT.
func (k *fakeKernel) Restore(_ context.Context, input []byte) error {
	k.execs++
	k.restores = append(k.restores, string(input))
	lines := strings.Split(strings.TrimSuffix(string(input), "\n"), "\n")
	commits := 0
	for start := 0; start < len(lines); {
		end := start + slices.Index(lines[start:], "COMMIT")
		if end < start {
			return errors.New("fake: no COMMIT")
		}
		if k.fault != nil {
			if err := k.fault(commits); err != nil {
				return err
			}
		}
		s := section{fakeKernel: k, table: lines[start][1:], first: start + 1, lines: lines[start : end+1]}
		if err := s.run(); err != nil {
			return err
		}
		commits++
		start = end + 1
	}
	return nil
}

// section is one *table … COMMIT of an input.
type section struct {
	*fakeKernel
	table string
	first int // number of its first line
	lines []string
	next  fakeTable
}

func (s *section) run() error {
	s.next = maps.Clone(s.tables[s.table])
	if s.next == nil {
		return s.refusal("table does not exist", 0)
	}
	var bad []int
	for i, line := range s.lines {
		if s.fakeKernel.refuse != nil && s.fakeKernel.refuse(line) {
			bad = append(bad, i)
			continue
		}
		if why := s.line(line); why != "" {
			return s.refusal(why, i)
		}
	}
	if len(bad) > 0 {
		return s.refusal("RULE_APPEND failed (Invalid argument)", bad...)
	}
	if i, name := s.dangling(); name != "" {
		return s.refusal("Chain '"+name+"' does not exist", i)
	}
	s.tables[s.table] = s.next
	s.writes++
	if s.onCommit != nil {
		s.onCommit(s.table, s.next)
	}
	return nil
}

func (s *section) line(line string) (refused string) {
	word, rest, _ := strings.Cut(line, " ")
	name, rule, _ := strings.Cut(rest, " ")
	switch {
	case strings.HasPrefix(line, ":") && !slices.Contains(builtIn[s.table], word[1:]):
		if len(word)-1 > ruleset.MaxChainName {
			return "chain name too long"
		}
		s.next[word[1:]] = nil
	case word == "-A":
		if _, ok := s.next[name]; !ok {
			return "No chain/target/match by that name."
		}
		s.next[name] = append(slices.Clip(s.next[name]), rule)
	case word == "-X":
		if rules, ok := s.next[name]; !ok || len(rules) > 0 {
			return "CHAIN_DEL failed (Directory not empty)"
		}
		if s.next.pointedAt(name) {
			return "CHAIN_DEL failed (Device or resource busy)"
		}
		delete(s.next, name)
	}
	return ""
}

var targets = []string{"ACCEPT", "DROP", "RETURN", "REJECT", "DNAT", "MASQUERADE", "MARK"}

// jumpOf is the chain that a rule leads to, "" if none.
func jumpOf(rule string) string {
	_, to, ok := strings.Cut(rule, " -j ")
	if rest, only := strings.CutPrefix(rule, "-j "); only {
		to, ok = rest, true
	}
	to, _, _ = strings.Cut(to, " ")
	if !ok || slices.Contains(targets, to) {
		return ""
	}
	return to
}

func (t fakeTable) pointedAt(name string) bool {
	for _, rules := range t {
		for _, r := range rules {
			if jumpOf(r) == name {
				return true
			}
		}
	}
	return false
}

// dangling finds a rule that leads nowhere, and the line that wrote it.
func (s *section) dangling() (int, string) {
	for chain, rules := range s.next {
		for _, r := range rules {
			to := jumpOf(r)
			if _, ok := s.next[to]; to != "" && !ok {
				return max(0, slices.Index(s.lines, "-A "+chain+" "+r)), to
			}
		}
	}
	return 0, ""
}

// refusal is the error that the programs' words would make: the nft flavour names
// the lines, the legacy one the COMMIT.
func (s *section) refusal(why string, at ...int) error {
	e := &ruleset.RestoreError{Table: s.table, Status: 4}
	if !s.nft {
		e.Status, at = 1, []int{len(s.lines) - 1}
	}
	for _, i := range at {
		e.Lines = append(e.Lines, s.first+i)
		e.Stderr += fmt.Sprintf("line %d: %s\n", s.first+i, why)
	}
	e.Line, e.Text = e.Lines[0], s.lines[at[0]]
	return e
}

// lockHeld is what the programs answer while another one holds the lock.
func lockHeld() error {
	return &ruleset.RestoreError{Status: 4,
		Stderr: "Another app is currently holding the xtables lock. Stopped waiting after 5s.\n"}
}

func (k *fakeKernel) EnsureChain(table, chain string) error {
	if err := k.call(); err != nil {
		return err
	}
	if _, ok := k.tables[table][chain]; !ok {
		k.tables[table][chain] = nil
		k.writes++
	}
	return nil
}

func (k *fakeKernel) EnsureJump(j ruleset.Jump) (bool, error) {
	if err := k.call(); err != nil {
		return false, err
	}
	words := slices.Clone(j.Match)
	if j.Comment != "" {
		words = append(words, "-m", "comment", "--comment", `"`+j.Comment+`"`)
	}
	rule := ruleset.ParseRule(strings.Join(append(words, "-j", j.To), " ")).String()
	chain := k.tables[j.Table][j.From]
	if slices.Contains(chain, rule) {
		return false, nil
	}
	if _, ok := k.tables[j.Table][j.To]; jumpOf(rule) != "" && !ok {
		return false, fmt.Errorf("fake: jump %s: no such chain", j)
	}
	at := 0
	if j.Append {
		at = len(chain)
	}
	k.tables[j.Table][j.From] = slices.Insert(slices.Clone(chain), at, rule)
	k.writes++
	return true, nil
}

// traced are the kernel's tables as a packet meets them.
func (k *fakeKernel) traced(t testing.TB) ruleset.Tables {
	t.Helper()
	tables := ruleset.Tables{}
	if err := ruleset.Scan([]byte(k.dumps()), nil, tables.Add); err != nil {
		t.Fatal(err)
	}
	return tables
}

// mustApply applies a State that nothing stands against.
func mustApply(t testing.TB, b *Backend, want *proxier.State) proxier.Report {
	t.Helper()
	report, err := b.Apply(t.Context(), want)
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	return report
}

// The fake must refuse what the programs refuse; else the tests on it prove little.
func TestFakeKernelRefuses(t *testing.T) {
	for _, c := range []struct{ name, input string }{
		{"a jump to a chain that is not there", "*nat\n:A - [0:0]\n-A A -j B\nCOMMIT\n"},
		{"a rule for a chain that is not there", "*nat\n-A A -j RETURN\nCOMMIT\n"},
		{"deleting a chain that has rules", "*nat\n:A - [0:0]\n-A A -j RETURN\n-X A\nCOMMIT\n"},
		{"deleting a chain that is in use", "*nat\n:A - [0:0]\n:B - [0:0]\n-A A -j B\n-X B\nCOMMIT\n"},
		{"emptying a chain does not help who still jumps to it", "*nat\n:DOCKER - [0:0]\n-X DOCKER\nCOMMIT\n"},
		{"a long name", "*nat\n:A23456789012345678901234567890 - [0:0]\nCOMMIT\n"},
	} {
		k := newFake(true)
		before := k.dumps()
		err := k.Restore(t.Context(), []byte(c.input))
		var refusal *ruleset.RestoreError
		if !errors.As(err, &refusal) || refusal.Line == 0 {
			t.Errorf("%s: %v", c.name, err)
		}
		if k.dumps() != before {
			t.Errorf("%s: refused, but it changed the tables", c.name)
		}
	}
}
