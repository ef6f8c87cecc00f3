package ruleset

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"switchyard/proxier"
)

// tablesOf reads a ruleset; a first table without a name is nat.
func tablesOf(t *testing.T, text string) Tables {
	t.Helper()
	if !strings.HasPrefix(text, "*") {
		text = "*nat\n" + text
	}
	tables := Tables{}
	if err := Scan([]byte(strings.TrimRight(text, "\n")+"\nCOMMIT\n"), nil, tables.Add); err != nil {
		t.Fatal(err)
	}
	return tables
}

// The node of these tests has the address 192.0.2.1, beside loopback.
func isLocal(a netip.Addr) bool { return a.IsLoopback() || a == netip.MustParseAddr("192.0.2.1") }

// flow reads a packet: "tcp eth0 10.0.0.9 > 10.96.0.1:80"; "-" is the node's own.
func flow(t *testing.T, text string) proxier.Packet {
	t.Helper()
	var proto, in, src, dst string
	if _, err := fmt.Sscanf(text, "%s %s %s > %s", &proto, &in, &src, &dst); err != nil {
		t.Fatal(err)
	}
	p := proxier.Packet{Protocol: proxier.TCP, Src: netip.MustParseAddr(src), Dst: netip.MustParseAddrPort(dst), In: in}
	if proto == "udp" {
		p.Protocol = proxier.UDP
	}
	if in == "-" {
		p.In = ""
	}
	return p
}

// fates prints outcomes, sorted: "1/2 forward 10.0.0.1:80 masq".
func fates(out []Outcome) string {
	var all []string
	for _, o := range out {
		s := o.Verdict.String()
		if o.Probability != 1 {
			s = fmt.Sprintf("%.4g %s", o.Probability, s)
		}
		if o.To.IsValid() {
			s += " " + o.To.String()
		}
		if o.Masq {
			s += " masq"
		}
		if o.Remember != "" {
			s += " in " + o.Remember
		}
		all = append(all, s)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

const (
	client  = "tcp eth0 198.51.100.7 > 10.96.0.1:80" // from outside, to elsewhere
	to      = "-p tcp -j DNAT --to-destination "
	pre     = "-A PREROUTING "
	post    = "-A POSTROUTING "
	half    = "-m statistic --mode random --probability 0.50000000000 "
	seen    = "-m recent --rcheck --seconds 60 --reap --name L --mask 255.255.255.255 --rsource "
	enlist  = "-m recent --set --name L --mask 255.255.255.255 --rsource "
	mark    = "-j MARK --set-xmark 0x4000/0x4000\n"
	masq    = "-m mark --mark 0x4000/0x4000 -j MASQUERADE\n"
	dnat    = pre + to + "10.0.0.1:8080\n"
	forward = "forward 10.0.0.1:8080"
)

func checkTraces(t *testing.T, cases []traceCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := World{Local: isLocal}
			if c.seen {
				w.Recent = func(list string, src netip.Addr) bool { return list == "L" && src == flow(t, c.flow).Src }
			}
			if got := fates(tablesOf(t, c.rules).Trace(flow(t, c.flow), w)); got != c.want {
				t.Errorf("%s fares %q, want %q, in\n%s", c.flow, got, c.want, c.rules)
			}
		})
	}
}

type traceCase struct {
	name, rules, flow, want string
	seen                    bool // the source is in the xt_recent list L
}

