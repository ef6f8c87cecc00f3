package ruleset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

func printsOf(t testing.TB, tool *Tool, table string, chains ...string) map[string]uint64 {
	t.Helper()
	prints, err := tool.Prints(table, chains)
	if err != nil {
		t.Fatal(err)
	}
	return prints
}

func restore(t testing.TB, tool *Tool, input string) {
	t.Helper()
	host := map[proxier.Family]string{proxier.IPv4: "10.0.0.1", proxier.IPv6: "fd00::1"}[tool.Family()]
	if err := tool.Restore(t.Context(), []byte(strings.ReplaceAll(input, "HOST", host))); err != nil {
		t.Fatal(err)
	}
}

func eachNFT(t *testing.T, test func(*testing.T, *Tool)) {
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		t.Run(family.String(), func(t *testing.T) { test(t, newTool(t, family, NFT)) })
	}
}

// Each step is done by another process, in order; changes names the chains whose
// print is another one then.
func TestPrintsTellChanges(t *testing.T) {
	all := []string{"A", "B", "EMPTY", "NONE", "OUTPUT"}
	for _, steps := range [][]struct{ name, input, changes string }{{
		{"new chains", ":A - [0:0]\n:B - [0:0]\n:EMPTY - [0:0]\n-A A -d HOST -j ACCEPT\n-A A -d HOST -j RETURN\n", "A B EMPTY OUTPUT"},
		{"the same again", ":A - [0:0]\n-A A -d HOST -j ACCEPT\n-A A -d HOST -j RETURN\n", ""},
		{"an equal rule in another's place", "-R A 1 -d HOST -j ACCEPT\n", ""},
		{"another chain", "-A B -j ACCEPT\n", "B"},
		{"order", ":A - [0:0]\n-A A -d HOST -j RETURN\n-A A -d HOST -j ACCEPT\n", "A"},
		{"one bit", "-R A 1 -m mark --mark 0x2/0x2 -j ACCEPT\n-R B 1 -m comment --comment x -j ACCEPT\n", "A B"},
		{"and another", "-R A 1 -m mark --mark 0x4/0x4 -j ACCEPT\n-R B 1 -m comment --comment y -j ACCEPT\n", "A B"},
		{"one word more", "-R B 1 -m comment --comment y\n", "B"},
		{"a rule twice", "-A B -m comment --comment y\n", "B"},
		{"and three times", "-A B -m comment --comment y\n", "B"},
		{"a rule deleted", "-D B 1\n", "B"},
		{"a base chain", "-A OUTPUT -j A\n", "OUTPUT"},
		{"flushed", "-F B\n", "B"},
		{"deleted", "-X B\n-X EMPTY\n", "B EMPTY"},
		{"other tables", "COMMIT\n*filter\n:A - [0:0]\n-A A -j DROP\n", ""},
	}} {
		eachNFT(t, func(t *testing.T, tool *Tool) {
			execs := tool.Execs()
			before := printsOf(t, tool, "nat", all...)
			for _, step := range steps {
				restore(t, tool, "*nat\n"+step.input+"COMMIT\n")
				after := printsOf(t, tool, "nat", all...)
				var changed []string
				for _, c := range all {
					was, had := before[c]
					is, has := after[c]
					if was != is || had != has {
						changed = append(changed, c)
					}
				}
				// The programs make base chains as they need them.
				if step.name == "new chains" && !slices.Contains(changed, "OUTPUT") {
					changed = append(changed, "OUTPUT")
				}
				if got := strings.Join(changed, " "); got != step.changes {
					t.Errorf("%s: changed %q, want %q", step.name, got, step.changes)
				}
				before = after
			}
			if ran := tool.Execs() - execs; ran != int64(len(steps)) {
				t.Errorf("ran %d programs, want one a step", ran)
			}
			chains, err := tool.Chains("nat")
			if err != nil || !slices.Contains(chains, "A") || slices.Contains(chains, "B") {
				t.Errorf("chains %v, %v", chains, err)
			}
		})
	}
}

// Every rule of 250, which no receive holds at once, counts.
func TestPrintsOfLongChains(t *testing.T) {
	tool := newTool(t, proxier.IPv4, NFT)
	var rules strings.Builder
	for i := range 250 {
		fmt.Fprintf(&rules, "-A LONG -m comment --comment %s-%d -m recent --rcheck --seconds 5 --name R%d --rsource -j ACCEPT\n", strings.Repeat("x", 200), i, i)
	}
	restore(t, tool, "*filter\n:LONG - [0:0]\n"+rules.String()+"COMMIT\n")
	seen := map[uint64]bool{printsOf(t, tool, "filter", "LONG")["LONG"]: true}
	for i := 250; i > 0; i -= 83 {
		restore(t, tool, fmt.Sprintf("*filter\n-R LONG %d -j DROP\nCOMMIT\n", i))
		print := printsOf(t, tool, "filter", "LONG")["LONG"]
		if seen[print] {
			t.Errorf("rule %d was replaced, and the print is as before", i)
		}
		seen[print] = true
	}
	each, err := tool.RulePrints("filter", "LONG")
	if err != nil || len(each) != 250 || each[249] != each[0] && each[249] == each[248] {
		t.Errorf("%d prints of rules, %v", len(each), err)
	}
}

