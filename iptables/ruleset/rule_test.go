package ruleset

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"switchyard/proxier"
)

func v4(s string) netip.Prefix { return netip.MustParsePrefix(s) }

var (
	fullMark = Mark{Value: 1, Mask: 0xffffffff}
	masqMark = Mark{Value: 0x4000, Mask: 0x4000}
	to4      = netip.MustParseAddrPort("10.0.0.1:8080")
	to6      = netip.MustParseAddrPort("[fd00::1]:8080")
)

// printed is a rule and the text of it; every one is fit for the kernel.
type printed struct {
	name, table string
	family      proxier.Family
	rule        Rule
	text        string
}

var printedRules = slices.Concat(printedMatches, printedAddresses, printedTargets)

var printedMatches = []printed{
	{"comment of one word", "nat", 4, Rule{Comment: "ns_a-1"}, `-m comment --comment ns_a-1`},
	{"comment with a colon", "nat", 4, Rule{Comment: "ns/svc:p"}, `-m comment --comment "ns/svc:p"`},
	{"comment with a space", "nat", 4, Rule{Comment: "a b "}, `-m comment --comment "a b "`},
	{"comment with quotes", "nat", 4, Rule{Comment: `a"b\c'd`}, `-m comment --comment "a\"b\\c\'d"`},
	{"comment in UTF-8", "nat", 4, Rule{Comment: "größer→"}, `-m comment --comment "größer→"`},
	{"comment like an option", "nat", 4, Rule{Comment: "-m"}, `-m comment --comment -m`},
	{"comment of 255 bytes", "nat", 4, Rule{Comment: strings.Repeat("x", 255)}, `-m comment --comment ` + strings.Repeat("x", 255)},
	{"interface", "nat", 4, Rule{In: Interface{Name: "eth0"}}, `-i eth0`},
	{"interface, not", "nat", 4, Rule{In: Interface{Name: "eth0", Not: true}}, `! -i eth0`},
	{"interface prefix", "nat", 4, Rule{In: Interface{Name: "cali+"}}, `-i cali+`},
	{"interface prefix, not", "nat", 4, Rule{In: Interface{Name: "cali+", Not: true}}, `! -i cali+`},
	{"interface of 15 bytes", "nat", 4, Rule{In: Interface{Name: "abcdefghijklmno"}}, `-i abcdefghijklmno`},
	{"protocol", "nat", 4, Rule{Proto: proxier.TCP}, `-p tcp`},
	{"port of tcp", "nat", 4, Rule{Proto: proxier.TCP, Ports: Port(80)}, `-p tcp -m tcp --dport 80`},
	{"port of udp", "nat", 6, Rule{Proto: proxier.UDP, Ports: Port(65535)}, `-p udp -m udp --dport 65535`},
	{"port of sctp", "nat", 4, Rule{Proto: proxier.SCTP, Ports: Port(1)}, `-p sctp -m sctp --dport 1`},
	{"ports", "nat", 4, Rule{Proto: proxier.TCP, Ports: Ports{30000, 32767}}, `-p tcp -m tcp --dport 30000:32767`},
	{"ports of udp", "nat", 6, Rule{Proto: proxier.UDP, Ports: Ports{4096, 8191}}, `-p udp -m udp --dport 4096:8191`},
	{"ports of sctp", "nat", 4, Rule{Proto: proxier.SCTP, Ports: Ports{4096, 8191}}, `-p sctp -m sctp --dport 4096:8191`},
	{"ports from 0", "nat", 4, Rule{Proto: proxier.TCP, Ports: Ports{0, 4095}}, `-p tcp -m tcp --dport 0:4095`},
	{"ports to the last", "nat", 4, Rule{Proto: proxier.TCP, Ports: Ports{61440, 65535}}, `-p tcp -m tcp --dport 61440:65535`},
	{"source local", "nat", 4, Rule{SrcType: AddrType{Type: "LOCAL"}}, `-m addrtype --src-type LOCAL`},
	{"source not local", "nat", 6, Rule{SrcType: AddrType{Type: "LOCAL", Not: true}}, `-m addrtype ! --src-type LOCAL`},
	{"destination local", "nat", 4, Rule{DstType: AddrType{Type: "LOCAL"}}, `-m addrtype --dst-type LOCAL`},
	{"destination not local", "nat", 4, Rule{DstType: AddrType{Type: "LOCAL", Not: true}}, `-m addrtype ! --dst-type LOCAL`},
	{"both types", "nat", 4, Rule{SrcType: AddrType{Type: "LOCAL"}, DstType: AddrType{Type: "LOCAL", Not: true}},
		`-m addrtype --src-type LOCAL ! --dst-type LOCAL`},
	{"state", "filter", 4, Rule{CTState: States{List: "NEW"}}, `-m conntrack --ctstate NEW`},
	{"states", "filter", 4, Rule{CTState: States{List: "INVALID,NEW,RELATED,ESTABLISHED,UNTRACKED,SNAT,DNAT"}},
		`-m conntrack --ctstate INVALID,NEW,RELATED,ESTABLISHED,UNTRACKED,SNAT,DNAT`},
	{"states, not", "filter", 6, Rule{CTState: States{List: "RELATED,ESTABLISHED,DNAT", Not: true}},
		`-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT`},
	{"origin", "nat", 4, Rule{OrigDst: netip.MustParsePrefix("127.0.0.0/8")}, `-m conntrack --ctorigdst 127.0.0.0/8`},
	{"origin, IPv6", "nat", 6, Rule{OrigDst: netip.MustParsePrefix("fd00::/64")}, `-m conntrack --ctorigdst fd00::/64`},
	{"mark", "nat", 4, Rule{Mark: masqMark}, `-m mark --mark 0x4000/0x4000`},
	{"mark, not", "nat", 4, Rule{Mark: Mark{Value: 0x4000, Mask: 0x4000, Not: true}}, `-m mark ! --mark 0x4000/0x4000`},
	{"mark of zero", "nat", 6, Rule{Mark: Mark{Mask: 0x4000}}, `-m mark --mark 0x0/0x4000`},
	{"mark under the whole mask", "nat", 4, Rule{Mark: fullMark}, `-m mark --mark 0x1`},
	{"mark under the whole mask, not", "nat", 4, Rule{Mark: Mark{Value: 1, Mask: 0xffffffff, Not: true}}, `-m mark ! --mark 0x1`},
	{"to itself", "nat", 4, Rule{Itself: proxier.IPv4},
		`-m bpf --bytecode "6,32 0 0 12,7 0 0 0,32 0 0 16,29 0 1 0,6 0 0 4294967295,6 0 0 0"`},
	{"to itself, IPv6", "nat", 6, Rule{CTState: States{List: "DNAT"}, Itself: proxier.IPv6},
		`-m conntrack --ctstate DNAT -m bpf --bytecode "18,32 0 0 8,7 0 0 0,32 0 0 24,29 0 13 0,32 0 0 12,7 0 0 0,32 0 0 28,29 0 9 0,` +
			`32 0 0 16,7 0 0 0,32 0 0 32,29 0 5 0,32 0 0 20,7 0 0 0,32 0 0 36,29 0 1 0,6 0 0 4294967295,6 0 0 0"`},
	{"mark of the highest bit", "nat", 4, Rule{Mark: Mark{Value: 1 << 31, Mask: 1 << 31}}, `-m mark --mark 0x80000000/0x80000000`},
	{"remember the source", "nat", 4, Rule{Recent: Recent{Name: "KUBE-SEP-A", Set: true}},
		`-m recent --set --name KUBE-SEP-A --mask 255.255.255.255 --rsource`},
	{"source seen", "nat", 4, Rule{Recent: Recent{Name: "KUBE-SEP-A", Seconds: 10800}},
		`-m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-A --mask 255.255.255.255 --rsource`},
	{"remember the source, IPv6", "nat", 6, Rule{Recent: Recent{Name: "KUBE-SEP-A", Set: true, Six: true}},
		`-m recent --set --name KUBE-SEP-A --mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff --rsource`},
	{"source seen, IPv6", "nat", 6, Rule{Recent: Recent{Name: "KUBE-SEP-A", Seconds: 1, Six: true}},
		`-m recent --rcheck --seconds 1 --reap --name KUBE-SEP-A --mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff --rsource`},
	{"chance of a third", "nat", 4, Rule{Chance: OneOf(1, 3)}, `-m statistic --mode random --probability 0.33333333349`},
	{"chance of a half", "nat", 6, Rule{Chance: OneOf(1, 2)}, `-m statistic --mode random --probability 0.50000000000`},
	{"least chance", "nat", 4, Rule{Chance: 1}, `-m statistic --mode random --probability 0.00000000047`},
	{"greatest chance", "nat", 4, Rule{Chance: certain - 1}, `-m statistic --mode random --probability 0.99999999953`},
	{"certainty", "nat", 4, Rule{Chance: OneOf(7, 7)}, `-m statistic --mode random --probability 1.00000000000`},
}

