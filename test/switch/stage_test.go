package switching

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"switchyard/test/netlab"
	"switchyard/test/uml"
)

const root = "../.."

// patience is by how much longer things may take in the other kernel.
var patience = min(uml.Patience(), 4)

// limit bounds every wait for what should come: far more than it takes on busy cores.
var limit = 30 * time.Second * patience

// objects are what the node serves: all kinds of Services, so that each mode uses all
// that it has.
const objects = `apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: NodePort
  clusterIP: 172.30.0.41
  clusterIPs: [172.30.0.41, "fd00:172:30::41"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  externalIPs: [198.51.100.41]
  ports: [{name: http, port: 80, nodePort: 30041}, {name: dns, port: 53, protocol: UDP, nodePort: 30043}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-4, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: dns, port: 8080, protocol: UDP}]
endpoints:
- {addresses: [10.180.0.11], nodeName: node-a, conditions: {ready: true}}
- {addresses: [10.180.1.11], nodeName: node-b, conditions: {ready: true}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-6, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080}, {name: dns, port: 8080, protocol: UDP}]
endpoints:
- {addresses: ["fd00:10:180::11"], nodeName: node-a, conditions: {ready: true}}
- {addresses: ["fd00:10:180:0:1::11"], nodeName: node-b, conditions: {ready: true}}
---
apiVersion: v1
kind: Service
metadata: {name: local, namespace: default}
spec:
  type: NodePort
  clusterIP: 172.30.0.42
  externalIPs: [198.51.100.42]
  externalTrafficPolicy: Local
  sessionAffinity: ClientIP
  ports: [{port: 80, nodePort: 30042}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: local-4, namespace: default, labels: {kubernetes.io/service-name: local}}
addressType: IPv4
ports: [{name: "", port: 8080}]
endpoints:
- {addresses: [10.180.0.12], nodeName: node-a, conditions: {ready: true}}
---
apiVersion: v1
kind: Service
metadata: {name: none, namespace: default}
spec:
  clusterIP: 172.30.0.43
  ports: [{port: 80}]
`

// stage is a node with pods behind it, clients, and others' things in its kernel.
type stage struct {
	whole  *testing.T
	lab    *netlab.Cluster
	node   *netlab.Host
	binary string // of the proxy
	files  string // its manifests

	clean   map[string]string // what the node holds without a proxy, by the kubelet's flavour
	fresh   map[mode]string   // what it holds with one
	changed []changed

	kubeconfig string // of the API server, if there is one
}

// setUp lays out the stage, with the program at this path.
func setUp(t *testing.T, binary string) *stage {
	t.Helper()
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "xtables.lock")) // namespaces do not divide it
	lab, err := netlab.NewCluster("switch", append(netlab.StandardPods(), netlab.Pod{
		Name: clientPod, Node: netlab.NodeA, Addrs: []netip.Addr{netip.MustParseAddr("10.180.0.100"), netip.MustParseAddr("fd00:10:180::100")},
	})...)
	check(t, err)
	t.Cleanup(func() { check(t, lab.Close()) })
	st := &stage{whole: t, lab: lab, node: lab.Host(netlab.NodeA), binary: binary, files: t.TempDir(),
		clean: map[string]string{}, fresh: map[mode]string{}}
	check(t, os.WriteFile(filepath.Join(st.files, "objects.yaml"), []byte(objects), 0o644))
	for _, pod := range netlab.StandardPods() {
		for _, addr := range pod.Addrs {
			serve(t, lab.Host(pod.Name), netip.AddrPortFrom(addr, 8080))
		}
	}
	st.settleStrangers(t)
	for _, flavour := range flavours() {
		st.hint(t, flavour)
		st.clean[flavour] = st.dump(t)
	}
	return st
}

// clientPod is the pod that is no endpoint.
const clientPod = "client"

// serve has a host greet everyone who connects, and say again what it hears.
func serve(t *testing.T, host *netlab.Host, at netip.AddrPort) {
	t.Helper()
	ln, err := host.Listen("tcp", at.String())
	check(t, err)
	t.Cleanup(func() { check(t, ln.Close()) })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return // closed
			}
			go echo(conn, at)
		}
	}()
}

func echo(conn net.Conn, at netip.AddrPort) {
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "%s %s\n", at, conn.RemoteAddr()); err == nil {
		_, _ = io.Copy(conn, conn) // until the client hangs up
	}
}

// run runs a program on the node.
func (st *stage) run(t *testing.T, line string) string {
	t.Helper()
	out, err := st.node.Output(context.Background(), "sh", "-c", line)
	check(t, err)
	return out
}

// flavours are the kinds of iptables that the kernel has.
func flavours() []string {
	if uml.Inside() {
		return []string{"legacy"}
	}
	return []string{"nft", "legacy"}
}

const strangers = `*nat
:DOCKER - [0:0]
:KUBE-ROUTER-HAIRPIN - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -p tcp --dport 4243 -j DOCKER
-A DOCKER -p tcp --dport 4243 -m comment --comment "kubernetes service portals" -j RETURN
-A KUBE-ROUTER-HAIRPIN -m mark --mark 0x8000/0x8000 -j RETURN
-A POSTROUTING -m comment --comment "-j KUBE-SERVICES" -j KUBE-ROUTER-HAIRPIN
COMMIT
*filter
:KUBE-NWPLCY-DEFAULT - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment "kubernetes forwarding rules" -j RETURN
-A INPUT -p tcp --dport 9 -j DROP
COMMIT
*mangle
:KUBE-ROUTER-MARK - [0:0]
-A PREROUTING -j KUBE-ROUTER-MARK
-A KUBE-ROUTER-MARK -j RETURN
COMMIT
`