// Packets that pass move counters, and what matches keep; the prints stay.
func TestTrafficLeavesPrints(t *testing.T) {
	eachNFT(t, func(t *testing.T, tool *Tool) {
		host, target, reject := "127.0.0.1", "127.0.0.1:9", "icmp-port-unreachable"
		if tool.Family() == proxier.IPv6 {
			host, target, reject = "::1", "[::1]:9", "icmp6-port-unreachable"
		}
		restore(t, tool, strings.NewReplacer("SELF", host, "REFUSE", reject, "TARGET", target).Replace(`*nat
:W - [0:0]
-A W -m comment --comment "a service" -m statistic --mode random --probability 0.33333333349 -j MARK --set-xmark 0x4000/0x4000
-A W -p udp -m comment --comment x -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-X --rsource -j MARK --set-xmark 0x4000/0x4000
-A W -p udp -m udp --dport 1000:60000 -m recent --set --name KUBE-SEP-X --rsource -j DNAT --to-destination TARGET
:P - [0:0]
-A P -m mark ! --mark 0x4000000/0x4000000 -m statistic --mode nth --every 2 --packet 0
-A P -m addrtype --dst-type LOCAL -m limit --limit 1000/sec
-A P -j MASQUERADE --random-fully
-A OUTPUT -j W
-A POSTROUTING -j P
COMMIT
*filter
:F - [0:0]
-A F -m conntrack --ctstate NEW,RELATED,ESTABLISHED -m addrtype --src-type LOCAL
-A F ! -s SELF -m conntrack ! --ctstate INVALID,DNAT -j DROP
-A F -p udp -m statistic --mode random --probability 0.5 -j REJECT --reject-with REFUSE
-A OUTPUT -j F
COMMIT
`))
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		read := func() string {
			return fmt.Sprint(printsOf(t, tool, "nat", "W", "P", "OUTPUT", "POSTROUTING"), printsOf(t, tool, "filter", "F", "OUTPUT"))
		}
		before := read()
		for i := range 50 {
			send(t, tool.Family(), 2000+i)
		}
		save := counted(t, tool)
		for _, word := range []string{"recent --set", "recent --rcheck", "statistic --mode random", "DNAT", "MASQUERADE", "limit", "REJECT", "CTSTATE"} {
			if !regexp.MustCompile(`(?m)^\[[1-9].*` + word).MatchString(strings.ReplaceAll(save, "ctstate NEW", "CTSTATE")) {
				t.Errorf("no packet met a rule with %s:\n%s", word, save)
			}
		}
		if after := read(); after != before {
			t.Errorf("%s\nthen %s", before, after)
		}
	})
}

