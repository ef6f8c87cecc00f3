package ruleset

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"switchyard/proxier"
)

// ScanError is a line of an iptables-save dump that is none, or the end of a dump
// that was cut off inside of a table: then Text is empty.
type ScanError struct {
	Line int // 1-based
	Text string
}

func (e *ScanError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("scan dump: it ends at line %d without the table's COMMIT", e.Line)
	}
	return fmt.Sprintf("scan dump: line %d: not in the form of iptables-save: %.200q", e.Line, e.Text)
}

// Scan reads a dump of iptables-save and calls each for every chain, in the
// order of the dump; chains without rules come at the end of their table. Only
// chains that want are parsed (nil: all). A chain whose rules stand in several
// places is reported once for each. Its rules are for the time of the call only.
func Scan(dump []byte, want func(table, chain string) bool, each func(table string, c Chain)) error {
	return (&scanner{how: func(table, chain string) reading {
		if want == nil || want(table, chain) {
			return parsed
		}
		return skipped
	}, each: each}).scan(dump)
}

// Found is a chain of a dump of which the Sum was asked for.
type Found struct {
	Table, Name string
	Sum         uint64
	Rules       int
}

// Scan is like the function Scan, but makes no rules of the chains that are ours: each
// of them is found with its Sum.
func (h *Hasher) Scan(dump []byte, ours, want func(table, chain string) bool, found func(Found), each func(table string, c Chain)) error {
	return (&scanner{hasher: h, how: func(table, chain string) reading {
		switch {
		case ours(table, chain):
			return summed
		case want(table, chain):
			return parsed
		}
		return skipped
	}, found: found, each: each}).scan(dump)
}

// reading is how a chain is read.
type reading int

const (
	skipped reading = iota
	parsed
	summed
)

type scanner struct {
	hasher *Hasher
	how    func(table, chain string) reading
	found  func(Found)
	each   func(table string, c Chain)

	table string          // "" between tables
	names []string        // declared and not skipped
	ruled map[string]bool // those with a rule
	chain Chain           // the one whose rules are read, if it is parsed
	sum   Found           // the same if it is summed
	way   reading         // how it is read
}

var errForm = errors.New("bad form")

func (s *scanner) scan(dump []byte) error {
	n := 0
	for len(dump) > 0 {
		n++
		line, rest, _ := bytes.Cut(dump, []byte("\n"))
		dump = rest
		if err := s.line(line); err != nil {
			return &ScanError{n, string(line)}
		}
	}
	if s.table != "" {
		return &ScanError{Line: n}
	}
	return nil
}

func (s *scanner) line(text []byte) error {
	switch {
	case len(text) == 0 || text[0] == '#':
		return nil
	case (s.table == "") != (text[0] == '*'):
		return errForm
	case text[0] == '*':
		s.table = string(text[1:])
		s.names, s.ruled = nil, map[string]bool{}
		if s.table == "" {
			return errForm
		}
		return nil
	case string(text) == "COMMIT":
		s.commit()
		return nil
	case text[0] == ':':
		name, _, ok := bytes.Cut(text[1:], []byte(" "))
		if !ok || len(name) == 0 {
			return errForm
		}
		if name := string(name); s.how(s.table, name) != skipped {
			s.names = append(s.names, name)
		}
		return nil
	}
	return s.rule(text)
}

func (s *scanner) commit() {
	s.flush()
	for _, name := range s.names {
		switch {
		case s.ruled[name]:
		case s.how(s.table, name) == summed:
			s.found(Found{Table: s.table, Name: name})
		default:
			s.each(s.table, Chain{Name: name})
		}
	}
	s.table = ""
}

func (s *scanner) rule(text []byte) error {
	if text[0] == '[' { // packet and byte counters
		_, after, ok := bytes.Cut(text, []byte("] "))
		if !ok {
			return errForm
		}
		text = after
	}
	spec, ok := bytes.CutPrefix(text, []byte("-A "))
	if !ok {
		return errForm
	}
	name, spec, _ := bytes.Cut(spec, []byte(" "))
	if len(name) == 0 {
		return errForm
	}
	if string(name) != s.chain.Name {
		s.flush()
		s.chain.Name = string(name)
		s.way = s.how(s.table, s.chain.Name)
	}
	switch s.way {
	case parsed:
		s.chain.Rules = append(s.chain.Rules, ParseRule(string(spec)))
	case summed:
		s.sum.Sum = follow(s.sum.Sum, s.hasher.rule(spec))
		s.sum.Rules++
	}
	return nil
}

