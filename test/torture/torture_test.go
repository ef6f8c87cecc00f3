package main

import (
	"bytes"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"switchyard/proxier"
)

// TestMain keeps the backends quiet that program fresh nodes.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// slice is how long each mode is tortured, all at the same time.
const slice = 180 * time.Second

// The modes in turn: for three minutes by the clock everything changes and fails that
// a script has words for, and before that what must not harm anybody happens. The
// seeds are given, so that a failure is one of what was changed, and no bad luck; make
// torture draws others.
func TestTortureNFT(t *testing.T)       { tortureHere(t, "iptables", "nft", 1) }
func TestTortureLegacy(t *testing.T)    { tortureHere(t, "iptables", "legacy", 2) }
func TestTortureUserspace(t *testing.T) { tortureHere(t, "userspace", "nft", 3) }

// TestTortureAPI has an API server stop, lag, refuse, close watches, forget versions and
// tell everything twice.
func TestTortureAPI(t *testing.T) {
	apiserver, err := filepath.Abs("../../bin/kube-apiserver")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(apiserver); err != nil {
		t.Skip("missing: bin/kube-apiserver; build it in test/apiserver")
	}
	flavour := flavours(t)[0]
	t.Parallel()
	playScript(t, errant(Script{Mode: "iptables", Flavour: flavour, Seed: 5}), options{binary: build(t), apiserver: apiserver, light: true})
}

func tortureHere(t *testing.T, mode, flavour string, seed uint64) {
	if !slices.Contains(flavours(t), flavour) {
		t.Skip("needs iptables-" + flavour + ": it is not installed")
	}
	t.Parallel()
	tortureMode(t, mode, flavour, seed, build(t))
}

func tortureMode(t *testing.T, mode, flavour string, seed uint64, binary string) {
	o := options{mode: mode, flavour: flavour, seed: seed, binary: binary, bounds: "9,3,2", duration: slice, light: true}
	end := time.Now().Add(slice)
	all, err := scripts(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		s.Lasts = min(s.Lasts, time.Until(end))
		playScript(t, s, o)
	}
}

func playScript(t *testing.T, s Script, o options) {
	t.Helper()
	v, err := run(t.Context(), s, o)
	if v.figures == nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	v.figures.print(&b)
	printBounds(&b, s.Mode+" "+s.Flavour, v.figures.bounds(thisPace()))
	t.Logf("seed %d, %d of %d steps\n%s", s.Seed, v.played, len(s.Steps), &b)
	if err != nil {
		t.Fatal(err)
	}
	if v.figures.tried < 100 || v.figures.quiet == 0 {
		t.Errorf("only %d connects were tried, and %d quiet moments came", v.figures.tried, v.figures.quiet)
	}
	for _, f := range v.failures {
		t.Error(f)
	}
	if len(v.failures) > 0 {
		b.Reset()
		_, _ = s.with(s.Steps[:v.played]).WriteTo(&b)
		t.Logf("the proxy said last:%s\nthe script, for -script:\n%s", v.log, &b)
	}
}

// A script is what it was after it was written and read.
func TestScriptIsText(t *testing.T) {
	k, err := newKernel("iptables", "nft")
	if err != nil {
		t.Fatal(err)
	}
	base := Script{Mode: "iptables", Flavour: "legacy", Seed: 7}
	for _, s := range []Script{random(base, time.Minute, k), bounds(base, 9, 2, 1), everyWrite(base), errant(base)} {
		var b bytes.Buffer
		if _, err := s.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		got, err := parseScript(&b)
		if err != nil || !slices.EqualFunc(got.Steps, s.Steps, func(a, b Step) bool { return a.String() == b.String() }) ||
			got.Mode != s.Mode || got.Flavour != s.Flavour || got.API != s.API || got.Seed != s.Seed {
			t.Errorf("read back: %v, %v\nwritten: %v", got, err, s)
		}
	}
	for _, bad := range []string{"quiet", "soon quiet", "1s frobnicate"} {
		if _, err := parseScript(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is no step", bad)
		}
	}
	if again := random(base, time.Minute, k); !reflect.DeepEqual(again, random(base, time.Minute, k)) {
		t.Error("one seed gives two scripts")
	}
}