var printedAddresses = []printed{
	{"source", "nat", 4, Rule{Src: NetOf(v4("10.1.2.3/8"))}, `-s 10.0.0.0/8`},
	{"source host", "nat", 4, Rule{Src: Host(netip.MustParseAddr("10.1.2.3"))}, `-s 10.1.2.3/32`},
	{"source, not", "nat", 4, Rule{Src: Except(v4("10.1.2.3/8"))}, `! -s 10.0.0.0/8`},
	{"destination", "nat", 4, Rule{Dst: NetOf(v4("0.0.0.0/1"))}, `-d 0.0.0.0/1`},
	{"destination, not", "nat", 4, Rule{Dst: Except(v4("127.0.0.0/8"))}, `! -d 127.0.0.0/8`},
	{"every source", "nat", 4, Rule{Src: NetOf(v4("0.0.0.0/0")), Proto: proxier.TCP}, `-p tcp`},
	{"every source, IPv6", "nat", 6, Rule{Src: NetOf(v4("::/0")), Proto: proxier.TCP}, `-p tcp`},
	{"source, IPv6", "nat", 6, Rule{Src: NetOf(v4("fd00::1:2:3/48"))}, `-s fd00::/48`},
	{"destination host, IPv6", "nat", 6, Rule{Dst: Host(netip.MustParseAddr("2001:db8:0:0:1:0:0:1"))}, `-d 2001:db8::1:0:0:1/128`},
	{"one group of zeros is kept", "nat", 6, Rule{Dst: Host(netip.MustParseAddr("1:0:2:3:4:5:6:7"))}, `-d 1:0:2:3:4:5:6:7/128`},
	{"loopback, IPv6", "nat", 6, Rule{Dst: Except(v4("::1/128"))}, `! -d ::1/128`},
	{"IPv4-mapped", "nat", 6, Rule{Src: NetOf(v4("::ffff:0:0/96"))}, `-s ::ffff:0.0.0.0/96`},
	{"IPv4-compatible", "nat", 6, Rule{Src: Host(netip.MustParseAddr("::102:304"))}, `-s ::1.2.3.4/128`},
	{"translate to IPv4-compatible", "nat", 6,
		Rule{Proto: proxier.TCP, Jump: "DNAT", To: netip.MustParseAddrPort("[::1.2.3.4]:80")},
		`-p tcp -j DNAT --to-destination [::1.2.3.4]:80`},
}

