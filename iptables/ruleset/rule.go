package ruleset

import (
	"net/netip"

	"switchyard/proxier"
)

// Rule is one rule of a chain. The zero value of a field means that the rule
// does not look at it. Rules are comparable: == is "the same rule".
type Rule struct {
	Src, Dst Net              // -s, -d
	In       Interface        // -i
	Proto    proxier.Protocol // -p
	Comment  string           // -m comment, at most 255 bytes
	Set      SetMatch         // -m set
	Ports    Ports            // --dport, with Proto
	SrcType  AddrType         // -m addrtype --src-type
	DstType  AddrType         // -m addrtype --dst-type
	CTState  States           // -m conntrack --ctstate
	OrigDst  netip.Prefix     // -m conntrack --ctorigdst: a network, no single host
	Mark     Mark             // -m mark
	Itself   proxier.Family   // -m bpf: from an address to the very same one; the rule is of this family
	Recent   Recent           // -m recent
	Chance   Chance           // -m statistic --mode random
	Jump     string           // -j: a chain or a target; "" only counts
	Goto     bool             // -g instead of -j
	Reject   string           // REJECT --reject-with
	To       netip.AddrPort   // DNAT --to-destination
	SetMark  Mark             // MARK --set-xmark (Not unused)
	Random   bool             // MASQUERADE --random-fully
	Map      netip.Prefix     // NETMAP --to
	Raw      string           // a rule outside the dialect, word for word; all else is zero
}

// Net is an address match. The zero Net matches every address: a prefix of length 0
// is not for a rule of ours, since iptables-save leaves it out.
type Net struct {
	Prefix netip.Prefix
	Not    bool
}

// NetOf matches one prefix, masked. That of every address gives the zero Net.
func NetOf(p netip.Prefix) Net {
	if p.Bits() == 0 {
		return Net{}
	}
	return Net{Prefix: p.Masked()}
}

// Host matches one address.
func Host(a netip.Addr) Net { return Net{Prefix: netip.PrefixFrom(a, a.BitLen())} }

// Except matches every address outside a prefix, which must not be that of every
// address: the nft programs refuse it.
func Except(p netip.Prefix) Net { return Net{Prefix: p.Masked(), Not: true} }

// Interface is an input interface match; a Name that ends in "+" is a prefix, and
// is longer than that.
type Interface struct {
	Name string
	Not  bool
}

// Ports is a destination port or a range of them, both ends included. Port 0
// alone is not expressible, nor needed; the range of all ports is no match.
type Ports struct{ From, To uint16 }

// Port matches one port.
func Port(p uint16) Ports { return Ports{p, p} }

// AddrType is a routing type of an address, in the kernel's spelling.
type AddrType struct {
	Type string // "LOCAL": the dialect has no other
	Not  bool
}

// States is a set of conntrack states in the order in which iptables-save prints
// them: "RELATED,ESTABLISHED".
type States struct {
	List string
	Not  bool
}

// Mark is a packet mark under a mask.
type Mark struct {
	Value, Mask uint32
	Not         bool
}

// SetMatch is a match of a set of ipset(8).
type SetMatch struct {
	Name string
	// Fields tell for each field of the set's entries whose it is, as in "dst,dst,src".
	// A port is that of the side that is named.
	Fields string
	Not    bool
}

// Recent is a match of xt_recent on the source address, mask of the whole
// address.
type Recent struct {
	Name    string
	Set     bool   // --set: remember the source
	Seconds uint32 // --rcheck --seconds --reap: seen that recently
	Six     bool   // the rule is ip6tables'
}

// Chance is the probability of a statistic match in units of 2^-31, the
// kernel's; 0: no such match.
type Chance uint32

// certain is the Chance that always matches.
const certain = 1 << 31

// OneOf is the Chance of part out of whole, to the nearest 2^-31 that is not 0.
func OneOf(part, whole int) Chance {
	return max(1, Chance((uint64(part)*certain+uint64(whole)/2)/uint64(whole)))
}

// Probability is the chance as a number between 0 and 1.
func (c Chance) Probability() float64 { return float64(c) / certain }

// Chain is a chain with its rules.
type Chain struct {
	Name  string
	Rules []Rule
}

// MaxChainName is the longest name that the kernel takes for a chain, in bytes
// (XT_EXTENSION_MAXNAMELEN less the final zero).
const MaxChainName = 28