// counted is the tables with the counters of each rule.
func counted(t *testing.T, tool *Tool) string {
	t.Helper()
	out, err := exec.Command(tool.bin.save, "-c").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// send sends a packet from the calling thread's namespace to itself.
func send(t *testing.T, family proxier.Family, port int) {
	t.Helper()
	domain, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
	if family == proxier.IPv6 {
		domain, to = unix.AF_INET6, &unix.SockaddrInet6{Port: port, Addr: [16]byte{15: 1}}
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Sendto(fd, []byte("x"), 0, to); err != nil && !errors.Is(err, unix.EPERM) {
		t.Fatal(err)
	}
}

// The legacy kernel has no cheaper way than Save.
func TestPrintsOfLegacyAreUnsupported(t *testing.T) {
	tool := newTool(t, proxier.IPv4, Legacy)
	_, prints := tool.Prints("nat", []string{"OUTPUT"})
	_, rules := tool.RulePrints("nat", "OUTPUT")
	_, chains := tool.Chains("nat")
	for _, err := range []error{prints, rules, chains} {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Error(err)
		}
	}
}

func TestReadAnswers(t *testing.T) {
	message := func(kind, flags uint16, seq uint32, body ...byte) []byte {
		msg := make([]byte, unix.SizeofNlMsghdr)
		binary.NativeEndian.PutUint32(msg, uint32(len(msg)+len(body)))
		binary.NativeEndian.PutUint16(msg[4:], kind)
		binary.NativeEndian.PutUint16(msg[6:], flags)
		binary.NativeEndian.PutUint32(msg[8:], seq)
		return append(msg, body...)
	}
	rule := uint16(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE)
	errno := func(e unix.Errno) []byte { return binary.NativeEndian.AppendUint32(nil, -uint32(e)) }
	for _, c := range []struct {
		name              string
		b                 []byte
		objects           int
		done, interrupted bool
		says              string
	}{
		{"nothing", nil, 0, false, false, ""},
		{"two rules", slices.Concat(message(rule, 0, 7, 2, 0, 0, 0), message(rule, 0, 7, 2, 0, 0, 0)), 2, false, false, ""},
		{"of another request", message(rule, 0, 6, 2, 0, 0, 0), 0, false, false, ""},
		{"the end", message(unix.NLMSG_DONE, 0, 7, errno(0)...), 0, true, false, ""},
		{"interrupted", slices.Concat(message(rule, unix.NLM_F_DUMP_INTR, 7, 2, 0, 0, 0), message(unix.NLMSG_DONE, 0, 7, errno(0)...)), 1, true, true, ""},
		{"interrupted by the kernel", message(unix.NLMSG_DONE, 0, 7, errno(unix.EINTR)...), 0, true, false, "all the time"},
		{"no permission", message(unix.NLMSG_ERROR, 0, 7, errno(unix.EPERM)...), 0, true, false, "NET_ADMIN"},
		{"other error", message(unix.NLMSG_ERROR, 0, 7, errno(unix.ENOENT)...), 0, true, false, "no such file"},
		{"short header", []byte{16, 0}, 0, false, false, "cut short"},
		{"short body", message(rule, 0, 7, 2, 0, 0, 0)[:18], 0, false, false, "cut short"},
		{"no body", message(unix.NLMSG_DONE, 0, 7), 0, false, false, "cut short"},
	} {
		t.Run(c.name, func(t *testing.T) {
			objects := 0
			a := answers{seq: 7, each: func([]byte) { objects++ }}
			err := a.read(c.b)
			if objects != c.objects || a.done != c.done || a.interrupted != c.interrupted {
				t.Errorf("%d objects, done %v, interrupted %v", objects, a.done, a.interrupted)
			}
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Error(err)
			}
		})
	}
}

func TestAttributesEnd(t *testing.T) {
	for _, b := range [][]byte{nil, {4}, {0, 0, 1, 0}, {3, 0, 1, 0}, {9, 0, 1, 0, 0, 0, 0, 0}} {
		for kind, attr := range attributes(b) {
			t.Errorf("%v: attribute %d: %v", b, kind, attr)
		}
	}
	var kinds []uint16
	for kind := range attributes(appendName(appendName(nil, 1, "nat"), 2, "KUBE-SERVICES")) {
		kinds = append(kinds, kind)
	}
	if !reflect.DeepEqual(kinds, []uint16{1, 2}) {
		t.Error(kinds)
	}
}

// BenchmarkPrints is at 30,000 chains of 3 rules.
func BenchmarkPrints(b *testing.B) {
	tool := newTool(b, proxier.IPv4, NFT)
	const n, part = 30_000, 1_000
	var names []string
	var input strings.Builder
	for i := range n {
		name := fmt.Sprintf("KUBE-SEP-%016d", i)
		names = append(names, name)
		if i%part == 0 {
			input.WriteString("*nat\n")
		}
		fmt.Fprintf(&input, ":%s - [0:0]\n", name)
		if i%part != part-1 {
			continue
		}
		for _, name := range names[len(names)-part:] {
			fmt.Fprintf(&input, "-A %s -s 10.0.0.1/32 -m comment --comment \"default/service:http\" -j MARK --set-xmark 0x4000/0x4000\n", name)
			fmt.Fprintf(&input, "-A %s -m comment --comment \"default/service:http\" -m statistic --mode random --probability 0.5 -j RETURN\n", name)
			fmt.Fprintf(&input, "-A %s -p tcp -m comment --comment \"default/service:http\" -m tcp -j DNAT --to-destination 10.0.0.1:8080\n", name)
		}
		input.WriteString("COMMIT\n")
	}
	if err := tool.Restore(b.Context(), []byte(input.String())); err != nil {
		b.Fatal(err)
	}
	// Not in b.Run, which leaves the thread and so the namespace.
	var listing time.Duration
	rounds := 0
	for b.Loop() {
		if prints := printsOf(b, tool, "nat", names...); len(prints) != n {
			b.Fatal(len(prints))
		}
		b.StopTimer()
		start := time.Now()
		if chains, err := tool.Chains("nat"); err != nil || len(chains) < n {
			b.Fatal(len(chains), err)
		}
		listing += time.Since(start)
		rounds++
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(rounds)/n, "us/chain")
	b.ReportMetric(float64(listing.Milliseconds())/float64(rounds), "ms/Chains")
}
