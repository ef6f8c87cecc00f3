package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"

	"switchyard/proxier"
	"switchyard/test/netlab"
)

// sigmas is how far a share may be from what was promised, in standard
// deviations of a fair choice: a fair one is farther once in two million.
const sigmas = 5

// judge lists how the results of a row differ from the fate of its packet.
func judge(r *row) []string {
	want := map[proxier.Verdict]netlab.Verdict{
		proxier.Forward: netlab.Answered,
		proxier.Reject:  netlab.Refused,
		proxier.Drop:    netlab.Timeout,
	}[r.fate.Verdict]
	others, first := map[netlab.Verdict]int{}, -1
	for i, res := range r.results {
		if res.Verdict != want {
			others[res.Verdict]++
			if first < 0 {
				first = i
			}
		}
	}
	var wrong []string
	for _, v := range []netlab.Verdict{netlab.Answered, netlab.Refused, netlab.Timeout, netlab.Unreachable, netlab.Failed} {
		if others[v] > 0 {
			wrong = append(wrong, fmt.Sprintf("%d of %d: %s, promised %s (first number %d: %v)",
				others[v], len(r.results), v, want, first+1, r.results[first].Err))
		}
	}
	if want == netlab.Answered {
		wrong = append(wrong, judgeShares(r)...)
		wrong = append(wrong, judgeClients(r)...)
	}
	return wrong
}

// judgeShares: each endpoint gets its part, and nobody else gets any; with
// affinity, one endpoint gets all.
func judgeShares(r *row) []string {
	got := r.shares()
	var wrong []string
	total, used := 0, 0
	for _, n := range got {
		total += n
	}
	p := 1 / float64(len(r.fate.Endpoints))
	slack := sigmas*math.Sqrt(float64(total)*p*(1-p)) + 0.5
	for _, ep := range r.fate.Endpoints {
		n := got[ep.Addr]
		delete(got, ep.Addr)
		if n > 0 {
			used++
		}
		if off := math.Abs(float64(n) - float64(total)*p); !r.affinity && off > slack {
			wrong = append(wrong, fmt.Sprintf("%s got %d of %d, promised %.0f%%", ep.Addr, n, total, p*100))
		}
	}
	if r.affinity && used > 1 {
		wrong = append(wrong, fmt.Sprintf("a client with affinity met %d endpoints", used))
	}
	for addr, n := range got {
		wrong = append(wrong, fmt.Sprintf("%d connections ended at %s, which is none of its endpoints", n, addr))
	}
	return wrong
}

// judgeClients: an endpoint sees the client itself, or a node's address where
// the connection is masqueraded.
func judgeClients(r *row) []string {
	bad := map[string]int{}
	for _, res := range r.results {
		addr := serverOf(res)
		i := slices.IndexFunc(r.fate.Endpoints, func(e proxier.Endpoint) bool { return e.Addr == addr })
		if i < 0 {
			continue
		}
		seen, promised := res.ClientSeen.Addr(), r.packet.Src.String()
		ok := seen == r.packet.Src
		if r.fate.Masquerades(r.fate.Endpoints[i]) {
			promised, ok = "the node's address", r.node.IsLocal(seen)
		}
		if !ok {
			bad[fmt.Sprintf("%s took the client for %s, promised %s", res.Endpoint, seen, promised)]++
		}
	}
	var wrong []string
	for text, n := range bad {
		wrong = append(wrong, fmt.Sprintf("%d times %s", n, text))
	}
	slices.Sort(wrong)
	return wrong
}

// shares counts the connections that each server answered.
func (r *row) shares() map[netip.AddrPort]int {
	n := map[netip.AddrPort]int{}
	for _, res := range r.results {
		if res.Verdict == netlab.Answered {
			n[serverOf(res)]++
		}
	}
	return n
}

// serverOf is the server that answered: its identity is its address. The zero
// address stands for one that no server of the demo has.
func serverOf(r netlab.Result) netip.AddrPort {
	addr, err := netip.ParseAddrPort(r.Endpoint)
	if err != nil {
		return netip.AddrPort{}
	}
	return addr
}

// checkHealth asks as a load balancer does, and says what it was told.
func (t trial) checkHealth(ctx context.Context, host *netlab.Host) (string, []string) {
	ctx, cancel := context.WithTimeout(ctx, netlab.DefaultTimeout*5)
	defer cancel()
	code, body, err := get(ctx, host, t.packet.Dst, "/")
	if err != nil {
		return "no answer", []string{err.Error()}
	}
	var told struct{ LocalEndpoints int }
	if err := json.Unmarshal(body, &told); err != nil {
		return http.StatusText(code), []string{fmt.Sprintf("answer %q: %v", body, err)}
	}
	note := fmt.Sprintf("%d %s, %d pods here", code, http.StatusText(code), told.LocalEndpoints)
	want := http.StatusOK
	if len(t.service.Local) == 0 {
		want = http.StatusServiceUnavailable
	}
	if code != want || told.LocalEndpoints != len(t.service.Local) {
		return note, []string{fmt.Sprintf("promised %d and %d pods", want, len(t.service.Local))}
	}
	return note, nil
}

// get asks from a host by HTTP and returns the answer's code and body, of which
// 4 kB are enough.
func get(ctx context.Context, host *netlab.Host, at netip.AddrPort, path string) (int, []byte, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return host.Dial(ctx, "tcp", netip.AddrPort{}, at)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	return resp.StatusCode, body, err
}
