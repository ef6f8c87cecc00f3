package ruleset

import (
	"math"
	"net/netip"
	"strconv"
	"strings"
)

// Append appends the rule in the form of iptables-save, without "-A chain" and
// without a newline.
func (r *Rule) Append(b []byte) []byte {
	if r.Raw != "" {
		return append(b, r.Raw...)
	}
	start := len(b)
	b = appendNet(b, " -s ", r.Src)
	b = appendNet(b, " -d ", r.Dst)
	if r.In.Name != "" {
		b = append(appendNot(b, r.In.Not), " -i "...)
		b = append(b, r.In.Name...)
	}
	if r.Proto != 0 {
		b = append(b, " -p "...)
		b = append(b, r.Proto.Lower()...)
	}
	b = r.appendMatches(b)
	b = r.appendTarget(b)
	if len(b) > start {
		b = append(b[:start], b[start+1:]...) // the first space
	}
	return b
}

// String is the rule as iptables-save prints it, without "-A chain".
func (r Rule) String() string { return string(r.Append(nil)) }

func appendNot(b []byte, not bool) []byte {
	if not {
		return append(b, " !"...)
	}
	return b
}

func appendNet(b []byte, option string, n Net) []byte {
	if !n.Prefix.IsValid() {
		return b
	}
	b = appendAddr(append(appendNot(b, n.Not), option...), n.Prefix.Addr())
	return strconv.AppendInt(append(b, '/'), int64(n.Prefix.Bits()), 10)
}

// appendAddr writes an address as inet_ntop of the C library does: the deprecated
// IPv4-compatible ones (RFC 4291, 2.5.5.1) have their end in dots.
func appendAddr(b []byte, a netip.Addr) []byte {
	if raw := a.As16(); a.Is6() && raw[12]|raw[13] != 0 && [12]byte(raw[:12]) == [12]byte{} {
		return netip.AddrFrom4([4]byte(raw[12:])).AppendTo(append(b, "::"...))
	}
	return a.AppendTo(b)
}

func appendTo(b []byte, to netip.AddrPort) []byte {
	if to.Addr().Is6() {
		b = append(appendAddr(append(b, '['), to.Addr()), ']')
	} else {
		b = to.Addr().AppendTo(b)
	}
	return strconv.AppendUint(append(b, ':'), uint64(to.Port()), 10)
}

func (r *Rule) appendMatches(b []byte) []byte {
	if r.Comment != "" {
		b = append(b, " -m comment --comment "...)
		b = appendQuoted(b, r.Comment)
	}
	if r.Set.Name != "" {
		b = append(appendNot(append(b, " -m set"...), r.Set.Not), " --match-set "...)
		b = append(append(append(b, r.Set.Name...), ' '), r.Set.Fields...)
	}
	if r.Ports != (Ports{}) {
		b = append(b, " -m "...)
		b = append(b, r.Proto.Lower()...)
		b = append(b, " --dport "...)
		b = strconv.AppendUint(b, uint64(r.Ports.From), 10)
		if r.Ports.To != r.Ports.From {
			b = strconv.AppendUint(append(b, ':'), uint64(r.Ports.To), 10)
		}
	}
	b = r.appendAddrTypes(b)
	if r.CTState.List != "" {
		b = append(appendNot(append(b, " -m conntrack"...), r.CTState.Not), " --ctstate "...)
		b = append(b, r.CTState.List...)
	}
	if r.OrigDst.IsValid() {
		b = r.OrigDst.AppendTo(append(b, " -m conntrack --ctorigdst "...))
	}
	if r.Mark.Mask != 0 {
		b = append(appendNot(append(b, " -m mark"...), r.Mark.Not), " --mark "...)
		b = appendMatchMark(b, r.Mark)
	}
	if r.Itself != 0 {
		b = append(append(append(b, ` -m bpf --bytecode "`...), itself[r.Itself]...), '"')
	}
	b = r.Recent.append(b)
	if r.Chance != 0 {
		b = append(b, " -m statistic --mode random --probability "...)
		b = strconv.AppendFloat(b, r.Chance.Probability(), 'f', 11, 64)
	}
	return b
}

func (r *Rule) appendAddrTypes(b []byte) []byte {
	if r.SrcType.Type == "" && r.DstType.Type == "" {
		return b
	}
	b = append(b, " -m addrtype"...)
	if r.SrcType.Type != "" {
		b = append(appendNot(b, r.SrcType.Not), " --src-type "...)
		b = append(b, r.SrcType.Type...)
	}
	if r.DstType.Type != "" {
		b = append(appendNot(b, r.DstType.Not), " --dst-type "...)
		b = append(b, r.DstType.Type...)
	}
	return b
}

func (r Recent) append(b []byte) []byte {
	if r.Name == "" {
		return b
	}
	if r.Set {
		b = append(b, " -m recent --set"...)
	} else {
		b = append(b, " -m recent --rcheck --seconds "...)
		b = strconv.AppendUint(b, uint64(r.Seconds), 10)
		b = append(b, " --reap"...)
	}
	b = append(append(b, " --name "...), r.Name...)
	b = append(append(b, " --mask "...), r.mask()...)
	return append(b, " --rsource"...)
}

// mask is the mask of a whole address of the rule's family.
func (r Recent) mask() string {
	if r.Six {
		return "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
	}
	return "255.255.255.255"
}

// appendMatchMark leaves the mask out where it is whole, as iptables-save does.
func appendMatchMark(b []byte, m Mark) []byte {
	if m.Mask == math.MaxUint32 {
		return strconv.AppendUint(append(b, "0x"...), uint64(m.Value), 16)
	}
	return appendMark(b, m)
}

func appendMark(b []byte, m Mark) []byte {
	b = strconv.AppendUint(append(b, "0x"...), uint64(m.Value), 16)
	return strconv.AppendUint(append(b, "/0x"...), uint64(m.Mask), 16)
}

func (r *Rule) appendTarget(b []byte) []byte {
	if r.Jump == "" {
		return b
	}
	option := " -j "
	if r.Goto {
		option = " -g "
	}
	b = append(append(b, option...), r.Jump...)
	if r.Reject != "" {
		b = append(append(b, " --reject-with "...), r.Reject...)
	}
	if r.To.IsValid() {
		b = appendTo(append(b, " --to-destination "...), r.To)
	}
	if r.SetMark != (Mark{}) {
		b = appendMark(append(b, " --set-xmark "...), r.SetMark)
	}
	if r.Random {
		b = append(b, " --random-fully"...)
	}
	if r.Map.IsValid() {
		b = appendAddr(append(b, " --to "...), r.Map.Addr())
		b = strconv.AppendInt(append(b, '/'), int64(r.Map.Bits()), 10)
	}
	return b
}

// appendQuoted writes a comment as iptables-save does: in quotes unless it is
// one plain word.
func appendQuoted(b []byte, s string) []byte {
	if strings.IndexFunc(s, needsQuotes) < 0 {
		return append(b, s...)
	}
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		if s[i] == '"' || s[i] == '\\' || s[i] == '\'' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

// needsQuotes tells the bytes that make iptables-save quote a word: all but
// letters, digits, _ and -.
func needsQuotes(r rune) bool {
	plain := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
		strings.ContainsRune("_-", r)
	return !plain
}

// AppendTo appends the chain's rules as lines "-A name …".
func (c *Chain) AppendTo(b []byte) []byte {
	for i := range c.Rules {
		b = append(append(b, "-A "...), c.Name...)
		if c.Rules[i] != (Rule{}) {
			b = c.Rules[i].Append(append(b, ' '))
		}
		b = append(b, '\n')
	}
	return b
}
