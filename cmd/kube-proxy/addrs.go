package main

import (
	"fmt"
	"net/netip"
)

func parseAddrs(texts []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("--node-addresses: %q: not an IP address", text)
		}
		out = append(out, a)
	}
	return out, nil
}