func TestTraceTargets(t *testing.T) {
	checkTraces(t, []traceCase{
		{"no rules: accepted", "", client, "pass", false},
		{"translate", dnat, client, forward, false},
		{"the first translation wins", dnat + pre + to + "10.0.0.2:8080", client, forward, false},
		{"translate to IPv6", pre + to + "[fd00::1]:80", "tcp eth0 fd00::9 > [fd00::2]:80", "forward [fd00::1]:80", false},
		{"accept ends the table", pre + "-j ACCEPT\n" + dnat, client, "pass", false},
		{"accept from within ends the table", pre + "-j A\n" + dnat + "-A A -j ACCEPT", client, "pass", false},
		{"accept ends no other table", dnat + "COMMIT\n*filter\n-A FORWARD -j DROP\nCOMMIT\n*filter\n-A OUTPUT -j ACCEPT", client, "drop", false},
		{"return goes on behind the jump", pre + "-j A\n" + dnat + "-A A -j RETURN\n-A A -j ACCEPT", client, forward, false},
		{"the end of a chain goes on behind the jump", pre + "-j A\n" + dnat + "-A A -s 1.1.1.1/32 -j ACCEPT", client, forward, false},
		{"return from a base chain", pre + "-j RETURN\n" + dnat, client, "pass", false},
		{"goto comes back behind the jump before", pre + "-j A\n" + dnat + "-A A -g B\n-A A -j ACCEPT\n-A B -s 1.1.1.1/32 -j ACCEPT", client, forward, false},
		{"return behind a goto", pre + "-j A\n" + dnat + "-A A -g B\n-A A -j ACCEPT\n-A B -j RETURN\n-A B -j ACCEPT", client, forward, false},
		{"goto from a base chain ends it", pre + "-g A\n" + dnat + "-A A -s 1.1.1.1/32 -j ACCEPT", client, "pass", false},
		{"jump behind a goto comes back", pre + "-g A\n-A A -j B\n-A A " + to + "10.0.0.1:8080\n-A B -j RETURN", client, forward, false},
		{"a rule without a target only counts", pre + "-s 198.51.100.0/24\n" + dnat, client, forward, false},
		{"a chain that is not there", pre + "-j NONE\n" + dnat, client, forward, false},
		{"drop of what came to a network", dnat + "COMMIT\n*filter\n-A FORWARD -m conntrack --ctorigdst 10.96.0.0/16 -j DROP", client, "drop", false},
		{"no drop of what came to another", dnat + "COMMIT\n*filter\n-A FORWARD -m conntrack --ctorigdst 10.0.0.0/16 -j DROP", client, forward, false},
		{"drop", "*filter\n-A FORWARD -j DROP", client, "drop", false},
		{"reject", "*filter\n-A FORWARD -p tcp -j REJECT --reject-with icmp-port-unreachable", client, "reject", false},
		{"drop behind a translation", dnat + "COMMIT\n*filter\n-A FORWARD -d 10.0.0.1/32 -j DROP", client, "drop", false},
		{"masquerade", dnat + post + "-j MASQUERADE --random-fully", client, forward + " masq", false},
		{"masquerade what is not translated", post + "-j MASQUERADE", client, "pass masq", false},
		{"rules of others match nothing", pre + "-m limit --limit 5/min -j ACCEPT\n" + dnat, client, forward, false},
		{"two jumps to one chain are no loop", pre + "-j A\n" + pre + "-j A\n" + dnat + "-A A -s 1.1.1.1/32 -j A", client, forward, false},
	})
}

