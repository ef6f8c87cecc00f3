package aside

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"switchyard/proxier"
)

// service is one with addresses "10.96.0.1:80", or "30080" for a node port; with
// sources allowed behind a "<", and with endpoints behind a ">".
func service(t *testing.T, name, text string) *proxier.Service {
	t.Helper()
	s := &proxier.Service{Name: proxier.ServicePort{Namespace: "ns", Service: name}, Protocol: proxier.TCP}
	text, endpoints, _ := strings.Cut(text, ">")
	text, allow, _ := strings.Cut(text, "<")
	var allowed []netip.Prefix
	for _, p := range strings.Fields(allow) {
		allowed = append(allowed, netip.MustParsePrefix(p))
	}
	for _, a := range strings.Fields(text) {
		at, err := netip.ParseAddrPort(a)
		if err != nil {
			var port uint16
			_, _ = fmt.Sscan(a, &port)
			at = netip.AddrPortFrom(netip.Addr{}, port)
		}
		s.Frontends = append(s.Frontends, proxier.Frontend{Addr: at, Allow: allowed})
	}
	for _, e := range strings.Fields(endpoints) {
		s.Cluster = append(s.Cluster, proxier.Endpoint{Addr: netip.MustParseAddrPort(e)})
	}
	return s
}

func state(services ...*proxier.Service) *proxier.State {
	return &proxier.State{Family: proxier.IPv4, Services: services}
}

var errRefused = errors.New("refused")

func TestOlderVersionStaysWhereItDoesNoHarm(t *testing.T) {
	for _, c := range []struct {
		name, was, is, other string
		stays                bool
	}{
		{"an endpoint less", "10.96.0.1:80 > 10.0.0.1:8080 10.0.0.2:8080", "10.96.0.1:80 > 10.0.0.2:8080", "", true},
		{"the endpoint's port changed", "10.96.0.1:80 > 10.0.0.1:8080", "10.96.0.1:80 > 10.0.0.1:9090", "", true},
		{"all endpoints are gone", "10.96.0.1:80 > 10.0.0.1:8080", "10.96.0.1:80", "", false},
		{"all endpoints are others", "10.96.0.1:80 > 10.0.0.1:8080", "10.96.0.1:80 > 10.0.0.3:8080", "", false},
		{"it had no endpoint", "10.96.0.1:80", "10.96.0.1:80 > 10.0.0.3:8080", "", true},
		{"an address less", "10.96.0.1:80 30080", "10.96.0.1:80", "", true},
		{"an address is another's now", "10.96.0.1:80 198.51.100.1:80", "10.96.0.1:80", "198.51.100.1:80", false},
		{"a node port is another's now", "10.96.0.1:80 30080", "10.96.0.1:80", "30080", false},
		{"a source less", "198.51.100.1:80 < 203.0.113.0/24 192.0.2.0/24", "198.51.100.1:80 < 203.0.113.0/24", "", false},
		{"a source more", "198.51.100.1:80 < 203.0.113.0/24", "198.51.100.1:80 < 203.0.113.0/24 192.0.2.0/24", "", true},
		{"a narrower source", "198.51.100.1:80 < 203.0.113.0/24", "198.51.100.1:80 < 203.0.113.0/25", "", false},
		{"a wider source", "198.51.100.1:80 < 203.0.113.0/25", "198.51.100.1:80 < 203.0.113.0/24", "", true},
		{"sources that were not told apart", "198.51.100.1:80", "198.51.100.1:80 < 203.0.113.0/24", "", false},
		{"sources that are no longer told apart", "198.51.100.1:80 < 203.0.113.0/24", "198.51.100.1:80", "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			was, is, other := service(t, "a", c.was), service(t, "a", c.is), service(t, "b", c.other)
			var s Services
			s.Put(is, errRefused)
			got := s.Without(state(is, other), state(was)).Services
			want := []*proxier.Service{other}
			if c.stays {
				want = []*proxier.Service{was, other}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%d services go in, want %d", len(got), len(want))
			}
			if s.Put(was, errRefused); len(s.Without(state(is, other), state(was)).Services) != 1 {
				t.Error("a version that is refused as well stays")
			}
			if s.Put(other, errRefused); len(s.List()) != 2 {
				t.Errorf("listed: %v, want each service once", s.List())
			}
		})
	}
}

// Another service that is refused itself does not drive the older version out of an
// address.
func TestAddressGoesToWhoGoesIn(t *testing.T) {
	was, is := service(t, "a", "10.96.0.1:80 198.51.100.1:80"), service(t, "a", "10.96.0.1:80")
	other := service(t, "b", "198.51.100.1:80")
	var s Services
	s.Put(is, errRefused)
	s.Put(other, errRefused)
	if got := s.Without(state(is, other), state(was)).Services; !slices.Equal(got, []*proxier.Service{was}) {
		t.Errorf("%d services go in, want the older version of one", len(got))
	}
}

