package ipset_test

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"switchyard/ipvs/ipset"
	"switchyard/proxier"
	"switchyard/test/netlab"
	"switchyard/test/uml"
)

// TestInUML runs some of the tests in an older kernel.
func TestInUML(t *testing.T) {
	uml.Tests(t, uml.Options{},
		uml.Case{Name: "SetsAreReadBackAsWritten", Test: TestSetsAreReadBackAsWritten},
		uml.Case{Name: "AFullSetGrowsWithoutLoss", Test: TestAFullSetGrowsWithoutLoss},
		uml.Case{Name: "ASetGrowsUnderARule", Test: TestASetGrowsUnderARule},
		uml.Case{Name: "CreateWhatExists", Test: TestCreateWhatExists},
		uml.Case{Name: "FillSpeed", Test: TestFillSpeed},
	)
}

// alone opens ipset in a network namespace of the test's own.
func alone(t testing.TB) *ipset.Kernel {
	t.Helper()
	netlab.Alone(t)
	k, err := ipset.Open(ipset.Options{})
	if errors.Is(err, ipset.ErrNoModule) {
		t.Skip("needs ipset in the kernel; load the module ip_set: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

func save(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("ipset", "save").CombinedOutput()
	if err != nil {
		t.Fatalf("ipset save: %v: %s", err, out)
	}
	return string(out)
}

// run runs a line of ipset(8).
func run(t testing.TB, line string) {
	t.Helper()
	if out, err := exec.Command("ipset", strings.Fields(line)...).CombinedOutput(); err != nil {
		t.Fatalf("ipset %s: %v: %s", line, err, out)
	}
}

func addr(s string) netip.Addr  { return netip.MustParseAddr(s) }
func net(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sorted(entries []ipset.Entry) []ipset.Entry {
	return slices.SortedFunc(slices.Values(entries), func(a, b ipset.Entry) int {
		return cmp.Or(strings.Compare(a.String(), b.String()))
	})
}

// types are one set of each type and family with entries, and how ipset(8) prints them.
var types = []struct {
	set     ipset.Set
	entries []ipset.Entry
	header  string
	saved   []string
}{
	{
		ipset.Set{Name: "KUBE-CLUSTER-IP", Type: ipset.HashIPPort, Family: proxier.IPv4},
		[]ipset.Entry{
			{Addr: addr("172.30.0.1"), Protocol: proxier.TCP, Port: 443},
			{Addr: addr("172.30.0.10"), Protocol: proxier.UDP, Port: 53},
			{Addr: addr("172.30.0.11"), Protocol: proxier.SCTP, Port: 65535},
		},
		"hash:ip,port family inet hashsize 1024 maxelem 65536",
		[]string{"172.30.0.1,tcp:443", "172.30.0.10,udp:53", "172.30.0.11,sctp:65535"},
	},
	{
		ipset.Set{Name: "KUBE-6-CLUSTER-IP", Type: ipset.HashIPPort, Family: proxier.IPv6, MaxElem: 1000},
		[]ipset.Entry{{Addr: addr("fd00::1"), Protocol: proxier.TCP, Port: 443}},
		"hash:ip,port family inet6 hashsize 1024 maxelem 1000",
		[]string{"fd00::1,tcp:443"},
	},
	{
		ipset.Set{Name: "MARKS", Type: ipset.HashIPPort, Family: proxier.IPv4, SKBInfo: true},
		[]ipset.Entry{
			{Addr: addr("172.30.0.1"), Protocol: proxier.TCP, Port: 443, Mark: 0x7},
			{Addr: addr("172.30.0.2"), Protocol: proxier.TCP, Port: 443, Mark: 0xfedcba98},
			{Addr: addr("172.30.0.3"), Protocol: proxier.TCP, Port: 443},
		},
		"hash:ip,port family inet hashsize 1024 maxelem 65536 skbinfo",
		[]string{"172.30.0.1,tcp:443 skbmark 0x7", "172.30.0.2,tcp:443 skbmark 0xfedcba98", "172.30.0.3,tcp:443"},
	},
	{
		ipset.Set{Name: "KUBE-LOOP-BACK", Type: ipset.HashIPPortIP, Family: proxier.IPv4},
		[]ipset.Entry{{Addr: addr("10.180.0.2"), Protocol: proxier.TCP, Port: 8080, Addr2: addr("10.180.0.2")}},
		"hash:ip,port,ip family inet hashsize 1024 maxelem 65536",
		[]string{"10.180.0.2,tcp:8080,10.180.0.2"},
	},
	{
		ipset.Set{Name: "KUBE-6-LOOP-BACK", Type: ipset.HashIPPortIP, Family: proxier.IPv6},
		[]ipset.Entry{{Addr: addr("fd00::2"), Protocol: proxier.SCTP, Port: 80, Addr2: addr("fd00::3")}},
		"hash:ip,port,ip family inet6 hashsize 1024 maxelem 65536",
		[]string{"fd00::2,sctp:80,fd00::3"},
	},
	{
		ipset.Set{Name: "KUBE-LOAD-BALANCER-SOURCE-CIDR", Type: ipset.HashIPPortNet, Family: proxier.IPv4},
		[]ipset.Entry{
			{Addr: addr("203.0.113.9"), Protocol: proxier.TCP, Port: 80, Net: net("10.0.0.0/8")},
			{Addr: addr("203.0.113.9"), Protocol: proxier.TCP, Port: 80, Net: net("192.0.2.7/32")},
		},
		"hash:ip,port,net family inet hashsize 1024 maxelem 65536",
		[]string{"203.0.113.9,tcp:80,10.0.0.0/8", "203.0.113.9,tcp:80,192.0.2.7"},
	},
	{
		ipset.Set{Name: "KUBE-6-LB-CIDR", Type: ipset.HashIPPortNet, Family: proxier.IPv6, SKBInfo: true},
		[]ipset.Entry{{Addr: addr("fd00::2"), Protocol: proxier.UDP, Port: 80, Net: net("2001:db8::/32"), Mark: 1}},
		"hash:ip,port,net family inet6 hashsize 1024 maxelem 65536 skbinfo",
		[]string{"fd00::2,udp:80,2001:db8::/32 skbmark 0x1"},
	},
	{
		ipset.Set{Name: "KUBE-IPVS-IPS", Type: ipset.HashIP, Family: proxier.IPv4},
		[]ipset.Entry{{Addr: addr("172.30.0.1")}},
		"hash:ip family inet hashsize 1024 maxelem 65536",
		[]string{"172.30.0.1"},
	},
	{
		ipset.Set{Name: "KUBE-6-IPVS-IPS", Type: ipset.HashIP, Family: proxier.IPv6, SKBInfo: true},
		[]ipset.Entry{{Addr: addr("fd00::1"), Mark: 5}},
		"hash:ip family inet6 hashsize 1024 maxelem 65536 skbinfo",
		[]string{"fd00::1 skbmark 0x5"},
	},
	{
		ipset.Set{Name: "NETS", Type: ipset.HashNet, Family: proxier.IPv4, SKBInfo: true},
		[]ipset.Entry{{Net: net("10.0.0.0/8"), Mark: 2}, {Net: net("0.0.0.0/1")}, {Net: net("128.0.0.0/1")}},
		"hash:net family inet hashsize 1024 maxelem 65536 skbinfo",
		[]string{"0.0.0.0/1", "10.0.0.0/8 skbmark 0x2", "128.0.0.0/1"},
	},
	{
		ipset.Set{Name: "NETS6", Type: ipset.HashNet, Family: proxier.IPv6},
		[]ipset.Entry{{Net: net("2001:db8::/33")}},
		"hash:net family inet6 hashsize 1024 maxelem 65536",
		[]string{"2001:db8::/33"},
	},
	{
		ipset.Set{Name: "KUBE-NODE-PORT-TCP", Type: ipset.BitmapPort},
		[]ipset.Entry{{Port: 0}, {Port: 30080}, {Port: 65535}},
		"bitmap:port range 0-65535",
		[]string{"0", "30080", "65535"},
	},
	{
		ipset.Set{Name: "PORT-MARKS", Type: ipset.BitmapPort, SKBInfo: true},
		[]ipset.Entry{{Port: 30080, Mark: 9}},
		"bitmap:port range 0-65535 skbinfo",
		[]string{"30080 skbmark 0x9"},
	},
}

func TestSetsAreReadBackAsWritten(t *testing.T) {
	k := alone(t)
	for _, c := range types {
		must(t, k.Create(c.set))
		must(t, k.Change(c.set.Name, c.entries, nil))
		entries, err := k.Entries(c.set.Name)
		if err != nil || !slices.Equal(sorted(entries), sorted(c.entries)) {
			t.Errorf("%s: entries %v, %v; want %v", c.set.Name, entries, err, c.entries)
		}
		text := saved(save(t), c.set.Name)
		if want := append([]string{c.header}, c.saved...); !slices.Equal(text, want) {
			t.Errorf("ipset save %s:\n%q, want\n%q", c.set.Name, text, want)
		}
	}
	sets, err := k.Sets()
	must(t, err)
	if len(sets) != len(types) {
		t.Errorf("%d sets, want %d", len(sets), len(types))
	}
	for _, c := range types {
		want := c.set
		if want.MaxElem == 0 && want.Type != ipset.BitmapPort {
			want.MaxElem = ipset.DefaultMaxElem
		}
		if !slices.Contains(sets, want) {
			t.Errorf("%v is not among %v", want, sets)
		}
	}
}

// saved is what ipset save prints of a set: its options, and its entries sorted.
// What newer kernels add is left out.
func saved(text, name string) (lines []string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if options, ok := strings.CutPrefix(line, "create "+name+" "); ok {
			options, _, _ = strings.Cut(options, " bucketsize")
			if strings.Contains(line, " skbinfo") && !strings.Contains(options, " skbinfo") {
				options += " skbinfo"
			}
			lines = append(lines, options)
		}
		if entry, ok := strings.CutPrefix(line, "add "+name+" "); ok {
			lines = append(lines, entry)
		}
	}
	if len(lines) > 1 {
		slices.Sort(lines[1:])
	}
	return lines
}

func TestChangeTwice(t *testing.T) {
	k := alone(t)
	for _, c := range types {
		must(t, k.Create(c.set))
		for range 2 {
			must(t, k.Create(c.set))
			must(t, k.Change(c.set.Name, c.entries, nil))
		}
		for range 2 {
			must(t, k.Change(c.set.Name, nil, c.entries))
		}
		if entries, err := k.Entries(c.set.Name); err != nil || len(entries) != 0 {
			t.Errorf("%s after deletions: %v, %v", c.set.Name, entries, err)
		}
		for range 2 {
			must(t, k.Flush(c.set.Name))
		}
		for range 2 {
			must(t, k.Destroy(c.set.Name))
		}
		if _, err := k.Entries(c.set.Name); !errors.Is(err, ipset.ErrNoSet) {
			t.Errorf("%s after its destruction: %v", c.set.Name, err)
		}
	}
	if text := save(t); text != "" {
		t.Errorf("left behind: %s", text)
	}
}

func TestAnotherMarkReplacesTheFirst(t *testing.T) {
	k := alone(t)
	must(t, k.Create(ipset.Set{Name: "S", Type: ipset.HashIP, Family: proxier.IPv4, SKBInfo: true}))
	one, two := ipset.Entry{Addr: addr("10.0.0.1"), Mark: 1}, ipset.Entry{Addr: addr("10.0.0.1"), Mark: 2}
	must(t, k.Change("S", []ipset.Entry{one}, nil))
	must(t, k.Change("S", []ipset.Entry{two}, []ipset.Entry{one}))
	if entries, err := k.Entries("S"); err != nil || !slices.Equal(entries, []ipset.Entry{two}) {
		t.Errorf("%v, %v; want %v", entries, err, two)
	}
}

func TestOperations(t *testing.T) {
	k := alone(t)
	must(t, k.Create(ipset.Set{Name: "S", Type: ipset.HashIP, Family: proxier.IPv4}))
	for _, c := range []struct {
		what string
		do   func() error
		want int64
	}{
		{"nothing to change", func() error { return k.Change("S", nil, nil) }, 0},
		{"the same set", func() error {
			return k.Create(ipset.Set{Name: "S", Type: ipset.HashIP, Family: proxier.IPv4})
		}, 0},
		{"one entry", func() error { return k.Change("S", many(1), nil) }, 1},
		{"200 entries", func() error { return k.Change("S", many(200), nil) }, 1},
		{"201 entries, one of them deleted", func() error { return k.Change("S", many(200), many(201)) }, 2},
		{"1,000 deletions", func() error { return k.Change("S", nil, many(1000)) }, 5},
	} {
		before := k.Operations()
		must(t, c.do())
		if got := k.Operations() - before; got != c.want {
			t.Errorf("%s: %d messages, want %d", c.what, got, c.want)
		}
	}
}

// many are the first n addresses of 10.0.0.0/8.
func many(n int) []ipset.Entry {
	entries := make([]ipset.Entry, n)
	for i := range entries {
		entries[i].Addr = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	}
	return entries
}

func TestAFullSetGrowsWithoutLoss(t *testing.T) {
	k := alone(t)
	must(t, k.Create(ipset.Set{Name: "S", Type: ipset.HashIP, Family: proxier.IPv4}))
	const n = 70_000
	must(t, k.Change("S", many(n), nil))
	entries, err := k.Entries("S")
	must(t, err)
	got := map[ipset.Entry]bool{}
	for _, e := range entries {
		got[e] = true
	}
	for _, e := range many(n) {
		if !got[e] {
			t.Fatalf("%s is lost; %d entries are there", e, len(entries))
		}
	}
	sets, err := k.Sets()
	must(t, err)
	want := []ipset.Set{{Name: "S", Type: ipset.HashIP, Family: proxier.IPv4, MaxElem: 1 << 17}}
	if !slices.Equal(sets, want) || len(entries) != n {
		t.Errorf("%d entries in %v, want %d in %v", len(entries), sets, n, want)
	}
}

func TestASetGrowsUnderARule(t *testing.T) {
	k := alone(t)
	small := ipset.Set{Name: "KUBE-LOAD-BALANCER-SOURCE-CIDR", Type: ipset.HashIPPort, Family: proxier.IPv4, MaxElem: 8, SKBInfo: true}
	must(t, k.Create(small))
	entry := ipset.Entry{Addr: addr("172.30.0.1"), Protocol: proxier.TCP, Port: 443, Mark: 3}
	must(t, k.Change(small.Name, []ipset.Entry{entry}, nil))
	rule := strings.Fields("-A INPUT -m set --match-set " + small.Name + " dst,dst -j DROP")
	if exec.Command("iptables", rule...).Run() != nil { // no nft tables in the kernel
		if out, err := exec.Command("iptables-legacy", rule...).CombinedOutput(); err != nil {
			t.Skipf("needs the match set of iptables; load the module xt_set: %v: %s", err, out)
		}
	}
	if err := k.Destroy(small.Name); !errors.Is(err, ipset.ErrInUse) {
		t.Errorf("destroyed under a rule: %v", err)
	}
	large := small
	large.MaxElem = 100
	must(t, k.Create(large))
	entries, err := k.Entries(small.Name)
	if err != nil || !slices.Equal(entries, []ipset.Entry{entry}) {
		t.Errorf("entries %v, %v", entries, err)
	}
	sets, err := k.Sets()
	if err != nil || !slices.Equal(sets, []ipset.Set{large}) {
		t.Errorf("sets %v, %v; want %v", sets, err, large)
	}
}

func TestCreateWhatExists(t *testing.T) {
	want := ipset.Set{Name: "S", Type: ipset.HashIP, Family: proxier.IPv4}
	for _, c := range []struct {
		exists  string
		wrong   error
		maxElem uint32
	}{
		{"hash:ip family inet", nil, ipset.DefaultMaxElem},
		{"hash:ip family inet maxelem 100000", nil, 100_000},
		{"hash:ip family inet maxelem 100", nil, ipset.DefaultMaxElem},
		{"hash:ip family inet timeout 300", nil, ipset.DefaultMaxElem},
		{"hash:ip family inet forceadd", nil, ipset.DefaultMaxElem},
		{"hash:ip family inet skbinfo", nil, ipset.DefaultMaxElem},
		{"hash:ip family inet6", ipset.ErrForeign, 0},
		{"hash:net family inet", ipset.ErrForeign, 0},
		{"hash:ip,port family inet", ipset.ErrForeign, 0},
		{"bitmap:port range 0-10", ipset.ErrForeign, 0},
	} {
		t.Run(c.exists, func(t *testing.T) {
			k := alone(t)
			run(t, "create S "+c.exists)
			before := save(t)
			if strings.HasPrefix(c.exists, "hash:ip family inet ") {
				run(t, "add S 10.0.0.1")
			}
			if err := k.Create(want); !errors.Is(err, c.wrong) {
				t.Fatalf("error %v, want %v", err, c.wrong)
			}
			if c.wrong != nil {
				if after := save(t); after != before {
					t.Errorf("foreign set was changed from %q to %q", before, after)
				}
				return
			}
			set := want
			set.MaxElem = c.maxElem
			if sets, err := k.Sets(); err != nil || !slices.Equal(sets, []ipset.Set{set}) {
				t.Errorf("sets %v, %v; want %v", sets, err, set)
			}
			kept := strings.Contains(save(t), "add S 10.0.0.1")
			if !kept && c.exists != "hash:ip family inet" {
				t.Errorf("entry is lost: %s", save(t))
			}
		})
	}
}

func TestABitmapOfAnotherRangeIsReplaced(t *testing.T) {
	k := alone(t)
	run(t, "create S bitmap:port range 30000-32767")
	run(t, "add S 30080")
	must(t, k.Create(ipset.Set{Name: "S", Type: ipset.BitmapPort, Family: proxier.IPv4, MaxElem: 5}))
	must(t, k.Change("S", []ipset.Entry{{Port: 80}}, nil))
	if got := saved(save(t), "S"); !slices.Equal(got, []string{"bitmap:port range 0-65535", "30080", "80"}) {
		t.Errorf("%q", got)
	}
}

func TestWhatCannotBe(t *testing.T) {
	k := alone(t)
	must(t, k.Create(ipset.Set{Name: "PORTS", Type: ipset.HashIPPort, Family: proxier.IPv4}))
	must(t, k.Create(ipset.Set{Name: "NETS", Type: ipset.HashNet, Family: proxier.IPv4}))
	change := func(set string, e ipset.Entry) func() error {
		return func() error { return k.Change(set, []ipset.Entry{e}, nil) }
	}
	create := func(s ipset.Set) func() error { return func() error { return k.Create(s) } }
	for _, c := range []struct {
		want string
		do   func() error
	}{
		{"change PORTS: 10.0.0.1 is no entry of type hash:ip,port", change("PORTS", ipset.Entry{Addr: addr("10.0.0.1")})},
		{"fd00::1,tcp:80 is not IPv4", change("PORTS", ipset.Entry{Addr: addr("fd00::1"), Protocol: proxier.TCP, Port: 80})},
		{"10.0.0.1,tcp:80 skbmark 0x1 has a mark", change("PORTS", ipset.Entry{Addr: addr("10.0.0.1"), Protocol: proxier.TCP, Port: 80, Mark: 1})},
		{"10.0.0.1,tcp:80,10.0.0.2 is no entry", change("PORTS", ipset.Entry{Addr: addr("10.0.0.1"), Protocol: proxier.TCP, Port: 80, Addr2: addr("10.0.0.2")})},
		{"0.0.0.0/0: the network's length is 1 to 32", change("NETS", ipset.Entry{Net: net("0.0.0.0/0")})},
		{"10.0.0.1/8: the network's length", change("NETS", ipset.Entry{Net: net("10.0.0.1/8")})},
		{"change MISSING: no such set", change("MISSING", ipset.Entry{Port: 1})},
		{"create S: type \"hash:mac\": the kernel does not know", create(ipset.Set{Name: "S", Type: "hash:mac", Family: proxier.IPv4})},
		{"a set of type hash:ip has no family", create(ipset.Set{Name: "S", Type: ipset.HashIP})},
		{"name \"\": it has 1 to 31 bytes", create(ipset.Set{Type: ipset.BitmapPort})},
		{"it has 1 to 31 bytes", create(ipset.Set{Name: strings.Repeat("x", 32), Type: ipset.BitmapPort})},
		{"destroy: name \"\"", func() error { return k.Destroy("") }},
		{"flush: name \"\"", func() error { return k.Flush("") }},
	} {
		err := c.do()
		var op *ipset.OpError
		if !errors.As(err, &op) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v does not say %q", err, c.want)
		}
	}
	if sets, err := k.Sets(); err != nil || len(sets) != 2 {
		t.Errorf("sets %v, %v", sets, err)
	}
}

// A set that somebody else takes away and makes anew as another is noticed by the
// kernel's refusal, and then looked at again.
func TestASetBecomesAnother(t *testing.T) {
	k := alone(t)
	must(t, k.Create(ipset.Set{Name: "S", Type: ipset.HashIP, Family: proxier.IPv4}))
	must(t, k.Change("S", many(1), nil))
	run(t, "destroy S")
	if err := k.Change("S", many(1), nil); !errors.Is(err, ipset.ErrNoSet) {
		t.Errorf("change of a set that is gone: %v", err)
	}
	run(t, "create S hash:ip family inet6")
	if err := k.Change("S", many(1), nil); err == nil {
		t.Error("an IPv4 address is in a set of IPv6")
	}
}

func TestWithoutPermission(t *testing.T) {
	if os.Getenv("IPSET_TEST_CHILD") != "" {
		_, err := ipset.Open(ipset.Options{})
		fmt.Println(errors.Is(err, fs.ErrPermission), err)
		return
	}
	alone(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestWithoutPermission$")
	cmd.Env = append(os.Environ(), "IPSET_TEST_CHILD=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if text := string(out); err != nil || !strings.Contains(text, "true ") || !strings.Contains(text, "needs CAP_NET_ADMIN") {
		t.Errorf("%v: %s", err, out)
	}
}

// How long 10,000 entries take, by this package and by ipset restore.
func TestFillSpeed(t *testing.T) {
	k := alone(t)
	must(t, k.Create(ipset.Set{Name: "S", Type: ipset.HashIP, Family: proxier.IPv4}))
	entries := many(10_000)
	start := time.Now()
	must(t, k.Change("S", entries, nil))
	ours := time.Since(start)
	var text strings.Builder
	text.WriteString("create T hash:ip\n")
	for _, e := range entries {
		fmt.Fprintf(&text, "add T %s\n", e)
	}
	cmd := exec.Command("ipset", "restore")
	cmd.Stdin = strings.NewReader(text.String())
	start = time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	theirs := time.Since(start)
	t.Logf("10,000 entries: %s, ipset restore %s, ratio %.2f", ours, theirs, float64(ours)/float64(theirs))
	start = time.Now()
	if list, err := k.Entries("S"); err != nil || len(list) != len(entries) {
		t.Fatal(len(list), err)
	}
	t.Logf("read back: %s", time.Since(start))
}
