package ruleset

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"switchyard/proxier"
)

func TestRandomRulesRoundTrip(t *testing.T) {
	for seed := range uint64(20_000) {
		family := []proxier.Family{proxier.IPv4, proxier.IPv6}[seed%2]
		_, r := randomRule(rand.New(rand.NewPCG(seed, 3)), family)
		if got := ParseRule(r.String()); got != r {
			t.Fatalf("seed %d: %s\nreads as %+v, want %+v", seed, r, got, r)
		}
	}
}

// Rules as others write them. A rule that says the same in another order is ours;
// all else is kept word for word.
func TestParseForeignRules(t *testing.T) {
	const raw = "" // in want: kept word for word
	for _, c := range []struct{ name, spec, want string }{
		{"protocol behind the addresses", `-d 10.96.0.1/32 -m comment --comment "a/b:c" -p tcp -m tcp --dport 443 -j KUBE-SVC-A`,
			`-d 10.96.0.1/32 -p tcp -m comment --comment "a/b:c" -m tcp --dport 443 -j KUBE-SVC-A`},
		{"as kube-proxy writes: module before protocol", `-m comment --comment "a/b:c cluster IP" -m tcp -p tcp -d 10.96.0.1 --dport 443 -j KUBE-SVC-A`, raw},
		{"address without a length", `-d 10.96.0.1 -j X`, raw},
		{"match before comment", `-m conntrack --ctstate NEW -m comment --comment "x y" -j KUBE-SERVICES`,
			`-m comment --comment "x y" -m conntrack --ctstate NEW -j KUBE-SERVICES`},
		{"recent with its name first", `-m recent --name S --rcheck --seconds 60 --reap --mask 255.255.255.255 --rsource -j S`,
			`-m recent --rcheck --seconds 60 --reap --name S --mask 255.255.255.255 --rsource -j S`},
		{"recent without mask", `-m recent --name S --set -j X`, raw},
		{"recent without reap", `-m recent --rcheck --seconds 60 --name S --mask 255.255.255.255 --rsource -j S`, raw},
		{"recent with hits", `-m recent --rcheck --seconds 60 --reap --hitcount 3 --name S --mask 255.255.255.255 --rsource -j S`, raw},
		{"recent of a network", `-m recent --set --name S --mask 255.255.255.0 --rsource -j S`, raw},
		{"recent of the destination", `-m recent --set --name S --mask 255.255.255.255 --rdest -j S`, raw},
		{"recent update", `-m recent --update --seconds 60 --name S --mask 255.255.255.255 --rsource`, raw},
		{"nfacct", `-m conntrack --ctstate INVALID -m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j DROP`, raw},
		{"limit", `-m limit --limit 5/min --limit-burst 10 -j LOG --log-prefix "dropped: " --log-level 7`, raw},
		{"set", `-m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT`, `-m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT`},
		{"set, not", `-m comment --comment c -m set ! --match-set KUBE-IPVS-IPS dst -m mark --mark 0x1 -j X`,
			`-m comment --comment c -m set ! --match-set KUBE-IPVS-IPS dst -m mark --mark 0x1 -j X`},
		{"two sets", `-m set --match-set A dst -m set --match-set B dst -j ACCEPT`, raw},
		{"set with counters", `-m set --match-set A dst --packets-gt 3 -j ACCEPT`, raw},
		{"mapped", `-s 10.0.0.0/8 -j NETMAP --to 240.0.0.0/4`, `-s 10.0.0.0/8 -j NETMAP --to 240.0.0.0/4`},
		{"mapped, IPv6", `-j NETMAP --to 100::/8`, `-j NETMAP --to 100::/8`},
		{"multiport", `-p tcp -m multiport --dports 80,443,8000:8010 -j ACCEPT`, raw},
		{"bytecode of others", `-m bpf --bytecode "1,6 0 0 4294967295" -j DROP`, raw},
		{"u32", `-m u32 --u32 "0x6&0xff=0x1&&0x4&0x1fff=0x0" -j DROP`, raw},
		{"string with quotes", `-m string --string "a \"b\"  c" --algo bm --to 65535 -j DROP`, raw},
		{"physdev", `-m physdev --physdev-in eth0 --physdev-is-bridged -j ACCEPT`, raw},
		{"output interface", `-o eth0 -j MASQUERADE`, raw},
		{"source port", `-p udp -m udp --sport 53 -j ACCEPT`, raw},
		{"ports of one protocol in another", `-p tcp -m udp --dport 53 -j ACCEPT`, raw},
		{"module without a match", `-p tcp -m tcp -j ACCEPT`, raw},
		{"not a protocol", `! -p tcp -j ACCEPT`, raw},
		{"other protocol", `-p icmp -m icmp --icmp-type 8 -j ACCEPT`, raw},
		{"protocol by number", `-p 4 -j ACCEPT`, raw},
		{"not a port", `-p tcp -m tcp ! --dport 80 -j ACCEPT`, raw},
		{"tcp flags", `-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu`, raw},
		{"mask with holes", `-s 10.0.0.1/255.0.255.255 -j DROP`, raw},
		{"host bits in a network", `-s 10.0.0.1/8 -j DROP`, raw},
		{"two comments", `-m comment --comment a -m comment --comment b -j X`, raw},
		{"one source twice", `-s 10.0.0.0/8 -s 10.0.0.0/8 -j X`, raw},
		{"empty comment", `-m comment --comment "" -j X`, raw},
		{"open quote", `-m comment --comment "abc`, raw},
		{"mark without a mask", `-m mark --mark 0x1 -j X`, `-m mark --mark 0x1 -j X`},
		{"any mark", `-m mark --mark 0x0/0x0 -j X`, raw},
		{"connmark", `-m connmark --mark 0x80/0x80 -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff`, raw},
		{"states beside a direction", `-m conntrack --ctstate NEW --ctdir ORIGINAL -j X`, raw},
		{"not an origin", `-m conntrack ! --ctorigdst 127.0.0.0/8 -j X`, raw},
		{"origin of one host", `-m conntrack --ctorigdst 127.0.0.1 -j X`, raw},
		{"old state match", `-m state --state NEW -j X`, raw},
		{"type of routing", `-m addrtype --dst-type UNICAST -j X`, raw},
		{"not a type of routing", `-m addrtype ! --dst-type BROADCAST,MULTICAST -j X`, raw},
		{"types in two matches", `-m addrtype --src-type LOCAL -m addrtype --dst-type LOCAL -j X`, raw},
		{"every nth", `-m statistic --mode nth --every 3 --packet 0 -j X`, raw},
		{"not a chance", `-m statistic --mode random ! --probability 0.50000000000 -j X`, raw},
		{"chance of no number", `-m statistic --mode random --probability nan -j X`, raw},
		{"chance in another precision", `-m statistic --mode random --probability 0.5 -j X`, raw},
		{"translate without port", `-p tcp -j DNAT --to-destination 10.0.0.1`, raw},
		{"translate to a range", `-p tcp -j DNAT --to-destination 10.0.0.1-10.0.0.9:80`, raw},
		{"translate at random", `-p tcp -j DNAT --to-destination 10.0.0.1:80 --random`, raw},
		{"translate for ever", `-p tcp -j DNAT --to-destination 10.0.0.1:80 --persistent`, raw},
		{"masquerade to ports", `-p tcp -j MASQUERADE --to-ports 1024-31000`, raw},
		{"source translation", `-j SNAT --to-source 10.0.0.1`, raw},
		{"save a mark", `-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff`, raw},
		{"two targets", `-j A -j B`, raw},
		{"jump and goto", `-j A -g A`, raw},
		{"option without a value", `-m comment --comment`, raw},
		{"not, and no more", `-s 10.0.0.0/8 !`, raw},
		{"not of what has none", `-m comment ! --comment x`, raw},
		{"spaces", `  -j   X `, `-j X`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ParseRule(c.spec)
			if c.want == raw {
				if got != (Rule{Raw: c.spec}) {
					t.Errorf("%s\nreads as %+v, want it word for word", c.spec, got)
				}
				return
			}
			if got.Raw != "" || got != ParseRule(c.want) || got.String() != c.want {
				t.Errorf("%s\nreads as %+v, which prints as\n%s, want\n%s", c.spec, got, got, c.want)
			}
		})
	}
}

