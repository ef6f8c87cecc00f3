package ipvs

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

// TestSettings holds the sysctls for kernels.
func TestSettings(t *testing.T) {
	for _, c := range []struct {
		kernel string
		strict bool
		reuse  string
		count  int
	}{
		{"6.18.44", false, "1", 4},
		{"5.9.0-1-amd64", false, "1", 4},
		{"5.8.18", false, "0", 4},
		{"4.1.0", false, "0", 4},
		{"3.10.0-1160.el7.x86_64", false, "", 3},
		{"5.15", true, "1", 6},
		{"unknown", false, "", 3},
	} {
		list := settings(c.kernel, proxier.IPVSSettings{StrictARP: c.strict})
		reuse := ""
		for _, s := range list {
			if s.name == "net/ipv4/vs/conn_reuse_mode" {
				reuse = s.value
			}
		}
		if reuse != c.reuse || len(list) != c.count {
			t.Errorf("%s: conn_reuse_mode %q, want %q; %d settings, want %d", c.kernel, reuse, c.reuse, len(list), c.count)
		}
	}
}

// TestTune writes what differs, tells of it once, and goes on without what it can do
// without.
func TestTune(t *testing.T) {
	k := newFake()
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	for range 2 {
		if err := tune(fakeSysctls{k}, proxier.IPVSSettings{}, logger); err != nil {
			t.Fatal(err)
		}
	}
	if k.sysctl["net/ipv4/vs/conntrack"] != "1" || k.sysctl["net/ipv4/vs/expire_nodest_conn"] != "1" {
		t.Errorf("sysctls: %v", k.sysctl)
	}
	if n := strings.Count(log.String(), "\n"); n != 3 { // conn_reuse_mode was right
		t.Errorf("%d lines in the log, want 3:\n%s", n, &log)
	}
	for name, needed := range map[string]bool{"net/ipv4/vs/conntrack": true, "net/ipv4/vs/expire_nodest_conn": false} {
		k := newFake()
		delete(k.sysctl, name)
		err := tune(fakeSysctls{k}, proxier.IPVSSettings{}, slog.New(slog.DiscardHandler))
		if (err != nil) != needed || needed && !strings.Contains(err.Error(), "net.ipv4.vs.conntrack=1") {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// clock is the timeouts of a kernel.
type clock struct {
	is     vs.Timeouts
	writes int
}

func (c *clock) Timeouts() (vs.Timeouts, error) { return c.is, nil }

func (c *clock) SetTimeouts(t vs.Timeouts) error {
	c.writes++
	c.is = t
	return nil
}

// TestTimeouts writes timeouts that differ, and warns of a short one.
func TestTimeouts(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	c := &clock{is: vs.Timeouts{TCP: 15 * time.Minute, TCPFin: 2 * time.Minute, UDP: 5 * time.Minute}}
	for _, x := range []struct {
		ask  proxier.IPVSSettings
		want int
	}{
		{proxier.IPVSSettings{}, 0},
		{proxier.IPVSSettings{TCP: 15 * time.Minute}, 0},
		{proxier.IPVSSettings{TCP: time.Hour}, 1},
	} {
		c.writes = 0
		if err := setTimeouts(c, x.ask, quiet); err != nil || c.writes != x.want {
			t.Errorf("%+v: %d writes, want %d; %v", x.ask, c.writes, x.want, err)
		}
	}
	k := newFake()
	k.sysctl[established] = "86400"
	if text := shortTimeout(c, fakeSysctls{k}, proxier.IPVSSettings{}); !strings.Contains(text, "1h0m0s") || !strings.Contains(text, "24h0m0s") {
		t.Errorf("an hour against a day: %q", text)
	}
	if text := shortTimeout(c, fakeSysctls{k}, proxier.IPVSSettings{TCP: 24 * time.Hour}); text != "" {
		t.Errorf("a day against a day: %q", text)
	}
	delete(k.sysctl, established)
	if text := shortTimeout(c, fakeSysctls{k}, proxier.IPVSSettings{}); text != "" {
		t.Errorf("without conntrack: %q", text)
	}
}