func TestReviewForgetsWhatChanged(t *testing.T) {
	a, b, c := service(t, "a", "1"), service(t, "b", "2"), service(t, "c", "3")
	for _, x := range []struct {
		name string
		want *proxier.State
		all  bool
		left int
	}{
		{"as it was", state(a, b, c), false, 2},
		{"one changed", state(service(t, "a", "9"), b, c), false, 1},
		{"one is gone", state(a, c), false, 1},
		{"all are to be tried", state(a, b, c), true, 0},
	} {
		var s Services
		s.Put(a, errRefused)
		s.Put(b, errRefused)
		if s.Review(x.want, x.all); len(s.List()) != x.left {
			t.Errorf("%s: %d are left, want %d", x.name, len(s.List()), x.left)
		}
	}
}

// Steps can be taken one by one and no address that both States serve is without a
// service in between; all of them together lead to what is wanted.
func TestStepsLeaveNoAddressAlone(t *testing.T) {
	names := strings.Fields("a b c d e f g h i j")
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		draw := func(gives func(int) bool) *proxier.State {
			texts := make([]string, len(names))
			for i := range 2 * len(names) {
				if owner := rng.IntN(len(names)); gives(owner) {
					texts[owner] += fmt.Sprintf(" 10.96.0.%d:80", i+1)
				}
			}
			s := state()
			for i, name := range names {
				if texts[i] != "" {
					s.Services = append(s.Services, service(t, name, texts[i]))
				}
			}
			return s
		}
		// Services of the one half lose to those of the other, so that none swap.
		swap := rng.IntN(2)
		stands := draw(func(i int) bool { return i%2 == swap })
		want := draw(func(i int) bool { return i%2 != swap || rng.IntN(2) == 0 && i%4 == swap })
		if cyclic(stands, want) {
			continue
		}
		both := addressesOf(want)
		for a := range both {
			if !addressesOf(stands)[a] {
				delete(both, a)
			}
		}
		at := stands
		for _, step := range Steps(stands, want) {
			at = after(at, []Step{step})
			now := addressesOf(at)
			for a := range both {
				if !now[a] {
					t.Fatalf("seed %d: %v is without a service", seed, a.at)
				}
			}
		}
		if !slices.Equal(at.Services, want.Services) || !slices.Equal(after(stands, Steps(stands, want)).Services, want.Services) {
			t.Fatalf("seed %d: the steps do not lead to what is wanted", seed)
		}
	}
}

func addressesOf(s *proxier.State) map[address]bool {
	all := map[address]bool{}
	for _, svc := range s.Services {
		for _, a := range addresses(svc) {
			all[a] = true
		}
	}
	return all
}

// cyclic reports whether some services that stay in both States swap addresses.
func cyclic(stands, want *proxier.State) bool {
	gives := map[string][]string{}
	for _, was := range stands.Services {
		for _, is := range want.Services {
			for _, a := range less(was, VersionIn(want, was)) {
				if was.Compare(is) != 0 && slices.Contains(less(is, VersionIn(stands, is)), a) {
					gives[was.Name.Service] = append(gives[was.Name.Service], is.Name.Service)
				}
			}
		}
	}
	var reaches func(from, to string, depth int) bool
	reaches = func(from, to string, depth int) bool {
		return slices.ContainsFunc(gives[from], func(next string) bool {
			return next == to || depth < 10 && reaches(next, to, depth+1)
		})
	}
	for from := range gives {
		if reaches(from, from, 0) {
			return true
		}
	}
	return false
}

func TestSearchFindsWhatIsRefused(t *testing.T) {
	for _, bad := range [][]int{nil, {0}, {99}, {3, 4, 5}, {0, 10, 20, 30, 40, 50, 60, 70, 80, 90}} {
		t.Run(fmt.Sprint(bad), func(t *testing.T) {
			stands, want := state(service(t, "gone", "30999")), state()
			for i := range 100 {
				want.Services = append(want.Services, service(t, fmt.Sprintf("s%02d", i), fmt.Sprint(30000+i)))
			}
			refused := func(svc *proxier.Service) bool {
				return slices.ContainsFunc(bad, func(i int) bool { return want.Services[i] == svc })
			}
			var s Services
			at, tries := stands, 0
			err := s.Search(stands, Steps(stands, want), func(next *proxier.State) (refusal, err error) {
				if tries++; slices.ContainsFunc(next.Services, refused) {
					return errRefused, nil
				}
				at = next
				return nil, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(s.List()) != len(bad) || !slices.Equal(at.Services, s.Without(want, nil).Services) {
				t.Errorf("%d set aside, want %d; %d of 100 are in", len(s.List()), len(bad), len(at.Services))
			}
			if most := 1 + 2*7*len(bad); tries > most {
				t.Errorf("%d tries, want %d at the most", tries, most)
			}
		})
	}
}

func TestSearchEndsWithAnError(t *testing.T) {
	want := state(service(t, "a", "1"), service(t, "b", "2"))
	var s Services
	down := errors.New("the lock is held")
	tries := 0
	err := s.Search(state(), Steps(state(), want), func(*proxier.State) (refusal, err error) {
		if tries++; tries == 2 {
			return nil, down
		}
		return errRefused, nil
	})
	if !errors.Is(err, down) || tries != 2 || len(s.List()) > 0 {
		t.Errorf("%v after %d tries, %d set aside", err, tries, len(s.List()))
	}
}
