package ruleset

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/coreos/go-iptables/iptables"

	"switchyard/proxier"
)

// maxCopies bounds the search for copies of a jump; hundreds were seen on nodes
// where a broken check had inserted one at every sync.
const maxCopies = 10000

// Jump is a rule that leads from a chain to one of ours.
type Jump struct {
	Table, From, To string
	Match           []string // like -m conntrack --ctstate NEW; one argument each
	Comment         string   // at most 255 bytes; "" for none
	Append          bool     // at the chain's end instead of its top
}

// spec is the rule as arguments. The order is that of upstream's rules, which the
// programs print back, so that a rule of either kube-proxy is recognised.
func (j Jump) spec() []string {
	spec := append([]string{}, j.Match...)
	if j.Comment != "" {
		spec = append(spec, "-m", "comment", "--comment", j.Comment)
	}
	return append(spec, "-j", j.To)
}

func (j Jump) String() string { return fmt.Sprintf("%s %s -> %s", j.Table, j.From, j.To) }

// ruleTool runs the program for one rule or chain at a time.
type ruleTool = iptables.IPTables

// openIPTables reads the version of the program at path.
func openIPTables(path string, family proxier.Family) (*ruleTool, error) {
	proto := iptables.ProtocolIPv4
	if family == proxier.IPv6 {
		proto = iptables.ProtocolIPv6
	}
	ipt, err := iptables.New(iptables.IPFamily(proto), iptables.Path(path), iptables.Timeout(5))
	if err != nil {
		return nil, fmt.Errorf("read the version of %s: %w", path, err)
	}
	return ipt, nil
}

// EnsureJump adds the jump at the top of the chain (Append: at its end) unless the
// chain has it at any place. Both chains must exist. It costs one program run, two
// if the jump was missing; the legacy programs read the whole table in each.
func (t *Tool) EnsureJump(j Jump) (added bool, err error) {
	t.execs.Add(1)
	exists, err := t.ipt.Exists(j.Table, j.From, j.spec()...)
	if err != nil {
		return false, fmt.Errorf("look for jump %s: %w", j, t.ruleError(j.Table, err))
	}
	if exists {
		return false, nil
	}
	if err := t.addJump(j); err != nil {
		return false, fmt.Errorf("add jump %s: %w", j, err)
	}
	return true, nil
}

// addJump runs the program itself: that of the library would outlive this process, wait
// on for the lock, and add the jump beside that of the next process.
func (t *Tool) addJump(j Jump) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*saveTimeout)
	defer cancel()
	where := "-I"
	if j.Append {
		where = "-A"
	}
	args := append([]string{"-w", lockSeconds, "-t", j.Table, where, j.From}, j.spec()...)
	r := t.execute(ctx, program{path: t.bin.iptables, args: args})
	if r.err == nil {
		return nil
	}
	text := strings.Join(args, " ")
	return t.refusal(ctx, t.bin.iptables, r, &RestoreError{Table: j.Table, Text: text[:min(len(text), maxText)], Stderr: r.stderr})
}

// RemoveJump deletes every copy of the jump. A chain or rule that does not exist is
// no error.
func (t *Tool) RemoveJump(j Jump) (removed bool, err error) {
	for range maxCopies {
		t.execs.Add(1)
		err := t.ipt.Delete(j.Table, j.From, j.spec()...)
		if isNotExist(err) {
			return removed, nil
		}
		if err != nil {
			return removed, fmt.Errorf("remove jump %s: %w", j, t.ruleError(j.Table, err))
		}
		removed = true
	}
	return removed, fmt.Errorf("remove jump %s: more than %d copies", j, maxCopies)
}

// EnsureChain creates the chain if it does not exist, and leaves it as it is if it does.
func (t *Tool) EnsureChain(table, chain string) error {
	t.execs.Add(1)
	err := t.ipt.NewChain(table, chain)
	if err != nil && !strings.Contains(err.Error(), "Chain already exists") {
		return fmt.Errorf("create chain %s %s: %w", table, chain, t.ruleError(table, err))
	}
	return nil
}

// DeleteChain empties and deletes the chain if it exists, in one transaction, and
// reports whether it did. It fails, and changes nothing, while another rule jumps to
// the chain.
func (t *Tool) DeleteChain(table, chain string) (deleted bool, err error) {
	t.execs.Add(1)
	exists, err := t.ipt.ChainExists(table, chain)
	if err != nil {
		return false, fmt.Errorf("look for chain %s %s: %w", table, chain, t.ruleError(table, err))
	}
	if !exists {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*saveTimeout)
	defer cancel()
	input := fmt.Sprintf("*%s\n:%s - [0:0]\n-X %s\nCOMMIT\n", table, chain, chain)
	if err := t.Restore(ctx, []byte(input)); err != nil {
		return false, fmt.Errorf("delete chain %s %s: %w", table, chain, err)
	}
	return true, nil
}

// ruleError turns the library's error into a *RestoreError, so that a held lock is
// told apart and its holder named here too. The library gives what the program said
// only as the end of its text: "running [args]: exit status 4: …".
func (t *Tool) ruleError(table string, err error) error {
	var e *iptables.Error
	if !errors.As(err, &e) {
		return err
	}
	args, said, _ := strings.Cut(err.Error(), fmt.Sprintf("]: exit status %d: ", e.ExitStatus()))
	_, args, _ = strings.Cut(args, t.bin.iptables+" ")
	return t.refusal(context.Background(), t.bin.iptables, outcome{err: e},
		&RestoreError{Table: table, Text: args[:min(len(args), maxText)], Stderr: said})
}

// isNotExist tells that a rule, its chain or its target is not there. A table that
// the kernel lacks holds no rule either.
func isNotExist(err error) bool {
	var e *iptables.Error
	return errors.As(err, &e) && e.IsNotExist()
}