func FuzzParseRule(f *testing.F) {
	for _, c := range printedRules {
		f.Add(c.text)
	}
	for _, spec := range []string{"", " ", `"`, `\`, `""`, `-m comment --comment "\"`, `! -s`, "-j \x00", "-s ::1%lo/128",
		`-m limit --limit 5/min -j LOG --log-prefix "a b"`, `-p tcp -m tcp --dport 80:`, `-g X --set`} {
		f.Add(spec)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		r := ParseRule(spec)
		text := r.String()
		if again := ParseRule(text); again != r {
			t.Errorf("%q reads as %+v; its print %q as %+v", spec, r, text, again)
		}
		if r.Raw != "" && r != (Rule{Raw: spec}) {
			t.Errorf("%q is kept as %+v", spec, r)
		}
		if r.Raw != "" || strings.ContainsAny(spec, `"\'`) {
			return
		}
		// Plain words: the rule prints all of them, whatever their order.
		split := func(s string) []string { return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' }) }
		said, says := split(spec), split(strings.ReplaceAll(text, `"`, ""))
		slices.Sort(said)
		slices.Sort(says)
		if !slices.Equal(said, says) {
			t.Errorf("%q reads as a rule that says %q", spec, text)
		}
	})
}

// scanText writes what Scan reports as lines "table chain: rule; rule".
func scanText(dump string, want func(table, chain string) bool) (string, error) {
	var b strings.Builder
	err := Scan([]byte(dump), want, func(table string, c Chain) {
		fmt.Fprintf(&b, "%s %s:", table, c.Name)
		for _, r := range c.Rules {
			fmt.Fprintf(&b, " %s;", r)
		}
		b.WriteByte('\n')
	})
	return b.String(), err
}

