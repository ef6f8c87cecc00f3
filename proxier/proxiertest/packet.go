package proxiertest

import (
	"fmt"
	"net/netip"
	"strings"

	"switchyard/proxier"
)

// Packet is one line of a scenario's packets: a packet and the fate that the
// specification gives it.
type Packet struct {
	Line int    // in the scenario's file, from 1
	From string // the source as written: "pod-a", "node@198.51.100.1"
	proxier.Packet
	Want Fate
}

// String is the packet and its fate as one line of a scenario.
func (p Packet) String() string {
	return fmt.Sprintf("%s %s -> %s %s", p.Protocol.Lower(), p.From, p.Dst, p.Want)
}

// ParsePacket reads one line: "tcp pod-a -> 172.30.0.41:80 forward 10.180.0.2:8080".
func ParsePacket(line string) (Packet, error) {
	words := strings.Fields(line)
	if len(words) < 5 || words[2] != "->" {
		return Packet{}, fmt.Errorf("%q: want: PROTOCOL SOURCE -> ADDRESS:PORT FATE", line)
	}
	p := Packet{From: words[1]}
	var err error
	if p.Protocol, err = parseProtocol(words[0]); err != nil {
		return Packet{}, err
	}
	if p.Dst, err = netip.ParseAddrPort(words[3]); err != nil {
		return Packet{}, fmt.Errorf("destination %q: %w", words[3], err)
	}
	if p.Src, p.In, err = Source(p.From, p.Dst.Addr()); err != nil {
		return Packet{}, err
	}
	if p.Want, err = ParseFate(words[4:]); err != nil {
		return Packet{}, err
	}
	for _, ep := range p.Want.Endpoints {
		if proxier.FamilyOf(ep.Addr.Addr()) != proxier.FamilyOf(p.Src) {
			return Packet{}, fmt.Errorf("endpoint %s is not of the packet's family", ep.Addr)
		}
	}
	return p, nil
}

func parseProtocol(word string) (proxier.Protocol, error) {
	for _, p := range protocols() {
		if p.Lower() == word {
			return p, nil
		}
	}
	return 0, fmt.Errorf("protocol %q: want tcp, udp or sctp", word)
}