func TestTraceMatches(t *testing.T) {
	udp := strings.Replace(client, "tcp", "udp", 1)
	ways := func(match string) string { return pre + match + " -j ACCEPT\n" + dnat }
	hit, miss := "pass", forward
	var cases []traceCase
	for _, c := range []struct{ match, want string }{
		{"-s 198.51.100.0/24", hit}, {"-s 198.51.101.0/24", miss}, {"! -s 198.51.100.0/24", miss}, {"! -s 198.51.101.0/24", hit},
		{"-d 10.96.0.1/32", hit}, {"-d 10.96.0.2/32", miss}, {"! -d 10.96.0.1/32", miss}, {"! -d 10.96.0.2/32", hit},
		{"-s fd00::/8", miss}, {"-i eth0", hit}, {"-i eth1", miss}, {"! -i eth0", miss}, {"! -i eth1", hit}, {"-i eth+", hit}, {"! -i eth+", miss},
		{"-p tcp", hit}, {"-p udp", miss}, {"-p tcp -m tcp --dport 80", hit}, {"-p tcp -m tcp --dport 81", miss},
		{"-p tcp -m tcp --dport 80:90", hit}, {"-p tcp -m tcp --dport 70:80", hit}, {"-p tcp -m tcp --dport 0:79", miss},
		{"-p tcp -m tcp --dport 81:90", miss}, {"-p udp -m udp --dport 80", miss},
		{"-m comment --comment x", hit}, {"-p tcp -s 1.1.1.1/32", miss},
		{"-m addrtype --src-type LOCAL", miss}, {"-m addrtype ! --src-type LOCAL", hit},
		{"-m addrtype --dst-type LOCAL", miss}, {"-m addrtype ! --src-type LOCAL ! --dst-type LOCAL", hit},
		{"-m conntrack --ctstate NEW", hit}, {"-m conntrack ! --ctstate NEW", miss}, {"-m conntrack --ctstate RELATED,ESTABLISHED", miss},
		{"-m conntrack ! --ctstate RELATED,ESTABLISHED", hit}, {"-m conntrack --ctstate INVALID,NEW", hit},
		{"-m conntrack --ctstate INVALID", miss}, {"-m conntrack --ctstate DNAT", miss}, {"-m conntrack ! --ctstate ESTABLISHED,DNAT", hit},
		{"-m mark --mark 0x0/0x4000", hit}, {"-m mark ! --mark 0x4000/0x4000", hit}, {"-m mark --mark 0x4000/0x4000", miss},
		{"-m mark --mark 0x0", hit}, {seen, miss}, {"-m addrtype ! --dst-type UNICAST", miss},
	} {
		cases = append(cases, traceCase{c.match, ways(strings.TrimSpace(c.match)), client, c.want, false})
	}
	cases = append(cases,
		traceCase{"local destination", ways("-m addrtype --dst-type LOCAL"), "tcp eth0 198.51.100.7 > 192.0.2.1:80", "pass", false},
		traceCase{"local source", ways("-m addrtype --src-type LOCAL"), "tcp eth0 192.0.2.1 > 10.96.0.1:80", "pass", false},
		traceCase{"source seen", ways(strings.TrimSpace(seen)), client, "pass", true},
		traceCase{"another protocol", ways("-p udp -m udp --dport 80"), udp, "pass", false},
		traceCase{"a translated packet is in the state DNAT", dnat + "COMMIT\n*filter\n-A FORWARD -m conntrack --ctstate DNAT -j DROP", client, "drop", false},
		traceCase{"and not outside of it", dnat + "COMMIT\n*filter\n-A FORWARD -m conntrack ! --ctstate DNAT -j DROP", client, forward, false},
		traceCase{"to another", dnat + post + Rule{Itself: proxier.IPv4}.String() + " -j MASQUERADE", client, forward, false},
		traceCase{"to itself, once translated", dnat + post + Rule{Itself: proxier.IPv4}.String() + " -j MASQUERADE",
			"tcp eth0 10.0.0.1 > 10.96.0.1:80", forward + " masq", false},
		traceCase{"filter sees the new destination", dnat + "COMMIT\n*filter\n-A FORWARD -d 10.96.0.1/32 -j DROP", client, forward, false},
		traceCase{"and its port", dnat + "COMMIT\n*filter\n-A FORWARD -p tcp -m tcp --dport 8080 -j DROP", client, "drop", false},
	)
	checkTraces(t, cases)
}