func TestScan(t *testing.T) {
	for _, c := range []struct{ name, dump, want string }{
		{"nothing", "", ""},
		{"comments and blank lines", "# Generated\n\n# Completed", ""},
		{"an empty table", "*nat\nCOMMIT\n", ""},
		{"rules in the order of the dump", "*nat\n:A - [0:0]\n:B - [0:0]\n-A A -j X\n-A A -j Y\n-A B -j Z\nCOMMIT\n",
			"nat A: -j X; -j Y;\nnat B: -j Z;\n"},
		{"no newline at the end", "*nat\n:A - [0:0]\n-A A -j X\nCOMMIT", "nat A: -j X;\n"},
		{"empty chains come last", "*nat\n:A - [0:0]\n:B ACCEPT [1:60]\n:C - [0:0]\n-A B -j X\nCOMMIT\n",
			"nat B: -j X;\nnat A:\nnat C:\n"},
		{"rules in another order than declarations", "*nat\n:A - [0:0]\n:B - [0:0]\n:C - [0:0]\n-A C -j X\n-A A -j Y\nCOMMIT\n",
			"nat C: -j X;\nnat A: -j Y;\nnat B:\n"},
		{"a chain in two places", "*nat\n:A - [0:0]\n:B - [0:0]\n-A A -j X\n-A B -j X\n-A A -j Y\nCOMMIT\n",
			"nat A: -j X;\nnat B: -j X;\nnat A: -j Y;\n"},
		{"a chain that is not declared", "*nat\n-A A -j X\nCOMMIT\n", "nat A: -j X;\n"},
		{"a rule without words", "*nat\n-A A\n-A A \nCOMMIT\n", "nat A: ; ;\n"},
		{"counters", "*nat\n:A ACCEPT [12:3456]\n[7:420] -A A -j X\n[0:0] -A A -m limit --limit 5/min -j Y\nCOMMIT\n",
			"nat A: -j X; -m limit --limit 5/min -j Y;\n"},
		{"chains of one name in several tables", "*nat\n:A - [0:0]\n-A A -j X\nCOMMIT\n# x\n*filter\n:A - [0:0]\n:B - [0:0]\n-A A -j Y\nCOMMIT\n",
			"nat A: -j X;\nfilter A: -j Y;\nfilter B:\n"},
		{"a table twice", "*nat\n:A - [0:0]\nCOMMIT\n*nat\n:B - [0:0]\n-A B -j X\nCOMMIT\n", "nat A:\nnat B: -j X;\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := scanText(c.dump, nil)
			if err != nil || got != c.want {
				t.Errorf("%v\n%swant\n%s", err, got, c.want)
			}
		})
	}
	some := func(table, chain string) bool { return table == "nat" && chain < "C" }
	got, err := scanText("*filter\n:A - [0:0]\n-A A -j X\nCOMMIT\n*nat\n:A - [0:0]\n:B - [0:0]\n:C - [0:0]\n-A B -j X\n-A C -j Y\nCOMMIT\n", some)
	if want := "nat B: -j X;\nnat A:\n"; err != nil || got != want {
		t.Errorf("of some chains: %v\n%swant\n%s", err, got, want)
	}
}

