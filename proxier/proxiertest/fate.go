package proxiertest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"switchyard/proxier"
)

// Fate is what a user may expect to happen to a packet.
type Fate struct {
	Verdict   proxier.Verdict
	Sticky    bool       // the same client gets the same endpoint again
	Endpoints []Endpoint // Forward: one of these, each with the same probability; sorted by address
}

// Endpoint is where a packet may end, and whom the endpoint sees.
type Endpoint struct {
	Addr netip.AddrPort
	Masq bool // the node's address, not the client's
}

// FateOf returns the fate that a State gave to a packet, in the words of a
// scenario.
func FateOf(p proxier.Packet, f proxier.Fate) Fate {
	out := Fate{Verdict: f.Verdict}
	if f.Verdict != proxier.Forward {
		return out
	}
	out.Sticky = f.Service != nil && f.Service.Affinity > 0
	for _, ep := range f.Endpoints {
		out.Endpoints = append(out.Endpoints, Endpoint{Addr: ep.Addr, Masq: f.Masquerades(ep)})
	}
	out.sort()
	return out
}

func (f *Fate) sort() {
	slices.SortFunc(f.Endpoints, func(a, b Endpoint) int { return a.Addr.Compare(b.Addr) })
}

// Equal reports whether two fates cannot be told apart.
func (f Fate) Equal(o Fate) bool {
	return f.Verdict == o.Verdict && f.Sticky == o.Sticky && slices.Equal(f.Endpoints, o.Endpoints)
}

// String is the fate as it stands in a scenario's packet line.
func (f Fate) String() string {
	words := []string{f.Verdict.String()}
	unmasked := func(ep Endpoint) bool { return !ep.Masq }
	all := len(f.Endpoints) > 0 && !slices.ContainsFunc(f.Endpoints, unmasked)
	if all {
		words = append(words, "masq")
	}
	if f.Sticky {
		words = append(words, "sticky")
	}
	for _, ep := range f.Endpoints {
		word := ep.Addr.String()
		if ep.Masq && !all {
			word += "(masq)"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// ParseFate reads what String writes. A Forward without endpoints is an error,
// as are endpoints of any other verdict.
func ParseFate(words []string) (Fate, error) {
	var f Fate
	if len(words) == 0 {
		return f, fmt.Errorf("no fate: want pass, reject, drop or forward")
	}
	var err error
	if f.Verdict, err = parseVerdict(words[0]); err != nil {
		return f, err
	}
	masq := false
	for _, word := range words[1:] {
		switch word {
		case "masq":
			masq = true
		case "sticky":
			f.Sticky = true
		default:
			addr, hairpin := strings.CutSuffix(word, "(masq)")
			ap, err := netip.ParseAddrPort(addr)
			if err != nil {
				return f, fmt.Errorf("endpoint %q: %w", word, err)
			}
			f.Endpoints = append(f.Endpoints, Endpoint{Addr: ap, Masq: masq || hairpin})
		}
	}
	f.sort()
	return f, f.check(masq)
}

func (f Fate) check(masq bool) error {
	switch {
	case f.Verdict == proxier.Forward && len(f.Endpoints) == 0:
		return fmt.Errorf("forward without endpoints")
	case f.Verdict != proxier.Forward && (len(f.Endpoints) > 0 || f.Sticky || masq):
		return fmt.Errorf("%s takes nothing after it", f.Verdict)
	}
	for i := 1; i < len(f.Endpoints); i++ {
		if f.Endpoints[i].Addr == f.Endpoints[i-1].Addr {
			return fmt.Errorf("endpoint %s twice", f.Endpoints[i].Addr)
		}
	}
	return nil
}

func parseVerdict(word string) (proxier.Verdict, error) {
	for _, v := range []proxier.Verdict{proxier.Pass, proxier.Reject, proxier.Drop, proxier.Forward} {
		if v.String() == word {
			return v, nil
		}
	}
	return 0, fmt.Errorf("fate %q: want pass, reject, drop or forward", word)
}