var printedTargets = []printed{
	{"no match, no target", "nat", 4, Rule{}, ``},
	{"jump", "nat", 4, Rule{Jump: "KUBE-MARK-MASQ"}, `-j KUBE-MARK-MASQ`},
	{"jump to the longest name", "nat", 4, Rule{Jump: strings.Repeat("L", MaxChainName)}, `-j ` + strings.Repeat("L", MaxChainName)},
	{"goto", "nat", 6, Rule{Jump: "KUBE-MARK-MASQ", Goto: true}, `-g KUBE-MARK-MASQ`},
	{"accept", "filter", 4, Rule{Jump: "ACCEPT"}, `-j ACCEPT`},
	{"return", "nat", 4, Rule{Jump: "RETURN"}, `-j RETURN`},
	{"drop", "filter", 6, Rule{Jump: "DROP"}, `-j DROP`},
	{"reject", "filter", 4, Rule{Jump: "REJECT", Reject: "icmp-port-unreachable"}, `-j REJECT --reject-with icmp-port-unreachable`},
	{"reject, IPv6", "filter", 6, Rule{Jump: "REJECT", Reject: "icmp6-port-unreachable"}, `-j REJECT --reject-with icmp6-port-unreachable`},
	{"reject with a reset", "filter", 4, Rule{Proto: proxier.TCP, Jump: "REJECT", Reject: "tcp-reset"}, `-p tcp -j REJECT --reject-with tcp-reset`},
	{"translate", "nat", 4, Rule{Proto: proxier.TCP, Jump: "DNAT", To: to4}, `-p tcp -j DNAT --to-destination 10.0.0.1:8080`},
	{"translate, IPv6", "nat", 6, Rule{Proto: proxier.UDP, Jump: "DNAT", To: to6}, `-p udp -j DNAT --to-destination [fd00::1]:8080`},
	{"set a mark", "nat", 4, Rule{Jump: "MARK", SetMark: masqMark}, `-j MARK --set-xmark 0x4000/0x4000`},
	{"flip a mark", "nat", 4, Rule{Jump: "MARK", SetMark: Mark{Value: 0x4000}}, `-j MARK --set-xmark 0x4000/0x0`},
	{"clear all marks", "nat", 6, Rule{Jump: "MARK", SetMark: Mark{Mask: 0xffffffff}}, `-j MARK --set-xmark 0x0/0xffffffff`},
	{"masquerade", "nat", 4, Rule{Jump: "MASQUERADE"}, `-j MASQUERADE`},
	{"masquerade, random", "nat", 6, Rule{Jump: "MASQUERADE", Random: true}, `-j MASQUERADE --random-fully`},
	{"all matches", "nat", 4, Rule{
		Src: Except(v4("10.0.0.0/8")), Dst: NetOf(v4("1.2.3.4/32")), In: Interface{Name: "eth+", Not: true},
		Proto: proxier.UDP, Comment: "ns/svc:p cluster IP", Ports: Port(53),
		SrcType: AddrType{Type: "LOCAL", Not: true}, DstType: AddrType{Type: "LOCAL"},
		CTState: States{List: "NEW"}, Mark: Mark{Mask: 0x4000}, Recent: Recent{Name: "R", Seconds: 9}, Chance: OneOf(1, 4),
		Jump: "KUBE-MARK-MASQ",
	}, `! -s 10.0.0.0/8 -d 1.2.3.4/32 ! -i eth+ -p udp -m comment --comment "ns/svc:p cluster IP" -m udp --dport 53 ` +
		`-m addrtype ! --src-type LOCAL --dst-type LOCAL -m conntrack --ctstate NEW -m mark --mark 0x0/0x4000 ` +
		`-m recent --rcheck --seconds 9 --reap --name R --mask 255.255.255.255 --rsource ` +
		`-m statistic --mode random --probability 0.25000000000 -j KUBE-MARK-MASQ`},
}

