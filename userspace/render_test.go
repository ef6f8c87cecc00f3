package userspace

import (
	"net/netip"
	"strings"
	"testing"

	"switchyard/iptables/ruleset"
	"switchyard/proxier"
)

// TestRules shows which rules the rows of a frontend become. Rules are those of the
// service's entries and chains; "nat" and "filter" say where.
func TestRules(t *testing.T) {
	const addr = "-d 198.51.100.7/32 -p tcp -m comment --comment "
	anyone := func(to proxier.To) proxier.Route { return proxier.Route{From: proxier.FromAnyone, To: to} }
	local := []proxier.Route{
		{From: proxier.FromPods, To: proxier.ToCluster}, {From: proxier.FromNode, To: proxier.ToCluster, Masq: true}}
	ranges := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	for _, test := range []struct {
		name  string
		rows  []proxier.Route
		allow []netip.Prefix
		want  []string
	}{
		{"all go to endpoints: one rule, the relay chooses which",
			[]proxier.Route{{From: proxier.FromNotPods, To: proxier.ToCluster, Masq: true}, anyone(proxier.ToCluster)}, nil,
			[]string{"nat " + addr + `"d/s loadbalancer IP" -m tcp --dport 80 -j KUBE-RELAY`}},
		{"no endpoints", []proxier.Route{anyone(proxier.ToReject)}, nil,
			[]string{"filter " + addr + `"d/s has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable`}},
		{"policy Local without an endpoint here", append(local, anyone(proxier.ToDrop)), nil, []string{
			"nat -s 10.180.0.0/16 " + addr + `"d/s loadbalancer IP" -m tcp --dport 80 -j KUBE-RELAY`,
			"nat " + addr + `"d/s loadbalancer IP" -m tcp --dport 80 -m addrtype --src-type LOCAL -j KUBE-RELAY`,
			"filter " + addr + `"d/s has no endpoints for this source" -m tcp --dport 80 -j DROP`}},
		{"source ranges", []proxier.Route{anyone(proxier.ToCluster)}, ranges, []string{
			"nat KUBE-ALLOW: -s 203.0.113.0/24 -j KUBE-RELAY",
			"nat " + addr + `"d/s loadbalancer IP" -m tcp --dport 80 -j KUBE-ALLOW`,
			"filter " + addr + `"d/s has no endpoints for this source" -m tcp --dport 80 -j DROP`}},
		{"source ranges without endpoints: only who may come learns it", []proxier.Route{anyone(proxier.ToReject)}, ranges, []string{
			`filter KUBE-ALLOW: -s 203.0.113.0/24 -m comment --comment "d/s has no endpoints" -j REJECT --reject-with icmp-port-unreachable`,
			"filter " + addr + `"d/s loadbalancer IP" -m tcp --dport 80 -j KUBE-ALLOW`,
			"filter " + addr + `"d/s has no endpoints for this source" -m tcp --dport 80 -j DROP`}},
		{"source ranges and policy Local", append(local, anyone(proxier.ToDrop)), ranges, []string{
			"nat KUBE-FROM: -s 10.180.0.0/16 -j KUBE-RELAY",
			"nat KUBE-FROM: -m addrtype --src-type LOCAL -j KUBE-RELAY",
			"nat KUBE-ALLOW: -s 203.0.113.0/24 -j KUBE-FROM",
			"nat " + addr + `"d/s loadbalancer IP" -m tcp --dport 80 -j KUBE-ALLOW`,
			"filter " + addr + `"d/s has no endpoints for this source" -m tcp --dport 80 -j DROP`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			svc := &proxier.Service{Name: proxier.ServicePort{Namespace: "d", Service: "s"}, Protocol: proxier.TCP,
				Frontends: []proxier.Frontend{{Kind: proxier.LoadBalancer, Addr: netip.MustParseAddrPort("198.51.100.7:80"),
					Routes: test.rows, Allow: test.allow}}}
			node := &proxier.Node{PodRanges: []netip.Prefix{netip.MustParsePrefix("10.180.0.0/16")}}
			out, err := renderService(svc, proxier.IPv4, node)
			if err != nil {
				t.Fatal(err)
			}
			hash := "-" + frontendHash(svc, &svc.Frontends[0])
			got := strings.ReplaceAll(strings.Join(linesOf(out), "\n"), hash, "")
			if want := strings.Join(test.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func linesOf(out rendered) []string {
	var lines []string
	add := func(table string, chains []ruleset.Chain) {
		for _, c := range chains {
			for _, r := range c.Rules {
				lines = append(lines, table+" "+c.Name+": "+r.String())
			}
		}
	}
	add("nat", out.nat)
	add("filter", out.filter)
	for _, e := range out.entries {
		lines = append(lines, e.root.table()+" "+e.rule.String())
	}
	return lines
}