func TestTraceMarksAndChances(t *testing.T) {
	checkTraces(t, []traceCase{
		{"a mark lasts to postrouting", pre + mark + dnat + post + masq, client, forward + " masq", false},
		{"no mark, no masquerade", dnat + post + masq, client, forward, false},
		{"a mark of a chain that came back", pre + "-j A\n" + dnat + "-A A " + mark + post + masq, client, forward + " masq", false},
		{"a mark flipped off", pre + mark + pre + "-j MARK --set-xmark 0x4000/0x0\n" + post + masq, client, "pass", false},
		{"a mark cleared", pre + mark + pre + "-j MARK --set-xmark 0x0/0xffffffff\n" + post + masq, client, "pass", false},
		{"another bit stays", pre + mark + pre + "-j MARK --set-xmark 0x8000/0x8000\n" + post + "-m mark --mark 0xc000 -j MASQUERADE", client, "pass masq", false},
		{"postrouting as upstream has it", pre + mark + dnat + post + "-m mark ! --mark 0x4000/0x4000 -j RETURN\n" +
			post + "-j MARK --set-xmark 0x4000/0x0\n" + post + "-j MASQUERADE\n", client, forward + " masq", false},
		{"a half", pre + half + to + "10.0.0.1:80\n" + pre + to + "10.0.0.2:80", client, "0.5 forward 10.0.0.1:80, 0.5 forward 10.0.0.2:80", false},
		{"a quarter each", pre + half + "-j A\n" + pre + "-j B\n-A A " + half + to + "10.0.0.1:80\n-A A " + to + "10.0.0.2:80\n" +
			"-A B " + half + to + "10.0.0.3:80\n-A B " + to + "10.0.0.4:80", client,
			"0.25 forward 10.0.0.1:80, 0.25 forward 10.0.0.2:80, 0.25 forward 10.0.0.3:80, 0.25 forward 10.0.0.4:80", false},
		{"equal ends are added", pre + half + to + "10.0.0.1:80\n" + pre + to + "10.0.0.1:80", client, "forward 10.0.0.1:80", false},
		{"the rest passes", pre + "-m statistic --mode random --probability 0.25000000000 " + to + "10.0.0.1:80", client,
			"0.25 forward 10.0.0.1:80, 0.75 pass", false},
		{"certainty leaves nothing", pre + "-m statistic --mode random --probability 1.00000000000 -j ACCEPT\n" + dnat, client, "pass", false},
		{"a mark of one half only", pre + half + mark + dnat + post + masq, client, "0.5 " + forward + ", 0.5 " + forward + " masq", false},
		{"a half comes back from its jump", pre + half + "-j A\n" + dnat + "-A A -j RETURN", client, forward, false},
		{"a half drops", "*filter\n-A FORWARD " + half + "-j DROP", client, "0.5 drop, 0.5 pass", false},
		{"remembered", pre + enlist + to + "10.0.0.1:80", client, "forward 10.0.0.1:80 in L", false},
		{"not remembered where another match fails", pre + "-s 1.1.1.1/32 " + enlist + to + "10.0.0.1:80", client, "pass", false},
		{"remembered before the chance is drawn", pre + enlist + half + to + "10.0.0.1:80", client, "0.5 forward 10.0.0.1:80 in L, 0.5 pass in L", false},
		{"seen before: its endpoint", pre + seen + "-j A\n" + dnat + "-A A " + to + "10.0.0.2:80", client, "forward 10.0.0.2:80", true},
		{"not seen before", pre + seen + "-j A\n" + dnat + "-A A " + to + "10.0.0.2:80", client, forward, false},
	})
}