func TestRulePrints(t *testing.T) {
	for _, c := range printedRules {
		t.Run(c.name, func(t *testing.T) {
			if got := c.rule.String(); got != c.text {
				t.Errorf("prints as\n%s, want\n%s", got, c.text)
			}
			if got := ParseRule(c.text); got != c.rule {
				t.Errorf("reads as\n%+v, want\n%+v", got, c.rule)
			}
		})
	}
	if got := (Rule{Raw: "-j  LOG"}).String(); got != "-j  LOG" {
		t.Errorf("a raw rule prints as %q", got)
	}
}

// randomRule draws a rule that the kernel takes, and the table it fits into.
func randomRule(r *rand.Rand, family proxier.Family) (table string, rule Rule) {
	table = []string{"nat", "filter"}[r.IntN(2)]
	rule = Rule{
		Src: randomNet(r, family), Dst: randomNet(r, family), Comment: randomComment(r),
		Proto: []proxier.Protocol{0, proxier.TCP, proxier.UDP, proxier.SCTP}[r.IntN(4)],
	}
	is := func() bool { return r.IntN(3) == 0 }
	if is() {
		rule.In = Interface{[]string{"lo", "eth0", "veth+", "a.b-c_d@e"}[r.IntN(4)], is()}
	}
	if rule.Proto != 0 && is() {
		a, b := uint16(r.IntN(65535)), uint16(1+r.IntN(65535))
		rule.Ports = Ports{min(a, b), max(a, b)}
	}
	if is() {
		rule.SrcType = AddrType{"LOCAL", is()}
	}
	if is() {
		rule.DstType = AddrType{"LOCAL", is()}
	}
	if is() {
		rule.CTState = States{[]string{"NEW", "INVALID", "RELATED,ESTABLISHED", "ESTABLISHED,DNAT"}[r.IntN(4)], is()}
	}
	if is() {
		rule.Mark = Mark{r.Uint32(), []uint32{1 + r.Uint32()>>1, 1<<32 - 1}[r.IntN(2)], is()}
	}
	if is() {
		rule.Itself = family
	}
	if is() {
		rule.Recent = Recent{Name: "KUBE-SEP-A", Set: true, Six: family == proxier.IPv6}
		if is() {
			rule.Recent.Set, rule.Recent.Seconds = false, 1+uint32(r.IntN(86400))
		}
	}
	if is() {
		rule.Chance = 1 + Chance(r.Uint32N(certain))
	}
	randomTarget(r, family, &rule, table)
	return table, rule
}

