package ruleset

import (
	"bytes"
	"hash/maphash"
	"math/bits"
)

// Hasher hashes chains by what their rules say. Two Hashers give different hashes:
// they are compared within one process only.
//
// A rule's hash is the sum of those of its options, each taken with its values: the
// programs' versions print them in different orders, and need not agree on quotes. So
// a dump is hashed as it is, without making rules of its lines.
type Hasher struct {
	seed maphash.Seed
	buf  []byte // a chain's text
	bare []byte // an option without its quotes
}

// NewHasher makes a Hasher. It is not safe for concurrent use.
func NewHasher() *Hasher { return &Hasher{seed: maphash.MakeSeed()} }

// Sum is the hash of a chain's rules, in their order. Chains without rules are all
// alike.
func (h *Hasher) Sum(c *Chain) uint64 {
	h.buf = c.AppendTo(h.buf[:0])
	return h.SumText(h.buf)
}

// SumText is Sum of a chain that prints as these lines, "-A name …".
func (h *Hasher) SumText(text []byte) uint64 {
	var sum uint64
	for len(text) > 0 {
		line, rest, _ := bytes.Cut(text, []byte("\n"))
		_, spec, _ := bytes.Cut(line[min(len(line), len("-A ")):], []byte(" "))
		sum, text = follow(sum, h.rule(spec)), rest
	}
	return sum
}

// follow is the hash of a chain with one more rule.
func follow(sum, rule uint64) uint64 { return bits.RotateLeft64((sum+rule)*0x9e3779b97f4a7c15, 29) }

// rule is the hash of a rule, of a line behind "-A name ".
func (h *Hasher) rule(spec []byte) uint64 {
	sum := uint64(1) // a rule that says nothing is a rule
	for len(spec) > 0 {
		end, quoted := optionEnd(spec)
		option := spec[:end]
		if quoted {
			option = h.unquoted(option)
		}
		sum += maphash.Bytes(h.seed, option)
		spec = spec[min(len(spec), end+1):]
	}
	return sum
}

// optionEnd finds where the option ends that a line begins with: at the space before the
// next one. An option begins with "-", or with "! -".
func optionEnd(spec []byte) (end int, quoted bool) {
	open := false
	for i := 1; i < len(spec); i++ {
		switch spec[i] {
		case '"':
			open, quoted = !open, true
		case '\\':
			if open {
				i++
			}
		case '-', '!':
			if !open && spec[i-1] == ' ' && spec[max(0, i-2)] != '!' {
				return i - 1, quoted
			}
		}
	}
	return len(spec), quoted
}

// unquoted is an option without quotes, and without the backslashes in them.
func (h *Hasher) unquoted(option []byte) []byte {
	h.bare = h.bare[:0]
	open := false
	for i := 0; i < len(option); i++ {
		switch {
		case option[i] == '"':
			open = !open
			continue
		case option[i] == '\\' && open && i+1 < len(option):
			i++
		}
		h.bare = append(h.bare, option[i])
	}
	return h.bare
}
