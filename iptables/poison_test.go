package iptables

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// The programs themselves do not take an affinity of no whole second.
func TestServiceThatTheProgramsRefuse(t *testing.T) {
	eachKernel(t, func(t *testing.T, k realKernel) {
		checkRealPoison(t, k, func(s *proxier.Service) { s.Affinity = 500 * time.Millisecond }, "--seconds 0")
	})
}

// checkRealPoison spoils one service of 100 and mends it again.
func checkRealPoison(t *testing.T, k realKernel, spoil func(*proxier.Service), says string) {
	t.Helper()
	good := family100(k.Family())
	b := k.backend()
	s := edited(good, 42, spoil)
	report := mustApply(t, b, s)
	if len(report.SetAside) != 1 || report.SetAside[0].Service != s.Services[42].Name ||
		!strings.Contains(report.SetAside[0].Reason.Error(), says) {
		t.Fatalf("set aside %v, want %s: …%s…", report.SetAside, s.Services[42].Name, says)
	}
	without := stateWithout(s, s.Services[42])
	if report := mustApply(t, b, without); report.Operations != 0 {
		t.Errorf("the other 99 are not all in: %d more operations", report.Operations)
	}
	noneAside(t, mustApply(t, b, good))
	k.checkQuiet(b, good)

	// Now it has a version that stands.
	if report := mustApply(t, b, s); len(report.SetAside) != 1 {
		t.Errorf("set aside: %v", report.SetAside)
	}
	if report := mustApply(t, b, good); report.Operations != 0 {
		t.Errorf("the old version does not stand: %d operations", report.Operations)
	}
}

// family100 is 100 services of a family.
func family100(family proxier.Family) *proxier.State {
	s := plainState(100, 2)
	if family == proxier.IPv4 {
		return s
	}
	s.Family, s.Node = family, proxier.Node{NodePorts: proxier.NodePorts{Any: true}}
	eps := many(family, 200)
	for i, svc := range s.Services {
		svc.Frontends = []proxier.Frontend{{Kind: proxier.ClusterIP, Addr: addrPort6(i), Routes: []proxier.Route{anyone}}}
		svc.Cluster = eps[2*i : 2*i+2]
	}
	return s
}

// refusing is a program in front of iptables-restore that refuses as the kernel
// does what its input says of port 6667: with the words of the nft
// flavour, which name the line, or of the legacy one, which name the COMMIT.
const refusing = `#!/bin/sh
input=$(mktemp) && cat > "$input"
awk -v flavour=%s '
	/:6667/ && !at { at = NR; chain = $2 }
	/^COMMIT/ && at && !commit { commit = NR }
	END {
		if (!at) exit 0
		if (flavour == "nft") printf "%%s: line %%d: RULE_APPEND failed (Invalid argument): rule in chain %%s\n", "iptables-nft-restore v1.8.9 (nf_tables)", at, chain
		else printf "iptables-restore: line %%d failed\n", commit
		exit 1
	}' "$input" >&2 || { rm "$input"; exit %d; }
%s "$@" < "$input"
status=$?
rm "$input"
exit $status
`

func TestServiceThatTheKernelRefuses(t *testing.T) {
	eachKernel(t, func(t *testing.T, k realKernel) {
		real, err := exec.LookPath(k.program("-restore"))
		if err != nil {
			t.Fatal(err)
		}
		status := map[ruleset.Flavour]int{ruleset.NFT: 4, ruleset.Legacy: 1}[k.Flavour()]
		dir := t.TempDir()
		script := fmt.Sprintf(refusing, k.Flavour(), status, real)
		if err := os.WriteFile(filepath.Join(dir, k.program("-restore")), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		k = openKernel(t, k.Family(), k.Flavour())
		checkRealPoison(t, k, atPort6667, "failed")
	})
}

func atPort6667(s *proxier.Service) {
	addr := s.Cluster[0].Addr.Addr()
	s.Cluster = []proxier.Endpoint{{Addr: netip.AddrPortFrom(addr, 6667)}}
}