func randomTarget(r *rand.Rand, family proxier.Family, rule *Rule, table string) {
	switch n := r.IntN(8); {
	case n == 0:
	case n == 1:
		rule.Jump, rule.Goto = "KUBE-MARK-MASQ", r.IntN(2) == 0
	case n == 2:
		rule.Jump = []string{"ACCEPT", "RETURN"}[r.IntN(2)]
	case n == 3:
		rule.Jump, rule.SetMark = "MARK", Mark{Value: r.Uint32(), Mask: r.Uint32()}
	case n <= 5 && table == "nat":
		rule.Jump, rule.Random = "MASQUERADE", r.IntN(2) == 0
	case table == "nat":
		rule.Proto = proxier.UDP
		rule.Jump, rule.To = "DNAT", netip.AddrPortFrom(randomAddr(r, family), uint16(1+r.IntN(65535)))
	case n <= 5:
		rule.Jump = "DROP"
	case family == proxier.IPv4:
		rule.Jump, rule.Reject = "REJECT", "icmp-port-unreachable"
	default:
		rule.Jump, rule.Reject = "REJECT", "icmp6-adm-prohibited"
	}
}

// randomAddr is seldom all zero bits, and often has runs of them.
func randomAddr(r *rand.Rand, family proxier.Family) netip.Addr {
	var raw [16]byte
	for i := range raw {
		if r.IntN(2) == 0 {
			raw[i] = byte(r.Uint32())
		}
	}
	if family == proxier.IPv4 {
		raw[3] |= 1
		return netip.AddrFrom4([4]byte(raw[:4]))
	}
	if r.IntN(3) == 0 {
		clear(raw[:12]) // IPv4-compatible
	}
	raw[15] |= 1
	return netip.AddrFrom16(raw)
}

func randomNet(r *rand.Rand, family proxier.Family) Net {
	a := randomAddr(r, family)
	switch r.IntN(4) {
	case 0:
		return NetOf(netip.PrefixFrom(a, r.IntN(family.Bits()+1)))
	case 1:
		return Except(netip.PrefixFrom(a, 1+r.IntN(family.Bits())))
	case 2:
		return Host(a)
	}
	return Net{}
}

func randomComment(r *rand.Rand) string {
	if r.IntN(2) == 0 {
		return ""
	}
	letters := []rune(`abc019_-/:;.,"'\ !$%[]{}()<>=?*~^|&#@+öß→`)
	text := []rune{'n'} // restore takes a word like -t for its own option
	for range r.IntN(60) {
		text = append(text, letters[r.IntN(len(letters))])
	}
	return string(text)
}

// restoreRules puts rules into chain KUBE-RULES of their table as they print.
func restoreRules(t *testing.T, tool *Tool, table string, rules []Rule) error {
	t.Helper()
	c := Chain{Name: "KUBE-RULES", Rules: rules}
	text := "*" + table + "\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-RULES - [0:0]\n:" + strings.Repeat("L", MaxChainName) + " - [0:0]\n"
	return tool.Restore(t.Context(), append(c.AppendTo([]byte(text)), "COMMIT\n"...))
}

