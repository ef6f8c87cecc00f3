package iptables

import (
	"net/netip"
	"slices"
	"testing"

	"switchyard/proxier"
)

// Of the flows that a State does not explain, those that the rules of the process
// before lead are told from others' by where they were sent and where they go.
func TestHeir(t *testing.T) {
	k := newFake(true)
	err := k.Restore(t.Context(), []byte(`*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-EXT-TCOU7JCQXEZGVUNU - [0:0]
:KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
-A KUBE-SERVICES -d 172.30.0.10/32 -p udp -m comment --comment "kube-system/kube-dns:dns cluster IP" -m udp --dport 53 -j KUBE-SVC-TCOU7JCQXEZGVUNU
-A KUBE-NODEPORTS -p udp -m comment --comment "kube-system/kube-dns:dns" -m udp --dport 30053 -j KUBE-EXT-TCOU7JCQXEZGVUNU
-A KUBE-SVC-TCOU7JCQXEZGVUNU -m comment --comment "kube-system/kube-dns:dns -> 10.180.0.11:53" -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p udp -m comment --comment "kube-system/kube-dns:dns" -j DNAT --to-destination 10.180.0.11:53
-A DOCKER -p udp -m udp --dport 5353 -j DNAT --to-destination 10.180.0.11:53
COMMIT
`))
	if err != nil {
		t.Fatal(err)
	}
	way := func(p proxier.Protocol, to, endpoint string) proxier.Way {
		return proxier.Way{Protocol: p, To: netip.MustParseAddrPort(to), Endpoint: netip.MustParseAddrPort(endpoint)}
	}
	ours := []proxier.Way{
		way(proxier.UDP, "172.30.0.10:53", "10.180.0.11:53"),
		way(proxier.UDP, "192.168.0.2:30053", "10.180.0.11:53"),
		way(proxier.UDP, "192.168.0.2:30053", "10.180.0.12:53"), // a pod that terminates
		way(proxier.UDP, "172.30.0.10:53", "172.18.0.2:53"),
	}
	others := []proxier.Way{
		way(proxier.UDP, "192.168.0.2:30053", "172.17.0.2:53"), // neither an endpoint nor a pod
		way(proxier.UDP, "192.168.0.2:5353", "10.180.0.11:53"), // a port that only others' rules have
		way(proxier.SCTP, "172.30.0.10:53", "10.180.0.11:53"),
	}
	led, err := k.backend().Led(t.Context(), &proxier.Node{PodRanges: []netip.Prefix{netip.MustParsePrefix("10.180.0.0/16")}}, slices.Concat(ours, others))
	if err != nil || !slices.Equal(led, ours) {
		t.Errorf("led: %v, %v; want %v", led, err, ours)
	}
}