// settleStrangers puts others' things into the node's kernel: rules as of a container
// runtime, a network plugin and the kubelet, with words and names like ours.
func (st *stage) settleStrangers(t *testing.T) {
	t.Helper()
	for _, flavour := range flavours() {
		for _, tool := range []string{"iptables-" + flavour, "ip6tables-" + flavour} {
			st.run(t, tool+"-restore --noflush <<'END'\n"+strangers+"END")
		}
	}
	if uml.Inside() {
		st.run(t, `
ipvsadm -A -t 192.0.2.9:30041 -s wlc
ipvsadm -a -t 192.0.2.9:30041 -r 192.0.2.10:80 -m -w 3
ipvsadm -A -f 77 -s rr
ip link add kube-dummy type dummy
ip addr add 192.0.2.77/32 dev kube-dummy`)
	} else {
		st.run(t, `
nft 'add table inet kube-proxy; add chain inet kube-proxy in { type filter hook input priority 5; }; add rule inet kube-proxy in ip saddr 192.0.2.250 drop'
nft 'add table ip kube-proxy-other; add set ip kube-proxy-other cluster-ips { type ipv4_addr; elements = { 192.0.2.1 } }'`)
	}
	st.run(t, `
ipset create KUBE-ROUTER-PODS hash:ip
ipset add KUBE-ROUTER-PODS 192.0.2.3
ipset create KUBE-CLUSTER-IP-OTHER hash:ip,port`)
}

// hint has the kubelet's chain in one flavour's tables alone, by which the proxy
// chooses its own if there are two.
func (st *stage) hint(t *testing.T, flavour string) {
	t.Helper()
	if len(flavours()) == 1 {
		return
	}
	for _, f := range flavours() {
		for _, tool := range []string{"iptables-" + f, "ip6tables-" + f} {
			if f == flavour {
				st.run(t, tool+" -w -t mangle -N KUBE-IPTABLES-HINT || true")
			} else {
				st.run(t, tool+" -w -t mangle -X KUBE-IPTABLES-HINT || true")
			}
		}
	}
}

// dump is all that a proxy could leave on the node, others' things with it: equal
// means equal. Base chains of the kernel that hold nothing do not count.
func (st *stage) dump(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, flavour := range flavours() {
		for _, family := range []string{"ip", "ip6"} {
			b.WriteString(rules(family+"tables-"+flavour, st.run(t, family+"tables-"+flavour+"-save 2>/dev/null")))
		}
	}
	section := func(title, line string) { fmt.Fprintf(&b, "== %s\n%s", title, st.run(t, line)) }
	section("sets", "ipset save -sorted")
	section("addresses", "ip -o addr | sed 's/ *\\(valid_lft\\|scope\\).*//; s/^[0-9]*: //'")
	for _, name := range []string{"net/ipv4/conf/all/route_localnet", "net/ipv4/conf/all/arp_ignore", "net/ipv4/conf/all/arp_announce"} {
		section(name, "cat /proc/sys/"+name)
	}
	if uml.Inside() {
		section("virtual servers", "ipvsadm -Sn")
	} else {
		section("nftables", "nft list tables | grep -vE ' ip6? (nat|filter|mangle|raw|security)$' | while read x; do nft list $x; done; true")
	}
	return b.String()
}

// rules are the lines of a save without what changes by itself.
func rules(tool, save string) string {
	var b strings.Builder
	table := ""
	for line := range strings.Lines(save) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = name
		}
		chain, policy, _ := strings.Cut(line, " ")
		switch {
		case strings.HasPrefix(line, "-A "):
			line = strings.Replace(line, `-m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT`,
				`-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -m comment --comment "block incoming localnet connections"`, 1) // upstream's spelling
			fmt.Fprintf(&b, "%s %s %s\n", tool, table, line)
		case strings.HasPrefix(line, ":") && strings.HasPrefix(policy, "- "):
			fmt.Fprintf(&b, "%s %s %s\n", tool, table, chain)
		}
	}
	return b.String()
}

// difference names the lines that one of two dumps lacks, "" if they are the same; the
// order of rules counts within a chain that is not shared.
func difference(want, got string) string {
	if want == got {
		return ""
	}
	var b strings.Builder
	count := map[string]int{}
	for line := range strings.Lines(want) {
		count[line]++
	}
	for line := range strings.Lines(got) {
		if count[line]--; count[line] < 0 {
			b.WriteString("  + " + line)
		}
	}
	for line := range strings.Lines(want) {
		if count[line] > 0 {
			count[line]--
			b.WriteString("  - " + line)
		}
	}
	return b.String()
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// until waits for something to be so, and returns how long it took.
func until(t *testing.T, what string, so func() bool) time.Duration {
	t.Helper()
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if so() {
			return time.Since(start)
		}
		if time.Since(start) > limit {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}