// The truth of the dialect: what was restored comes back as the same value and the
// same text.
func TestRulesComeBackFromTheKernel(t *testing.T) {
	eachTool(t, func(t *testing.T, tool *Tool) {
		rules := map[string][]Rule{}
		for _, c := range printedRules {
			if c.family == tool.Family() {
				rules[c.table] = append(rules[c.table], c.rule)
			}
		}
		r := rand.New(rand.NewPCG(2, uint64(tool.Family())))
		for range 1000 {
			table, rule := randomRule(r, tool.Family())
			rules[table] = append(rules[table], rule)
		}
		sctp := Rule{Proto: proxier.SCTP, Ports: Port(80)}
		if err := restoreRules(t, tool, "nat", []Rule{sctp}); err != nil {
			t.Logf("left out: rules with SCTP ports, which this kernel refuses: %v", err)
			for table := range rules {
				rules[table] = slices.DeleteFunc(rules[table], func(r Rule) bool { return r.Proto == proxier.SCTP })
			}
		}
		for table, want := range rules {
			if err := restoreRules(t, tool, table, want); err != nil {
				t.Fatal(err)
			}
			save, err := tool.Save(t.Context(), table)
			if err != nil {
				t.Fatal(err)
			}
			compareRules(t, save, want)
		}
	})
}

func compareRules(t *testing.T, save []byte, want []Rule) {
	t.Helper()
	var lines []string
	for line := range strings.Lines(string(save)) {
		if strings.HasPrefix(line, "-A KUBE-RULES") {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	var got []Rule
	each := func(_ string, c Chain) { got = append(got, c.Rules...) }
	if err := Scan(save, func(_, chain string) bool { return chain == "KUBE-RULES" }, each); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) || len(lines) != len(want) {
		t.Fatalf("%d rules in %d lines came back, want %d", len(got), len(lines), len(want))
	}
	for i, r := range want {
		own := string((&Chain{Name: "KUBE-RULES", Rules: []Rule{r}}).AppendTo(nil))
		if lines[i]+"\n" != own {
			t.Errorf("save prints\n%q, we print\n%q", lines[i], own)
		}
		if got[i] != r {
			t.Errorf("%s came back as\n%+v, want\n%+v", lines[i], got[i], r)
		}
	}
}

// savedWithCounters is a dump with the counters of every rule.
func savedWithCounters(t *testing.T, tool *Tool, table string) []byte {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), tool.bin.save, "-c", "-t", table).Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestChances(t *testing.T) {
	for n := 1; n <= 1000; n++ {
		left := 1.0
		for i := range n {
			share := left * OneOf(1, n-i).Probability()
			left -= share
			if off := share - 1/float64(n); off > 1e-6 || off < -1e-6 {
				t.Fatalf("endpoint %d of %d has %v too much", i, n, off)
			}
		}
		if left != 0 {
			t.Fatalf("%d endpoints leave %v to nobody", n, left)
		}
	}
}

func TestSum(t *testing.T) {
	a, b := Rule{Jump: "A"}, Rule{Jump: "B"}
	h := NewHasher()
	base := h.Sum(&Chain{"X", []Rule{a, b}})
	if h.Sum(&Chain{"X", []Rule{a, b}}) != base {
		t.Error("equal chains have different sums")
	}
	if h.Sum(&Chain{"X", []Rule{ParseRule("-j A"), {Raw: "-j B"}}}) != base {
		t.Error("chains of equal text have different sums")
	}
	for name, c := range map[string]Chain{
		"order": {"X", []Rule{b, a}}, "fewer": {"X", []Rule{a}},
		"more": {"X", []Rule{a, b, {}}}, "none": {"X", nil}, "field": {"X", []Rule{a, {Jump: "B", Goto: true}}},
	} {
		if h.Sum(&c) == base {
			t.Errorf("%s: the sum does not tell the chains apart", name)
		}
	}
	if h.SumText([]byte("-A X -j A\n")) != h.Sum(&Chain{"X", []Rule{ParseRule("-j A")}}) {
		t.Error("the sum of a chain's text is another than the chain's")
	}
}

