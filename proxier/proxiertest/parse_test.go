package proxiertest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/tools/txtar"

	"switchyard/proxier"
)

const small = `A title

Text [checklist 1] [feature tcp]
-- flags --
# a comment
--masquerade-all
-- cluster.yaml --
kind: Service
-- state --
old
-- packets --

tcp pod-a -> 172.30.0.41:80 forward masq sticky 10.180.1.2:8080 10.180.0.2:8080 # both
udp node@198.51.100.1 -> 192.168.7.2:30080 reject
`

func TestParse(t *testing.T) {
	s, err := Parse("small.txtar", []byte(small))
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "small" || s.Title != "A title" || !s.Has("checklist 1") || !s.Has("feature tcp") || len(s.Tags) != 2 {
		t.Errorf("head: %+v", s)
	}
	if !s.Flags.MasqueradeAll || len(s.Flags.ClusterCIDRs) != 2 || string(s.Cluster) != "kind: Service\n" || s.State != "old\n" {
		t.Errorf("sections: %+v", s)
	}
	var got []string
	for _, p := range s.Packets {
		got = append(got, p.String())
	}
	want := []string{"tcp pod-a -> 172.30.0.41:80 forward masq sticky 10.180.0.2:8080 10.180.1.2:8080",
		"udp node@198.51.100.1 -> 192.168.7.2:30080 reject"}
	if !slices.Equal(got, want) || s.Packets[0].Line != 13 || s.Packets[1].Line != 14 {
		t.Errorf("packets: %q, lines %d and %d", got, s.Packets[0].Line, s.Packets[1].Line)
	}
	if p := s.Packets[0]; p.In != PodBridge || p.Src != LabOf(proxier.IPv4).PodA || p.Protocol != proxier.TCP {
		t.Errorf("packet: %+v", p.Packet)
	}
}

func TestErrorsTellFileAndLine(t *testing.T) {
	replace := func(old, new string) string { return strings.Replace(small, old, new, 1) }
	for _, c := range []struct{ name, data, want string }{
		{"no title", strings.TrimPrefix(small, "A title"), "x.txtar:1: no title"},
		{"no state", replace("-- state --\nold\n", ""), `x.txtar:4: no section "state"`},
		{"unknown section", replace("-- state --", "-- stat --"), `x.txtar:9: section "stat"`},
		{"wrong order", replace("-- cluster.yaml --", "-- packets --"), `x.txtar:9: section "state": the sections are`},
		{"unknown flag", replace("--masquerade-all", "--masquerade-most"), "x.txtar:6: unknown flag: --masquerade-most"},
		{"not a flag", replace("--masquerade-all", "masquerade-all"), `x.txtar:6: "masquerade-all" is not a flag`},
		{"flags that do not fit", replace("--masquerade-all", "--detect-local-mode=BridgeInterface"), "x.txtar:4: --detect-local-mode=BridgeInterface needs --pod-bridge-interface"},
		{"short line", replace(" reject", ""), "x.txtar:14: "},
		{"protocol", replace("udp node", "icmp node"), `x.txtar:14: protocol "icmp"`},
		{"host", replace("pod-a", "pod-z"), `x.txtar:13: source "pod-z": no such host`},
		{"pod without address", replace("pod-a", "pod"), `x.txtar:13: source "pod": an address must follow`},
		{"source of the other family", replace("198.51.100.1", "2001:db8::1"), `x.txtar:14: source "node@2001:db8::1": 2001:db8::1 is not an IPv4 address`},
		{"destination", replace("172.30.0.41:80", "172.30.0.41"), `x.txtar:13: destination "172.30.0.41"`},
		{"fate", replace("reject", "refuse"), `x.txtar:14: fate "refuse"`},
		{"reject with endpoints", replace("reject", "reject 10.180.0.2:80"), "x.txtar:14: reject takes nothing after it"},
		{"forward to nobody", replace("reject", "forward masq"), "x.txtar:14: forward without endpoints"},
		{"endpoint", replace("10.180.1.2:8080", "10.180.1.2"), `x.txtar:13: endpoint "10.180.1.2"`},
		{"endpoint twice", replace("10.180.1.2", "10.180.0.2"), "x.txtar:13: endpoint 10.180.0.2:8080 twice"},
		{"endpoint of the other family", replace("10.180.1.2", "[::5]"), "x.txtar:13: endpoint [::5]:8080 is not of the packet's family"},
	} {
		_, err := Load(fstest.MapFS{"x.txtar": {Data: []byte(c.data)}})
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s…", c.name, err, c.want)
		}
	}
}