func TestTraceHooks(t *testing.T) {
	const (
		toNode   = "tcp eth0 198.51.100.7 > 192.0.2.1:80"
		nodeOut  = "tcp - 192.0.2.1 > 10.96.0.1:80"
		nodeSelf = "tcp - 192.0.2.1 > 192.0.2.1:80"
	)
	drops := func(chain string) string { return "*filter\n-A " + chain + " -j DROP" }
	var cases []traceCase
	for _, c := range []struct {
		flow   string
		hooks  string // of filter, that the packet passes
		nat    string // where it is translated
		routes bool   // it passes POSTROUTING
	}{
		{client, "FORWARD", "PREROUTING", true},
		{toNode, "INPUT", "PREROUTING", false},
		{nodeOut, "OUTPUT", "OUTPUT", true},
		{nodeSelf, "OUTPUT INPUT", "OUTPUT", true},
	} {
		for _, hook := range []string{"INPUT", "FORWARD", "OUTPUT"} {
			want := "pass"
			if slices.Contains(strings.Fields(c.hooks), hook) {
				want = "drop"
			}
			cases = append(cases, traceCase{c.flow + " in filter " + hook, drops(hook), c.flow, want, false})
		}
		for _, hook := range []string{"PREROUTING", "OUTPUT"} {
			want := "pass"
			if c.nat == hook {
				want = "forward 10.0.0.1:80"
			}
			cases = append(cases, traceCase{c.flow + " in nat " + hook, "-A " + hook + " " + to + "10.0.0.1:80", c.flow, want, false})
		}
		want := "pass"
		if c.routes {
			want = "pass masq"
		}
		cases = append(cases, traceCase{c.flow + " in POSTROUTING", post + "-j MASQUERADE", c.flow, want, false})
	}
	// Routing looks at the new destination.
	cases = append(cases,
		traceCase{"to the node by translation: INPUT", pre + to + "192.0.2.1:80\n" + post + "-j MASQUERADE\nCOMMIT\n" + drops("FORWARD"), client, "forward 192.0.2.1:80", false},
		traceCase{"away from the node by translation: FORWARD", dnat + "COMMIT\n" + drops("FORWARD"), toNode, "drop", false},
		traceCase{"away from the node by translation: not INPUT", dnat + post + "-j MASQUERADE\nCOMMIT\n" + drops("INPUT"), toNode, forward + " masq", false},
		traceCase{"from the node to itself by translation: INPUT", "-A OUTPUT " + to + "192.0.2.1:80\nCOMMIT\n" + drops("INPUT"), nodeOut, "drop", false},
		traceCase{"from the node to itself it enters by lo", "*filter\n-A INPUT -i lo -j DROP", nodeSelf, "drop", false},
		traceCase{"the node's own has no interface on its way out", "*filter\n-A OUTPUT -i lo -j DROP", nodeSelf, "pass", false},
		traceCase{"the node's own comes from no interface", "*nat\n-A OUTPUT ! -i eth+ " + to + "10.0.0.1:8080", nodeOut, forward, false},
	)
	checkTraces(t, cases)
}

// The kernel takes no such rulesets; Trace ends all the same.
func TestTraceLoops(t *testing.T) {
	many := strings.Repeat("-A A "+half+"-j A\n", 200)
	checkTraces(t, []traceCase{
		{"a chain that jumps to itself", pre + "-j A\n" + dnat + "-A A -j A", client, "drop", false},
		{"a base chain that jumps to itself", pre + "-j PREROUTING\n", client, "drop", false},
		{"goto itself", pre + "-g A\n-A A -g A", client, "drop", false},
		{"by way of others", pre + "-j A\n-A A -j B\n-A B -g C\n-A C -j A", client, "drop", false},
		{"half of the packets", pre + "-j A\n-A A " + half + "-j A\n-A A " + to + "10.0.0.1:8080", client, "0.5 drop, 0.5 " + forward, false},
		{"two hundred times", pre + "-j A\n" + many + "-A A -j A", client, "drop", false},
	})
}

// A chain that is jumped to from deeper than any kernel allows is no loop.
func TestTraceGoesDeep(t *testing.T) {
	text := pre + "-j C0\n"
	for i := range 500 {
		text += fmt.Sprintf("-A C%d -j C%d\n", i, i+1)
	}
	checkTraces(t, []traceCase{{"500 chains", text + "-A C500 " + to + "10.0.0.1:8080", client, forward, false}})
}

