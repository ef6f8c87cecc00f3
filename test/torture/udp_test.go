package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/proxiertest"
	"switchyard/test/subject"
)

// build builds the proxy.
func build(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	return subject.Build(t)
}

// flavours are those of iptables that this machine has.
func flavours(t *testing.T) (found []string) {
	t.Helper()
	for _, f := range []string{"nft", "legacy"} {
		if _, err := exec.LookPath("iptables-" + f); err == nil {
			found = append(found, f)
		} else {
			t.Run(f, func(t *testing.T) { t.Skip("needs iptables-"+f+": ", err) })
		}
	}
	if len(found) == 0 {
		t.Skip("needs iptables: it is not installed")
	}
	return found
}

// lives are what can happen to the Service of a UDP flow, each to one slot: what it is
// when the flow begins, and what it is changed to.
var lives = []struct{ name, before, after string }{
	{"endpoint replaced", "pods ready absent absent absent absent absent", "pods absent absent absent ready absent absent"},
	{"scaled to zero", "pods ready absent absent absent absent absent", "pods absent absent absent absent absent absent"},
	{"service deleted", "pods ready absent absent absent absent absent", "vanish"},
	{"packet before the rules", "vanish", "appear"},
}

// matrixFlow is one socket of the matrix.
type matrixFlow struct {
	*sender
	life, kind string
	family     proxier.Family
}

// matrix are the flows: to each kind of address, in each family, for each life.
func matrix(t *testing.T, p *player) (all []matrixFlow) {
	t.Helper()
	for i, life := range lives {
		for _, f := range families {
			for n, at := range []struct {
				kind   proxier.Kind
				client proxiertest.Host
				dst    netip.AddrPort
			}{
				{proxier.ClusterIP, clients[1], addrPort(clusterIP(f, i), 80)},
				{proxier.NodePort, clients[0], addrPort(proxiertest.LabOf(f).Node, uint16(firstNodePort+slots+i))},
				{proxier.ExternalIP, clients[0], addrPort(externalIP(f, i), 80)},
				{proxier.LoadBalancer, clients[0], addrPort(loadBalancerIP(f, i), 80)},
			} {
				s, err := p.newSender(at.client, at.dst, uint16(5000+100*i+10*n+int(f)))
				if err != nil {
					t.Fatal(err)
				}
				s.figures = p.figures
				all = append(all, matrixFlow{s, life.name, at.kind.String(), f})
			}
		}
	}
	return all
}

// TestUDPResumes keeps a socket for each way to a Service, and has the Service change
// under it: delivery, or an error where there is no endpoint, comes within 2 s.
func TestUDPResumes(t *testing.T) {
	binary := build(t)
	for _, flavour := range flavours(t) {
		t.Run(flavour, func(t *testing.T) { udpResumes(t, Script{Mode: "iptables", Flavour: flavour}, binary) })
		t.Run("userspace "+flavour, func(t *testing.T) { udpResumes(t, Script{Mode: "userspace", Flavour: flavour}, binary) })
	}
}

func udpResumes(t *testing.T, s Script, binary string) {
	st, err := newStage(s, options{binary: binary})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := st.close(); err != nil {
			t.Error(err)
		}
	}()
	p := &player{stage: st, figures: newFigures()}
	change := func(what func(life int) []string) {
		t.Helper()
		var steps []Step
		for i := range lives {
			for _, w := range what(i) {
				steps = append(steps, step(0, "slot %d %s", i, w))
			}
		}
		if err := p.change(steps...); err != nil {
			t.Fatal(err)
		}
	}
	change(func(i int) []string {
		return []string{"kind LoadBalancer", "eip on", lives[0].before, lives[i].before}
	})
	flows := matrix(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	for _, f := range flows {
		wait.Go(func() { f.run(ctx) })
	}
	time.Sleep(3 * st.pace.sendEvery) // every flow is older than the rules
	if err := p.signal(ctx, "start"); err != nil {
		t.Fatal(err)
	}
	p.resume(t, "started", flows, time.Now())
	start := time.Now()
	change(func(i int) []string { return []string{lives[i].after} })
	p.resume(t, "changed", flows, start)
}

// resume waits until every flow is right, and prints when each was.
func (p *player) resume(t *testing.T, when string, flows []matrixFlow, since time.Time) {
	t.Helper()
	rows := map[string]string{}
	left := slices.Clone(flows)
	state := func(f matrixFlow) *proxier.State { return p.history.latest()[f.family] }
	for len(left) > 0 && time.Since(since) < p.pace.resumes {
		time.Sleep(5 * time.Millisecond)
		left = slices.DeleteFunc(left, func(f matrixFlow) bool {
			// What was heard before the change may be right by chance.
			wrong := f.wrong(state(f), since) != ""
			if !wrong {
				rows[f.life] += fmt.Sprintf(" %s %s %d ms,", f.kind, f.family, time.Since(since).Milliseconds())
			}
			return !wrong
		})
	}
	for _, life := range lives {
		t.Logf("%s: %s:%s", when, life.name, strings.TrimSuffix(rows[life.name], ","))
	}
	for _, f := range left {
		t.Errorf("%s: %s: %s", when, f.life, f.wrong(state(f), since))
	}
	time.Sleep(p.pace.silence)
	for _, f := range flows {
		if wrong := f.wrong(state(f), time.Now().Add(-p.pace.silence)); wrong != "" && !slices.Contains(left, f) {
			t.Errorf("%s: %s: was right, and is no more: %s", when, f.life, wrong)
		}
	}
	if t.Failed() {
		t.Log("the proxy said:", p.proxy.tail())
	}
}