// flush ends the chain whose rules were read.
func (s *scanner) flush() {
	if len(s.chain.Rules) > 0 {
		s.ruled[s.chain.Name] = true
		s.each(s.table, s.chain)
	}
	if s.sum.Rules > 0 {
		s.ruled[s.chain.Name] = true
		s.sum.Table, s.sum.Name = s.table, s.chain.Name
		s.found(s.sum)
	}
	s.chain, s.sum, s.way = Chain{Rules: s.chain.Rules[:0]}, Found{}, skipped
}

// ParseRule reads a rule in the form of iptables-save, without "-A chain". A rule
// that says anything outside the dialect comes back as Raw, word for word.
func ParseRule(spec string) Rule {
	words, err := split(spec, make([]string, 0, 24)) // most rules have fewer
	if err != nil {
		return Rule{Raw: spec}
	}
	p := parser{words: words}
	for len(p.words) > 0 && p.ok() {
		p.option()
	}
	if !p.ok() || !p.rule.says(spec, words) {
		return Rule{Raw: spec}
	}
	return p.rule
}

// says reports whether the rule prints as the line it was read from, but for the
// order of options: so nothing that a rule of others says can get lost.
func (r *Rule) says(spec string, words []string) bool {
	text := r.Append(nil)
	if string(text) == spec {
		return true
	}
	own, err := split(string(text), nil)
	if err != nil || len(own) != len(words) {
		return false
	}
	words = slices.Clone(words)
	slices.Sort(own)
	slices.Sort(words)
	return slices.Equal(own, words)
}