// TestSumOfLines takes lines that say the same, and lines that do not.
func TestSumOfLines(t *testing.T) {
	h := NewHasher()
	sum := func(spec string) uint64 { return h.SumText([]byte("-A X " + spec + "\n")) }
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{`-p tcp -m comment --comment "default/web:http" -j A`, `-m comment --comment "default/web:http" -p tcp -j A`, true},
		{`-m comment --comment web -j A`, `-m comment --comment "web" -j A`, true},
		{`-m comment --comment "say \"web\"" -j A`, `-j A -m comment --comment "say \"web\""`, true},
		{`! -s 10.0.0.0/8 -d 10.0.0.1/32 -j A`, `-d 10.0.0.1/32 ! -s 10.0.0.0/8 -j A`, true},
		{`-s 10.0.0.1/32 -d 10.0.0.2/32`, `-s 10.0.0.2/32 -d 10.0.0.1/32`, false},
		{`! -s 10.0.0.1/32 -d 10.0.0.2/32`, `-s 10.0.0.1/32 ! -d 10.0.0.2/32`, false},
		{`-m comment --comment "a -j B" -j A`, `-m comment --comment "a -j A" -j B`, false},
		{`-m comment --comment "a -j B" -j A`, `-m comment --comment a -j B -j A`, false},
		{`-m comment --comment "a \" -j B" -j A`, `-m comment --comment "a \"" -j B -j A`, false},
		{`-j A`, `-g A`, false},
		{``, `-j A`, false},
	} {
		if (sum(c.a) == sum(c.b)) != c.same {
			t.Errorf("alike %v, want %v:\n%s\n%s", !c.same, c.same, c.a, c.b)
		}
	}
}

// TestSumsOfADump are those of the chains that the dump is parsed to.
func TestSumsOfADump(t *testing.T) {
	var dump []byte
	for _, c := range benchChains()[:20] {
		c.Rules[7], c.Rules[8] = ParseRule("-m length --length 0:8 -j DROP"), Rule{}
		dump = c.AppendTo(dump)
	}
	dump = append(append([]byte("*nat\n:KUBE-EMPTY - [0:0]\n:KUBE-SVC-0000000000000001 - [0:0]\n"), dump...), "COMMIT\n"...)
	h, want, got := NewHasher(), map[string]Found{}, map[string]Found{}
	err := Scan(dump, nil, func(table string, c Chain) {
		want[c.Name] = Found{table, c.Name, h.Sum(&c), len(c.Rules)}
	})
	if err != nil {
		t.Fatal(err)
	}
	ours := func(_, chain string) bool { return !strings.HasSuffix(chain, "7") }
	others := 0
	err = h.Scan(dump, ours, func(string, string) bool { return true }, func(f Found) { got[f.Name] = f }, func(string, Chain) { others++ })
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(want, func(name string, _ Found) bool { return !ours("", name) })
	if len(got) != 19 || others != 2 || !maps.Equal(got, want) {
		t.Errorf("%d others; got\n%v\nwant\n%v", others, got, want)
	}
}

// benchChains are 1,000 chains of 100 rules as they occur in a cluster.
func benchChains() []Chain {
	r := rand.New(rand.NewPCG(1, 1))
	chains := make([]Chain, 1000)
	for i := range chains {
		chains[i].Name = fmt.Sprintf("KUBE-SVC-%016d", i)
		for range 100 {
			chains[i].Rules = append(chains[i].Rules, Rule{
				Dst: Host(randomAddr(r, proxier.IPv4)), Proto: proxier.TCP, Ports: Port(80),
				Comment: "namespace/service:http cluster IP", Chance: OneOf(1, 1+r.IntN(100)), Jump: "KUBE-SEP-NPX46M4PTMTKRN6Y",
			})
		}
	}
	return chains
}

func BenchmarkPrint(b *testing.B) {
	chains := benchChains()
	var buf []byte
	for b.Loop() {
		buf = buf[:0]
		for i := range chains {
			buf = chains[i].AppendTo(buf)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1e5, "ns/rule")
	b.SetBytes(int64(len(buf)))
}

func BenchmarkScan(b *testing.B) {
	text := []byte("*nat\n")
	for _, c := range benchChains() {
		text = c.AppendTo(text)
	}
	text = append(text, "COMMIT\n"...)
	rules := 0
	for b.Loop() {
		if err := Scan(text, nil, func(_ string, c Chain) { rules += len(c.Rules) }); err != nil {
			b.Fatal(err)
		}
	}
	if rules != b.N*1e5 {
		b.Fatalf("%d rules in %d rounds", rules, b.N)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1e5, "ns/rule")
	b.SetBytes(int64(len(text)))
}
