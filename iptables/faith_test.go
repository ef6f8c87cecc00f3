package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// unnamed refuses the first calls with a refusal that names no service's line.
func unnamed(calls int) func(int) error {
	return func(commit int) error {
		if commit < 0 || calls == 0 {
			return nil
		}
		calls--
		return &ruleset.RestoreError{Table: "nat", Line: 2, Lines: []int{2}, Text: ":KUBE-X - [0:0]", Status: 1, Stderr: "line 2 failed"}
	}
}

// watchAddresses reports after every COMMIT which addresses are not forwarded.
func watchAddresses(t *testing.T, k *fakeKernel, addrs []netip.AddrPort) (lost map[netip.AddrPort]bool) {
	t.Helper()
	lost = map[netip.AddrPort]bool{}
	k.onCommit = func(string, fakeTable) {
		tables := k.traced(t)
		for _, a := range addrs {
			p := proxier.Packet{Protocol: proxier.TCP, Src: netip.MustParseAddr("10.128.0.9"), Dst: a, In: "eth0"}
			for _, o := range tables.Trace(p, ruleset.World{Local: isLabLocal}) {
				lost[a] = lost[a] || o.Verdict != proxier.Forward
			}
		}
	}
	return lost
}

// renamed is a State in which some services have another name, and all else as it was:
// what becomes of a Service that is deleted and made again.
func renamed(s *proxier.State, which ...int) *proxier.State {
	next := &proxier.State{Family: s.Family, Node: s.Node, Services: slices.Clone(s.Services)}
	for i, n := range which {
		svc := *s.Services[n]
		// One before and one behind its place.
		svc.Name.Service = [...]string{"a-", "z-"}[i%2] + svc.Name.Service
		next.Services[n] = &svc
	}
	slices.SortFunc(next.Services, (*proxier.Service).Compare)
	return next
}

// given is a State in which a service has an external address that another had before.
func given(s *proxier.State, to int, vip string) *proxier.State {
	return edited(s, to, external(vip, 0, anyone))
}

// However the kernel's refusals fall, an address that has a service before and after
// has one all the while; also when the process that looks for the culprit has only just
// started.
func TestNoAddressIsWithoutItsService(t *testing.T) {
	plain := plainState(14, 2)
	const vip = "198.51.100.9:80"
	for _, c := range []struct {
		name    string
		was, is *proxier.State
		also    []netip.AddrPort // besides the ClusterIPs
	}{
		{"services are made anew under other names", plain, renamed(plain, 1, 2, 4, 12), nil},
		{"an address moves to a service before it", given(plain, 10, vip), given(plain, 3, vip),
			[]netip.AddrPort{netip.MustParseAddrPort(vip)}},
		{"an address moves to a service behind it", given(plain, 3, vip), given(plain, 10, vip),
			[]netip.AddrPort{netip.MustParseAddrPort(vip)}},
	} {
		for _, restart := range []bool{false, true} {
			for refusals := range 9 {
				for _, nft := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s, restart %t, nft %t, %d refused", c.name, restart, nft, refusals), func(t *testing.T) {
						k := newFake(nft)
						b := k.backend()
						noneAside(t, mustApply(t, b, c.was))
						addrs := slices.Clone(c.also)
						for _, s := range plain.Services {
							addrs = append(addrs, s.Frontends[0].Addr)
						}
						if restart {
							b = k.backend()
						}
						lost := watchAddresses(t, k, addrs)
						k.fault = unnamed(refusals)
						report, err := b.Apply(t.Context(), c.is)
						if refusals < 5 && err != nil {
							t.Error(err)
						}
						for a, l := range lost {
							if l && len(report.SetAside) == 0 {
								t.Errorf("%s was without its service for a while", a)
							}
						}
						k.onCommit, k.fault = nil, nil
						noneAside(t, mustApply(t, b, c.is))
						checkEnd(t, k, c.is)
						checkQuiet(t, k, b, c.is)
					})
				}
			}
		}
	}
}

// A process that starts while the kernel refuses a service leaves what stands of it as
// it is, for as long as that does no harm, and takes all of it out when it may.
func TestOlderVersionOutlivesARestart(t *testing.T) {
	was := edited(plainState(40, 3), 7, external("198.51.100.9:80", 30007, anyone))
	older := servicePrefix + serviceHash(was.Services[7])
	for _, c := range []struct {
		name  string
		edit  func(*proxier.Service)
		stays bool
	}{
		{"another endpoint less", lessOne, true},
		{"one endpoint is left", func(s *proxier.Service) { s.Cluster = s.Cluster[2:] }, true},
		{"an address less", func(s *proxier.Service) { s.Frontends = s.Frontends[:2]; lessOne(s) }, true},
		{"it cannot be said in rules", func(s *proxier.Service) {
			s.Frontends = slices.Clone(s.Frontends)
			s.Frontends[0].Routes = []proxier.Route{{From: proxier.FromPods, To: proxier.ToCluster}, rejected}
		}, true},
		{"no endpoint is left", withoutEndpoints, false},
		{"other endpoints", func(s *proxier.Service) { s.Cluster = plainEndpoints(700, 2) }, false},
		{"sources are closed out", func(s *proxier.Service) {
			s.Frontends = slices.Clone(s.Frontends)
			s.Frontends[1].Allow = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachStyle(t, func(t *testing.T, nft bool) {
				k := newFake(nft)
				mustApply(t, k.backend(), was)
				want := edited(was, 7, c.edit)
				bad := want.Services[7]
				k.refuse = func(line string) bool {
					return strings.HasPrefix(line, "-A "+older) || strings.HasPrefix(line, "-A "+firewallPrefix) ||
						strings.Contains(line, bad.Name.String()+" has no endpoints")
				}
				b := k.backend()
				emptied := 0
				k.onCommit = func(string, fakeTable) {
					if len(k.tables["nat"][older]) == 0 {
						emptied++
					}
				}
				// Whatever comes and goes around it.
				for _, s := range []*proxier.State{want, edited(want, 9, lessOne), stateWithout(want, want.Services[11]), want} {
					report := mustApply(t, b, s)
					if len(report.SetAside) != 1 || report.SetAside[0].Service != bad.Name {
						t.Fatalf("set aside %v, want %s", report.SetAside, bad.Name)
					}
				}
				if c.stays {
					checkHolds(t, k, was)
				} else {
					checkHolds(t, k, stateWithout(was, was.Services[7]))
				}
				if c.stays && emptied > 0 {
					t.Errorf("%s was empty after %d COMMITs", older, emptied)
				}
				k.refuse, k.onCommit = nil, nil
				b.Forget()
				if c.name != "it cannot be said in rules" {
					noneAside(t, mustApply(t, b, want))
					checkEnd(t, k, want)
				}
				gone := stateWithout(want, bad)
				noneAside(t, mustApply(t, b, gone))
				checkEnd(t, k, gone)
				checkQuiet(t, k, b, gone)
			})
		})
	}
}