// Whatever is left out of a script, the world stays one that the API could hold: its
// files are read without a complaint.
func TestEveryWorldIsGood(t *testing.T) {
	k, err := newKernel("iptables", "nft")
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 9))
		files, err := newFiles(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		p, err := newPromiser("iptables", files)
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld()
		for n, s := range random(Script{Seed: seed}, time.Minute, k).Steps {
			if rng.IntN(3) == 0 {
				continue
			}
			w.change(s)
			if n%10 > 0 {
				continue
			}
			for i := range slots {
				if err := files.put(strconv.Itoa(i), w.objects(i)...); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.check(); err != nil {
				t.Fatalf("seed %d, after %s: %v", seed, s, err)
			}
		}
	}
}

// TestShrink leaves of a script what it takes to fail.
func TestShrink(t *testing.T) {
	var steps []Step
	for i := range 60 {
		steps = append(steps, step(0, "slot %d appear", i))
	}
	steps = append(steps, step(0, "quiet"))
	tries := 0
	s := &shrinker{out: io.Discard, until: time.Now().Add(time.Hour), fails: func(try []Step) bool {
		tries++
		has := func(n int) bool {
			return slices.ContainsFunc(try, func(s Step) bool { return s.Verb == "slot" && s.number(0) == n })
		}
		return has(7) && has(41) && try[len(try)-1].Verb == "quiet"
	}}
	if got := s.shrink(steps); len(got) != 3 {
		t.Errorf("%d steps are left: %v", len(got), got)
	}
	if tries > 120 {
		t.Errorf("it took %d tries", tries)
	}
}

// stateOf is a node with one Service, which has these endpoints; none: it refuses.
func stateOf(pods ...string) states {
	s := &proxier.Service{Name: proxier.ServicePort{Namespace: "default", Service: "x"}, Protocol: proxier.TCP}
	to := proxier.ToReject
	for _, p := range pods {
		s.Cluster, to = append(s.Cluster, proxier.Endpoint{Addr: netip.MustParseAddrPort(p)}), proxier.ToCluster
	}
	s.Frontends = []proxier.Frontend{{Kind: proxier.ClusterIP, Addr: netip.MustParseAddrPort("172.30.0.40:80"),
		Routes: []proxier.Route{{From: proxier.FromAnyone, To: to}}}}
	return states{proxier.IPv4: {Family: proxier.IPv4, Services: []*proxier.Service{s}}}
}

// TestHistory tells what may happen to a connection when an endpoint gave way to
// another at 0 s, by what happened to the proxy meanwhile.
func TestHistory(t *testing.T) {
	const s = time.Second
	before, after := "10.180.0.11:80", "10.180.0.12:80"
	none := func(*history) {}
	for _, c := range []struct {
		name    string
		during  func(*history) // begins at 0 s, may let time pass
		at      time.Duration
		old, ok bool // the old endpoint may answer; the new one
		refused bool
	}{
		{"at once", none, s, true, true, false},
		{"after the grace", none, thisPace().grace + s, false, true, false},
		{"confirmed", func(h *history) { time.Sleep(s); h.confirm(time.Now()) }, 2 * s, false, true, false},
		{"the proxy is down", func(h *history) { h.hinder() }, time.Hour, true, true, false},
		{"it was down for 10 s", func(h *history) { end := h.hinder(); time.Sleep(10 * s); end() }, 10*s + thisPace().grace - s, true, true, false},
		{"and up for long", func(h *history) { end := h.hinder(); time.Sleep(10 * s); end() }, 10*s + thisPace().grace + s, false, true, false},
		{"somebody flushed the rules", func(h *history) { h.damage() }, s, true, true, true},
		{"and the repair is overdue", func(h *history) { h.damage() }, thisPace().repair + thisPace().grace + s, false, true, false},
		{"flushed, and the proxy is down", func(h *history) { h.hinder(); h.damage() }, time.Hour, true, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, start := &history{pace: thisPace()}, time.Now()
				h.add(stateOf(before))
				time.Sleep(time.Millisecond)
				h.confirm(time.Now())
				h.add(stateOf(after))
				c.during(h)
				at := start.Add(c.at)
				time.Sleep(time.Until(at))
				p := proxier.Packet{Protocol: proxier.TCP, Src: netip.MustParseAddr("10.180.0.100"), Dst: netip.MustParseAddrPort("172.30.0.40:80")}
				for o, want := range map[outcome]bool{
					{proxier.Forward, before}: c.old, {proxier.Forward, after}: c.ok, {verdict: proxier.Reject}: c.refused,
				} {
					if got := h.allows(p, o, at, at); got != want {
						t.Errorf("%v %s: allowed %v, want %v", o.verdict, o.from, got, want)
					}
				}
			})
		})
	}
}
