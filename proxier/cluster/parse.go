package cluster

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// problems gathers those of one object.
type problems struct {
	object Object
	list   []Problem
}

func (p *problems) add(field, format string, args ...any) {
	p.list = append(p.list, Problem{Object: Object{p.object.Kind, p.object.Name.clone()}, Field: field, Reason: fmt.Sprintf(format, args...)})
}

// parseAddr parses an address. An IPv4-mapped IPv6 address is taken for the IPv4
// address that it holds; a zone is refused because it means something on one
// host only.
func parseAddr(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		addr, err = netip.ParseAddr(decimal(text))
	}
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s: not an IP address", show(text))
	}
	if addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%s: an address with a zone is of use on one host only", show(text))
	}
	return addr.Unmap(), nil
}

// parsePrefix parses a CIDR. Host bits that are set are ignored.
func parsePrefix(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		prefix, err = netip.ParsePrefix(decimal(text))
	}
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%s: not a CIDR such as 192.0.2.0/24", show(text))
	}
	if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	return prefix.Masked(), nil
}

// decimal drops the leading zeros of a dotted quad. The API server let them in
// for years and read them as decimal, so old objects still hold them.
func decimal(text string) string {
	if strings.Count(text, ".") != 3 || strings.Contains(text, ":") {
		return text
	}
	address, bits, isPrefix := strings.Cut(text, "/")
	parts := strings.Split(address, ".")
	for i, part := range parts {
		parts[i] = strings.TrimLeft(part[:max(len(part)-1, 0)], "0") + part[max(len(part)-1, 0):]
	}
	address = strings.Join(parts, ".")
	if isPrefix {
		return address + "/" + bits
	}
	return address
}

// maxShown bounds what a Problem repeats of a value, in bytes.
const maxShown = 64

// show is how a Problem repeats a value: as it is if it is plain, else quoted.
func show(text string) string {
	if len(text) > maxShown {
		return strconv.Quote(text[:maxShown]) + "…"
	}
	special := func(r rune) bool { return r <= ' ' || r > '~' || r == '"' }
	if text == "" || strings.ContainsFunc(text, special) {
		return strconv.Quote(text)
	}
	return text
}
