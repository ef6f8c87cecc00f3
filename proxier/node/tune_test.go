package node

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func number(n int) *int                       { return &n }
func duration(d time.Duration) *time.Duration { return &d }

func TestTuning(t *testing.T) {
	const ct = "net.netfilter.nf_conntrack_"
	for _, c := range []struct {
		name   string
		cpus   int
		tuning Tuning
		want   []string
	}{
		{"nothing asked", 8, Tuning{OOMScore: -999}, nil},
		{"upstream's defaults", 8, Tuning{MaxPerCore: number(32768), Min: 131072, TCPEstablished: duration(24 * time.Hour), TCPCloseWait: duration(time.Hour)},
			[]string{"hashsize>=65536", ct + "max>=262144", ct + "tcp_timeout_established=86400", ct + "tcp_timeout_close_wait=3600"}},
		{"few CPUs: the least", 2, Tuning{MaxPerCore: number(32768), Min: 131072}, []string{"hashsize>=32768", ct + "max>=131072"}},
		{"very many: no more than 2^20", 512, Tuning{MaxPerCore: number(32768)}, []string{"hashsize>=262144", ct + "max>=1048576"}},
		{"0 per core leaves alone, whatever the least", 8, Tuning{MaxPerCore: number(0), Min: 131072}, nil},
		{"timeouts of 0 leave alone", 8, Tuning{UDP: duration(0), UDPStream: duration(0), TCPEstablished: duration(0)}, nil},
		{"UDP's, in seconds", 8, Tuning{UDP: duration(10 * time.Second), UDPStream: duration(400 * time.Millisecond)},
			[]string{ct + "udp_timeout=10", ct + "udp_timeout_stream=1"}},
		{"liberal", 8, Tuning{TCPLiberal: true}, []string{ct + "tcp_be_liberal=1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, s := range c.tuning.settings(c.cpus) {
				name := s.name[strings.LastIndex(s.name, "/")+1:]
				got = append(got, name+map[bool]string{true: ">=", false: "="}[s.atLeast]+s.value)
			}
			want := append(slices.Clone(c.want), fmt.Sprintf("oom_score_adj=%d", c.tuning.OOMScore))
			if !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

func TestSettingIsRaisedNeverLowered(t *testing.T) {
	for _, c := range []struct {
		stands  string
		atLeast bool
		enough  bool
	}{
		{"100", false, true}, {"101", false, false}, {"99", false, false},
		{"100", true, true}, {"101", true, true}, {"99", true, false}, {"many", true, false},
	} {
		if got := (setting{"x", "100", c.atLeast}).enough(c.stands); got != c.enough {
			t.Errorf("stands %s, at least %t: enough %t", c.stands, c.atLeast, got)
		}
	}
}

// A setting that cannot be made is one error that names it, and the others are made.
func TestTuneGoesOn(t *testing.T) {
	before, err := os.ReadFile(oomScore)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = writeSysctl(oomScore, strings.TrimSpace(string(before))) })
	changed, errs := Tune(Tuning{OOMScore: 500})
	if !slices.Equal(changed, []string{"/proc/self/oom_score_adj=500"}) || len(errs) > 0 {
		t.Errorf("changed %q, %v", changed, errs)
	}
	changed, errs = Tune(Tuning{OOMScore: 2000})
	if len(changed) > 0 || len(errs) != 1 || !strings.Contains(errs[0].Error(), "set /proc/self/oom_score_adj from 500 to 2000: the kernel refuses this value") {
		t.Errorf("changed %q, %v", changed, errs)
	}
}