// The sections are those that any reader of txtar sees.
func TestSplitAgreesWithTxtar(t *testing.T) {
	for _, s := range []string{small, "-- a --\n-- b --\nx", "", "x", "--  --\n-- a--\n --b --\n--  c  --\ny\r\n", "-- state --"} {
		want := txtar.Parse([]byte(s))
		got := split([]byte(s))
		if len(got) != len(want.Files)+1 {
			t.Errorf("%q: %d sections, txtar sees %d", s, len(got)-1, len(want.Files))
			continue
		}
		for i, f := range want.Files {
			if g := got[i+1]; g.name != f.Name || strings.TrimSuffix(string(g.body), "\n") != strings.TrimSuffix(string(f.Data), "\n") {
				t.Errorf("%q: section %q %q, txtar sees %q %q", s, g.name, g.body, f.Name, f.Data)
			}
		}
	}
}

func TestWriteStateKeepsTheRest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "small.txtar")
	for _, c := range []struct{ state, want string }{
		{"new\nlines", strings.Replace(small, "old\n", "new\nlines\n", 1)},
		{"new\n", strings.Replace(small, "old\n", "new\n", 1)},
		{"", strings.Replace(small, "old\n", "", 1)},
	} {
		if err := os.WriteFile(file, []byte(small), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := WriteState(file, c.state); err != nil {
			t.Fatal(err)
		}
		got, _ := os.ReadFile(file)
		if string(got) != c.want {
			t.Errorf("state %q gives\n%s", c.state, got)
		}
	}
	if _, err := ReplaceState([]byte(small), "a\n-- packets --\n"); err == nil {
		t.Error("a state with a section marker was written")
	}
	if _, err := ReplaceState([]byte("A title\n"), "a"); err == nil {
		t.Error("a state was written where no section is")
	}
}

func TestFlags(t *testing.T) {
	f, err := ParseFlags([]string{"--cluster-cidr=", "--iptables-localhost-nodeports=false", "--nodeport-addresses=primary,10.0.0.0/8",
		"--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth", "--iptables-masquerade-bit=31"})
	if err != nil {
		t.Fatal(err)
	}
	if len(f.ClusterCIDRs) != 0 || f.LocalhostNodePorts || !slices.Equal(f.NodePortAddresses, []string{"primary", "10.0.0.0/8"}) ||
		f.PodInterfaceNamePrefix != "veth" || f.MasqueradeBit != 31 || f.MasqueradeAll {
		t.Errorf("%+v", f)
	}
	for _, bad := range []string{"--cluster-cidr=10.0.0.0", "--detect-local-mode=Magic", "--iptables-masquerade-bit=32",
		"--detect-local-mode=InterfaceNamePrefix", "--masquerade-all=perhaps", "--proxy-mode=iptables"} {
		if f, err := ParseFlags([]string{bad}); err == nil {
			t.Errorf("%s is read as %+v", bad, f)
		}
	}
}

func TestDecodeObjectsIsStrict(t *testing.T) {
	good := "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n"
	for _, c := range []struct{ data, want string }{
		{good + "---\n\n---\n" + good, ""},
		{good + "---\n" + good + "spce: {}\n", "document at line 5: "},
		{"apiVersion: v1\nkind: Pod\n", `document at line 1: apiVersion "v1", kind "Pod"`},
		{good + "kind: Service\n", "document at line 1: "},
	} {
		_, err := DecodeObjects([]byte(c.data))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%q: %v, want %q", c.data, err, c.want)
		}
	}
}