// split cuts a line into words and appends them; a quoted word may hold spaces and,
// behind a backslash, quotes. What has none of that is a part of the line, not a copy.
func split(line string, words []string) ([]string, error) {
	for line != "" {
		if line[0] == ' ' {
			line = line[1:]
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		if strings.Contains(word, `"`) {
			var err error
			if word, rest, err = unquote(line); err != nil {
				return nil, err
			}
		}
		words, line = append(words, word), rest
	}
	return words, nil
}

// unquote reads the word that a line begins with.
func unquote(line string) (word, rest string, err error) {
	var text []byte
	quoted := false
	for i := 0; i < len(line); i++ {
		switch ch := line[i]; {
		case ch == '\\' && quoted && i+1 < len(line):
			i++
			text = append(text, line[i])
		case ch == '"':
			quoted = !quoted
		case ch == ' ' && !quoted:
			return string(text), line[i:], nil
		default:
			text = append(text, ch)
		}
	}
	if quoted {
		return "", "", errForm
	}
	return string(text), "", nil
}

// parser reads options one by one; the first that it does not know fails it.
type parser struct {
	words []string
	rule  Rule
	not   bool
	bad   bool
}

func (p *parser) ok() bool { return !p.bad }

func (p *parser) fail() { p.bad = true }

func (p *parser) next() string {
	if len(p.words) == 0 {
		p.fail()
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

func (p *parser) takeNot() bool {
	not := p.not
	p.not = false
	return not
}

func (p *parser) option() {
	name := p.next()
	if name == "!" {
		p.not = true
		name = p.next()
	}
	known := p.address(name) || p.match(name) || p.target(name)
	if !known || p.not {
		p.fail()
	}
}

func (p *parser) address(name string) bool {
	r := &p.rule
	switch name {
	case "-s":
		r.Src = p.net()
	case "-d":
		r.Dst = p.net()
	case "-i":
		r.In = Interface{Name: p.next(), Not: p.takeNot()}
	case "-p":
		r.Proto = p.protocol()
	default:
		return false
	}
	return true
}

func (p *parser) net() Net {
	prefix, err := netip.ParsePrefix(p.next())
	if err != nil || prefix != prefix.Masked() {
		p.fail()
	}
	return Net{Prefix: prefix, Not: p.takeNot()}
}

func (p *parser) protocol() proxier.Protocol {
	word := p.next()
	for _, proto := range []proxier.Protocol{proxier.TCP, proxier.UDP, proxier.SCTP} {
		if proto.Lower() == word {
			return proto
		}
	}
	p.fail()
	return 0
}

func (p *parser) match(name string) bool {
	r := &p.rule
	switch name {
	case "-m":
		p.module(p.next())
	case "--comment":
		r.Comment = p.next()
	case "--match-set":
		r.Set = SetMatch{Name: p.next(), Fields: p.next(), Not: p.takeNot()}
	case "--dport":
		r.Ports = p.ports()
	case "--src-type":
		r.SrcType = p.addrType()
	case "--dst-type":
		r.DstType = p.addrType()
	case "--ctstate":
		r.CTState = States{p.next(), p.takeNot()}
	case "--ctorigdst":
		origin := p.net()
		r.OrigDst = origin.Prefix
		if origin.Not {
			p.fail()
		}
	case "--mark":
		r.Mark = p.mark()
		r.Mark.Not = p.takeNot()
	case "--bytecode":
		r.Itself = p.bytecode()
	case "--mode":
		p.expect("random")
	case "--probability":
		r.Chance = p.chance()
	default:
		return p.recent(name)
	}
	return true
}

// module accepts the match modules of the dialect; tcp, udp and sctp must be the
// rule's protocol.
func (p *parser) module(name string) {
	switch name {
	case "comment", "set", "addrtype", "conntrack", "mark", "bpf", "recent", "statistic":
	case p.rule.Proto.Lower():
	default:
		p.fail()
	}
}

// bytecode accepts the programs of the dialect.
func (p *parser) bytecode() proxier.Family {
	code := p.next()
	for family, own := range itself {
		if code == own {
			return family
		}
	}
	p.fail()
	return 0
}

func (p *parser) addrType() AddrType {
	p.expect("LOCAL")
	return AddrType{"LOCAL", p.takeNot()}
}

func (p *parser) expect(word string) {
	if p.next() != word {
		p.fail()
	}
}

func (p *parser) recent(name string) bool {
	r := &p.rule.Recent
	switch name {
	case "--set":
		r.Set = true
	case "--rcheck", "--reap", "--rsource":
	case "--seconds":
		r.Seconds = uint32(p.number(10))
	case "--name":
		r.Name = p.next()
	case "--mask":
		word := p.next()
		r.Six = strings.Contains(word, ":")
		if word != r.mask() {
			p.fail()
		}
	default:
		return false
	}
	return true
}

func (p *parser) target(name string) bool {
	r := &p.rule
	switch name {
	case "-j":
		r.Jump = p.next()
	case "-g":
		r.Jump, r.Goto = p.next(), true
	case "--reject-with":
		r.Reject = p.next()
	case "--to-destination":
		to, err := netip.ParseAddrPort(p.next())
		if err != nil {
			p.fail()
		}
		r.To = to
	case "--set-xmark":
		r.SetMark = p.mark()
	case "--random-fully":
		r.Random = true
	case "--to":
		to := p.net()
		r.Map = to.Prefix
	default:
		return false
	}
	return true
}

func (p *parser) number(base int) uint64 {
	n, err := strconv.ParseUint(p.next(), base, 32)
	if err != nil {
		p.fail()
	}
	return n
}

func (p *parser) ports() Ports {
	from, to, isRange := strings.Cut(p.next(), ":")
	if !isRange {
		to = from
	}
	a, err1 := strconv.ParseUint(from, 10, 16)
	b, err2 := strconv.ParseUint(to, 10, 16)
	if err1 != nil || err2 != nil {
		p.fail()
	}
	return Ports{uint16(a), uint16(b)}
}

func (p *parser) mark() Mark {
	value, mask, ok := strings.Cut(p.next(), "/")
	if !ok {
		mask = "0xffffffff"
	}
	v, err1 := strconv.ParseUint(value, 0, 32)
	m, err2 := strconv.ParseUint(mask, 0, 32)
	if err1 != nil || err2 != nil {
		p.fail()
	}
	return Mark{Value: uint32(v), Mask: uint32(m)}
}

func (p *parser) chance() Chance {
	f, err := strconv.ParseFloat(p.next(), 64)
	if err != nil || f < 0 || f > 1 {
		p.fail()
		return 0
	}
	return Chance(f*certain + 0.5)
}