func TestScanRefuses(t *testing.T) {
	for _, c := range []struct {
		name, dump string
		line       int
		says       string
	}{
		{"words", "*nat\nhello\nCOMMIT\n", 2, `line 2`},
		{"a program's error", "iptables-save: Permission denied\n", 1, `Permission denied`},
		{"a rule outside of a table", "-A X -j Y\n", 1, `"-A X -j Y"`},
		{"a chain outside of a table", ":X - [0:0]\n", 1, `:X`},
		{"a commit outside of a table", "COMMIT\n", 1, `COMMIT`},
		{"a table in a table", "*nat\n*filter\nCOMMIT\n", 2, `*filter`},
		{"a table without a name", "*\nCOMMIT\n", 1, `"*"`},
		{"a chain without a policy", "*nat\n:X\nCOMMIT\n", 2, `:X`},
		{"a chain without a name", "*nat\n: - [0:0]\nCOMMIT\n", 2, `line 2`},
		{"a rule without a chain", "*nat\n-A \nCOMMIT\n", 2, `-A`},
		{"another command", "*nat\n-X A\nCOMMIT\n", 2, `-X A`},
		{"open counters", "*nat\n[0:0 -A X\nCOMMIT\n", 2, `[0:0`},
		{"cut off behind a line", "*nat\n:X - [0:0]\n-A X -j Y\n", 3, `ends at line 3`},
		{"cut off at once", "*nat", 1, `ends at line 1`},
		{"spaces at the line's start", "*nat\n -A X\nCOMMIT\n", 2, `line 2`},
		{"a long line is cut", "*nat\n" + strings.Repeat("é", 5000) + "\n", 2, `line 2`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := scanText(c.dump, nil)
			var e *ScanError
			if !errors.As(err, &e) || e.Line != c.line || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v; want line %d and %q", err, c.line, c.says)
			}
			if len(err.Error()) > 1000 || strings.Contains(err.Error(), "\n") {
				t.Errorf("not fit for a log: %d bytes: %s", len(err.Error()), err)
			}
		})
	}
}

func FuzzScan(f *testing.F) {
	for _, seed := range []string{
		"*nat\n:A - [0:0]\n:B ACCEPT [1:60]\n-A B -j A\n[1:2] -A A -p tcp -m tcp --dport 80 -j X\nCOMMIT\n",
		"# x\n*filter\nCOMMIT\n*nat\n-A A\n-A B\n-A A -j DROP\nCOMMIT", "*nat\r\nCOMMIT\r\n", "*\n", "COMMIT", "\x00\n[", "*nat\n:", "*nat\n-A A \"",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, dump []byte) {
		before := bytes.Clone(dump)
		rules := 0
		err := Scan(dump, nil, func(table string, c Chain) {
			if table == "" || c.Name == "" {
				t.Errorf("reports chain %q of table %q", c.Name, table)
			}
			rules += len(c.Rules)
		})
		if !bytes.Equal(dump, before) {
			t.Error("wrote on its input")
		}
		lines := bytes.Count(dump, []byte("\n")) + 1
		var e *ScanError
		if err != nil && (!errors.As(err, &e) || e.Line < 1 || e.Line > lines) {
			t.Errorf("not a ScanError with a line of %d: %#v", lines, err)
		}
		if err != nil {
			return
		}
		want := 0
		for line := range bytes.SplitSeq(dump, []byte("\n")) {
			if bytes.HasPrefix(line, []byte("-A ")) || bytes.HasPrefix(line, []byte("[")) {
				want++
			}
		}
		if rules != want {
			t.Errorf("%d rules of %d lines", rules, want)
		}
	})
}

// A dump with counters says the same, rules of others in it included.
func TestScanReadsDumpsOfTheKernel(t *testing.T) {
	const input = "*filter\n:ZZ - [0:0]\n:EMPTY - [0:0]\n:AA - [0:0]\n" +
		"-A ZZ -m limit --limit 5/min -j RETURN\n-A ZZ -p tcp -m multiport --dports 80,443 -j AA\n" +
		"-A AA -m comment --comment \"a \\\"b\\\" c\" -j RETURN\n-A AA\n-A INPUT -j ZZ\nCOMMIT\n"
	want := map[string]string{
		"ZZ":    "-m limit --limit 5/min -j RETURN; -p tcp -m multiport --dports 80,443 -j AA;",
		"AA":    `-m comment --comment "a \"b\" c" -j RETURN; ;`,
		"INPUT": "-j ZZ;", "EMPTY": "", "FORWARD": "", "OUTPUT": "",
	}
	eachTool(t, func(t *testing.T, tool *Tool) {
		if err := tool.Restore(t.Context(), []byte(input)); err != nil {
			t.Fatal(err)
		}
		plain, err := tool.Save(t.Context(), "filter")
		if err != nil {
			t.Fatal(err)
		}
		nat, err := tool.Save(t.Context(), "nat")
		if err != nil {
			t.Fatal(err)
		}
		counted := savedWithCounters(t, tool, "filter")
		if !bytes.Contains(counted, []byte("\n[0:0] -A ")) {
			t.Fatalf("no counters:\n%s", counted)
		}
		for _, dump := range []string{string(plain), string(counted), string(nat) + string(counted)} {
			text, err := scanText(dump, func(table, _ string) bool { return table == "filter" })
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for line := range strings.Lines(text) {
				name, rules, _ := strings.Cut(strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "filter "), ":")
				if _, twice := got[name]; twice {
					t.Errorf("chain %s is reported twice", name)
				}
				got[name] = strings.TrimPrefix(rules, " ")
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got\n%v, want\n%v, of\n%s", got, want, dump)
			}
		}
	})
}