// randomTables draws rulesets whose chains jump to later ones only, or to any.
func randomTables(r *rand.Rand, loops bool) Tables {
	tables := Tables{}
	for _, table := range []string{"nat", "filter"} {
		names := []string{"PREROUTING", "OUTPUT", "POSTROUTING", "FORWARD", "INPUT", "A", "B", "C", "D"}
		for i, name := range names {
			c := Chain{Name: name}
			for range r.IntN(4) {
				_, rule := randomRule(r, proxier.IPv4)
				if r.IntN(2) == 0 {
					rule = Rule{Chance: Chance(r.Uint32N(certain))}
					randomTarget(r, proxier.IPv4, &rule, table)
				}
				to := max(5, i+1)
				if loops {
					to = 5
				}
				if to < len(names) && r.IntN(2) == 0 {
					rule.Jump, rule.Goto = names[to+r.IntN(len(names)-to)], r.IntN(3) == 0
				}
				c.Rules = append(c.Rules, rule)
			}
			tables.Add(table, c)
		}
	}
	return tables
}

func TestTraceProbabilitiesAddUp(t *testing.T) {
	flows := []string{client, "udp eth0 10.0.0.1 > 192.0.2.1:53", "tcp - 192.0.2.1 > 10.96.0.1:80", "udp - 127.0.0.1 > 127.0.0.1:1"}
	branches := 0
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 11))
		tables := randomTables(r, seed%2 == 1)
		w := World{Local: isLocal, Recent: func(string, netip.Addr) bool { return seed%3 == 0 }}
		out := tables.Trace(flow(t, flows[r.IntN(len(flows))]), w)
		sum := 0.0
		for i, o := range out {
			sum += o.Probability
			if o.Probability <= 0 || o.Probability > 1+1e-9 {
				t.Fatalf("seed %d: probability %v", seed, o.Probability)
			}
			if o.Verdict == proxier.Forward != o.To.IsValid() {
				t.Fatalf("seed %d: %+v", seed, o)
			}
			o.Probability = 0
			for _, other := range out[:i] {
				other.Probability = 0
				if other == o {
					t.Fatalf("seed %d: %+v comes twice", seed, o)
				}
			}
		}
		if math.Abs(sum-1) > 1e-9 {
			t.Fatalf("seed %d: probabilities add up to %v", seed, sum)
		}
		if len(out) > 1 {
			branches++
		}
	}
	if branches < 200 {
		t.Errorf("only %d of 2000 rulesets branch", branches)
	}
}

// TestPass follows a packet through one base chain at a time.
func TestPass(t *testing.T) {
	tables := tablesOf(t, `*mangle
-A PREROUTING -m set --match-set CLOSED dst,dst -j DROP
COMMIT
*nat
-A PREROUTING -m set --match-set OPEN dst,dst -j MARK --set-xmark 0x4000/0x4000
-A PREROUTING -m set --match-set OPEN dst,dst -j NETMAP --to 240.0.0.0/4
-A POSTROUTING -m set ! --match-set OPEN dst -m mark --mark 0x4000/0x4000 -j MASQUERADE`)
	sets := map[string]string{"CLOSED": "10.96.0.1:80", "OPEN": "10.96.0.1:443"}
	world := World{Local: isLocal, InSet: func(set, fields string, p proxier.Packet) bool {
		return sets[set] == p.Dst.String() && fields == "dst,dst"
	}}
	start := func(dst string) Passage { return Passage{Packet: flow(t, "tcp eth0 10.0.0.9 > "+dst)} }

	if got := tables.Pass("mangle", "PREROUTING", start("10.96.0.1:80"), world); got.End != proxier.Drop {
		t.Errorf("a member of CLOSED: %+v", got)
	}
	p := tables.Pass("mangle", "PREROUTING", start("10.96.0.1:443"), world)
	p = tables.Pass("nat", "PREROUTING", p, world)
	if want := netip.MustParseAddrPort("250.96.0.1:443"); p.End != proxier.Pass || p.Packet.Dst != want || !p.DNAT || p.Mark != 0x4000 {
		t.Errorf("a member of OPEN: %+v", p)
	}
	if p = tables.Pass("nat", "POSTROUTING", p, world); !p.Masq {
		t.Errorf("behind POSTROUTING: %+v", p)
	}
}
