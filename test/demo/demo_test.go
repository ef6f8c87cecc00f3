package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"switchyard/proxier"
	"switchyard/test/netlab"
)

var (
	here  = proxier.Endpoint{Addr: netip.MustParseAddrPort("10.180.0.11:80"), Local: true}
	there = proxier.Endpoint{Addr: netip.MustParseAddrPort("10.180.1.11:80")}
	alien = proxier.Endpoint{Addr: netip.MustParseAddrPort("10.180.9.9:80")}

	client = netip.MustParseAddr("203.0.113.7")
	nodeIP = netip.MustParseAddr("192.168.0.2")
)

// met makes n results of connections that ended at an endpoint.
func met(n int, ep proxier.Endpoint, seen netip.Addr) []netlab.Result {
	r := netlab.Result{Verdict: netlab.Answered, Endpoint: ep.Addr.String(), ClientSeen: netip.AddrPortFrom(seen, 4711)}
	return repeat(n, r)
}

func repeat(n int, r netlab.Result) []netlab.Result {
	all := make([]netlab.Result, n)
	for i := range all {
		all[i] = r
	}
	return all
}

func join(parts ...[]netlab.Result) (all []netlab.Result) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// TestJudge: what differs from the promise is named, and nothing else.
func TestJudge(t *testing.T) {
	both := proxier.Fate{Verdict: proxier.Forward, Endpoints: []proxier.Endpoint{here, there}}
	masq := both
	masq.Masq = true
	refused := repeat(5, netlab.Result{Verdict: netlab.Refused, Err: errors.New("connection refused")})
	silent := repeat(5, netlab.Result{Verdict: netlab.Timeout, Err: errors.New("timed out")})
	tests := []struct {
		name     string
		fate     proxier.Fate
		affinity bool
		results  []netlab.Result
		want     string // "": as promised
	}{
		{"fair", both, false, join(met(52, here, client), met(48, there, client)), ""},
		{"masqueraded", masq, false, join(met(52, here, nodeIP), met(48, there, nodeIP)), ""},
		{"refused", proxier.Fate{Verdict: proxier.Reject}, false, refused, ""},
		{"dropped", proxier.Fate{Verdict: proxier.Drop}, false, silent, ""},
		{"affinity", both, true, met(100, there, client), ""},
		{"unfair", both, false, join(met(90, here, client), met(10, there, client)), "10.180.1.11:80 got 10 of 100, promised 50%"},
		{"one never met", both, false, met(100, here, client), "10.180.1.11:80 got 0 of 100"},
		{"a stranger answers", both, false, join(met(50, here, client), met(50, there, client), met(1, alien, client)),
			"1 connections ended at 10.180.9.9:80"},
		{"affinity broken", both, true, join(met(99, here, client), met(1, there, client)), "met 2 endpoints"},
		{"source lost", both, false, join(met(50, here, nodeIP), met(50, there, client)),
			"50 times 10.180.0.11:80 took the client for 192.168.0.2, promised 203.0.113.7"},
		{"not masqueraded", masq, false, join(met(50, here, client), met(50, there, nodeIP)), "promised the node's address"},
		{"some refused", both, false, join(met(50, here, client), met(50, there, client), refused), "5 of 105: refused, promised answered"},
		{"dropped for refused", proxier.Fate{Verdict: proxier.Reject}, false, silent, "5 of 5: timeout, promised refused (first number 1: timed out)"},
		{"refused for dropped", proxier.Fate{Verdict: proxier.Drop}, false, refused, "5 of 5: refused, promised timeout"},
		{"answered for refused", proxier.Fate{Verdict: proxier.Reject}, false, met(5, here, client), "5 of 5: answered"},
	}
	for _, tt := range tests {
		r := row{results: tt.results, trial: trial{
			fate: tt.fate, affinity: tt.affinity, node: &proxier.Node{Local: []netip.Addr{nodeIP}},
			packet: proxier.Packet{Src: client},
		}}
		got := strings.Join(judge(&r), "; ")
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: judged %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestJudgeHairpin: an endpoint that reaches itself sees the node.
func TestJudgeHairpin(t *testing.T) {
	vip := netip.MustParseAddrPort("172.30.0.10:80")
	state := proxier.State{
		Family: proxier.IPv4,
		Node:   proxier.Node{Local: []netip.Addr{nodeIP}},
		Services: []*proxier.Service{{
			Protocol: proxier.TCP,
			Cluster:  []proxier.Endpoint{here},
			Frontends: []proxier.Frontend{{
				Kind: proxier.ClusterIP, Addr: vip,
				Routes: []proxier.Route{{From: proxier.FromAnyone, To: proxier.ToCluster}},
			}},
		}},
	}
	packet := proxier.Packet{Protocol: proxier.TCP, Src: here.Addr.Addr(), Dst: vip, In: netlab.PodBridge}
	for seen, want := range map[netip.Addr]bool{nodeIP: true, here.Addr.Addr(): false} {
		r := row{results: met(5, here, seen), trial: trial{
			fate: state.Decide(packet), node: &state.Node, packet: packet,
		}}
		if got := judge(&r); (got == nil) != want {
			t.Errorf("client seen as %s: judged %v, want right: %v", seen, got, want)
		}
	}
}

func TestBar(t *testing.T) {
	for share, want := range map[float64]string{0: "", 0.01: "", 0.02: "▏", 0.25: "█▌", 0.5: "███", 1: "██████"} {
		if got := bar(share); got != want {
			t.Errorf("bar(%v) = %q, want %q", share, got, want)
		}
	}
}

// TestParse: what cannot be asked for is refused with what can.
func TestParse(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "kube-proxy")
	if err := os.WriteFile(binary, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args []string
		want string
	}{
		{[]string{"-binary", binary}, ""},
		{[]string{"-binary", binary, "-mode", "turbo"}, `mode "turbo": there is only iptables`},
		{[]string{"-binary", binary, "-connections", "0"}, "connections 0: must be 1 to 10000"},
		{[]string{"-binary", binary + "x"}, "run make build"},
	}
	for _, tt := range tests {
		_, err := parse(tt.args)
		if got := fmt.Sprint(err); (err == nil) != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%v: %s, want %q", tt.args, got, tt.want)
		}
	}
}

// TestTable: a row that is not as promised is counted and explained, and
// nothing is coloured where nobody looks.
func TestTable(t *testing.T) {
	r := row{trial: trial{
		service: &proxier.Service{Name: proxier.ServicePort{Namespace: "default", Service: "web"}, Protocol: proxier.TCP},
		kind:    "ClusterIP", from: "pod-a1", count: 4,
		packet: proxier.Packet{Src: client, Dst: netip.MustParseAddrPort("172.30.0.10:80")},
		fate:   proxier.Fate{Verdict: proxier.Forward, Endpoints: []proxier.Endpoint{here, there}},
	}, results: join(met(3, here, client), met(1, there, client))}
	r.results[0].Took = 90 * time.Microsecond
	bad := r
	bad.wrong = []string{"the reason"}
	var b strings.Builder
	p := &printer{w: io.Writer(&b)}
	if got := p.table([]row{r, bad}); got != 1 {
		t.Errorf("%d broken rows, want 1", got)
	}
	p.summary([]row{r, bad}, time.Second)
	for _, want := range []string{"ClusterIP 172.30.0.10:80", "4 TCP", "a1 ████▌ 75%  b1 █▌ 25%", "203.0.113.7",
		"✔ any of 2", "✘ any of 2", "    the reason", "1 of 2 rows as promised, 8 connections in 1s"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("printed no %q:\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "\x1b") {
		t.Errorf("printed colours:\n%q", b.String())
	}
}
