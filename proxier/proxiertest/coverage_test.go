package proxiertest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"switchyard/proxier"
)

// features are what iptables mode must do about packets. A scenario shows a
// feature if it carries the tag "[feature NAME]".
var features = map[string]string{
	"clusterip":                "ClusterIP",
	"balancing":                "every endpoint has the same share",
	"nodeport":                 "NodePort",
	"nodeport-addresses":       "--nodeport-addresses with CIDRs",
	"nodeport-primary":         "--nodeport-addresses=primary",
	"nodeport-localhost":       "NodePort on localhost, and turned off",
	"loadbalancer":             "load balancer ingress addresses",
	"ipmode":                   "ipMode VIP and Proxy",
	"held":                     "an address of a Service that the node holds",
	"externalip":               "externalIPs",
	"source-ranges":            "loadBalancerSourceRanges",
	"source-ranges-one-family": "ranges of one family close the other family's address",
	"affinity":                 "session affinity ClientIP",
	"affinity-timeout":         "its timeout",
	"affinity-dead-endpoint":   "a dead endpoint is left at once",
	"external-cluster":         "external traffic policy Cluster",
	"external-local":           "external traffic policy Local",
	"internal-local":           "internal traffic policy Local",
	"short-circuit":            "pods and the node with external policy Local",
	"health-check-port":        "healthCheckNodePort",
	"hairpin":                  "an endpoint reaches itself",
	"hostnetwork":              "endpoints in the nodes' network",
	"masquerade":               "who is masqueraded",
	"masquerade-all":           "--masquerade-all",
	"masquerade-bit":           "--iptables-masquerade-bit",
	"conditions":               "endpoint conditions and their defaults",
	"terminating":              "terminating endpoints (KEP-1669)",
	"publish-not-ready":        "publishNotReadyAddresses",
	"topology-zone":            "zone hints",
	"topology-node":            "node hints",
	"traffic-distribution":     "trafficDistribution acts through hints only",
	"several-slices":           "several EndpointSlices of one Service",
	"duplicate-endpoints":      "an endpoint more than once",
	"conflict":                 "objects that contradict each other",
	"named-ports":              "named target ports, also if they differ by slice",
	"skip-headless":            "headless Services",
	"skip-external-name":       "ExternalName Services",
	"skip-proxy-name":          "the label service-proxy-name",
	"skip-headless-slices":     "the label headless of slices",
	"no-endpoints":             "no endpoints: reject",
	"weights":                  "weights of endpoints, 0 among them",
	"local-none":               "policy Local, none here: drop",
	"forward-accept":           "a FORWARD policy of DROP",
	"detect-cluster-cidr":      "pods by cluster CIDR",
	"detect-node-cidr":         "pods by the node's CIDR",
	"detect-bridge":            "pods by bridge",
	"detect-interface-prefix":  "pods by interface prefix",
	"detect-none":              "no detector",
	"legacy":                   "objects that an API server may hold but would not take today; manifests refuse them too",
	"ipv4":                     "IPv4",
	"ipv6":                     "IPv6",
	"dual-stack":               "both families",
	"tcp":                      "TCP",
	"udp":                      "UDP",
	"sctp":                     "SCTP",
}

func TestEveryFeatureHasAScenario(t *testing.T) {
	shown := map[string]int{}
	for _, s := range suite(t) {
		for _, tag := range s.Tags {
			kind, name, _ := strings.Cut(tag, " ")
			if kind != "feature" && kind != "checklist" {
				t.Errorf("%s: tag %q: want feature or checklist", s.File, tag)
			}
			if _, known := features[name]; kind == "feature" && !known {
				t.Errorf("%s: tag %q: no such feature", s.File, tag)
			}
			shown[tag]++
		}
	}
	for name, what := range features {
		if shown["feature "+name] == 0 {
			t.Errorf("no scenario shows %q (%s)", name, what)
		}
	}
}

// notScenarios are rows of the acceptance checklist up to 80 that no scenario can
// show, each with its reason.
var notScenarios = map[int]string{
	21: "a change of the cluster: walks", 22: "a change of the cluster: walks",
	27: "a change of the node's addresses: node",
	30: "no Service's packet: the backend's guard of loopback",
	32: "nftables only",
	44: "a feature gate that the flags of a scenario do not have",
	48: "a change of the cluster: walks", 67: "a change of the cluster: walks", 72: "a change of the cluster: walks",
	73: "a change of the cluster: walks", 74: "a change of the cluster: walks",
	78: "the host's families: node",
}

func TestEveryChecklistRowAboutPacketsHasAScenario(t *testing.T) {
	scenarios := suite(t)
	for row := 1; row <= 80; row++ {
		has := func(s Scenario) bool { return s.Has(fmt.Sprint("checklist ", row)) }
		shown := slices.ContainsFunc(scenarios, has)
		if reason, excused := notScenarios[row]; excused && shown {
			t.Errorf("row %d is shown, though %q", row, reason)
		} else if !excused && !shown {
			t.Errorf("no scenario shows row %d", row)
		}
	}
}

// The words of the format all occur, from every host and to every sort of
// address, in both families and all protocols.
func TestSuiteUsesEveryWord(t *testing.T) {
	seen := map[string]int{}
	for _, s := range suite(t) {
		for _, p := range s.Packets {
			host, _, explicit := strings.Cut(p.From, "@")
			sticky, masq := p.Want.Sticky, 0
			for _, ep := range p.Want.Endpoints {
				if ep.Masq {
					masq++
				}
			}
			seen["from "+host]++
			seen[p.Protocol.String()+" "+proxier.FamilyOf(p.Src).String()+" "+p.Want.Verdict.String()]++
			seen[fmt.Sprint("explicit source ", explicit)]++
			seen[fmt.Sprint("sticky ", sticky)]++
			seen[fmt.Sprint("hairpin ", masq > 0 && masq < len(p.Want.Endpoints))]++
		}
	}
	want := []string{"explicit source true", "sticky true", "hairpin true", "UDP IPv6 forward", "UDP IPv4 reject",
		"UDP IPv4 drop", "SCTP IPv4 forward", "SCTP IPv4 reject", "SCTP IPv4 drop"}
	for _, h := range Hosts() {
		want = append(want, "from "+string(h))
	}
	for _, v := range []proxier.Verdict{proxier.Pass, proxier.Reject, proxier.Drop, proxier.Forward} {
		want = append(want, "TCP IPv4 "+v.String(), "TCP IPv6 "+v.String())
	}
	for _, word := range want {
		if seen[word] == 0 {
			t.Errorf("no packet of the suite is %q", word)
		}
	}
}
