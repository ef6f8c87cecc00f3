package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"switchyard/proxier"
	"switchyard/test/kubeapi"
	"switchyard/test/netlab"
	"switchyard/test/subject"
)

const (
	root = "../.."
	// account is what the program is to the API server.
	account = "system:serviceaccount:kube-system:kube-proxy"
	// limit bounds every wait for what should come: far more than it takes on two
	// busy cores.
	limit = time.Minute
)

var (
	apiAddr    = netip.MustParseAddr("192.168.0.10")
	apiService = netip.MustParseAddrPort("172.30.0.1:443") // default/kubernetes

	podA1, podA2 = netip.MustParseAddr("10.180.0.11"), netip.MustParseAddr("10.180.0.12")
	podB1        = netip.MustParseAddr("10.180.1.11")
)

// cluster is the standard network with an API server in it.
type cluster struct {
	lab    *netlab.Cluster
	server *kubeapi.Server
	admin  kubernetes.Interface
	dir    string // of the API server
	binary string
	nodes  atomic.Int32 // nodes that tests made for themselves
	// restarts are the times in which the API server was starting. It refuses
	// everybody until it knows its roles.
	restarts [][2]time.Time
}

func started(t *testing.T) *cluster {
	t.Helper()
	apiserver, err := filepath.Abs(root + "/bin/kube-apiserver")
	check(t, err)
	if _, err := os.Stat(apiserver); err != nil {
		t.Skip("missing: bin/kube-apiserver; build it in test/apiserver")
	}
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Skip("missing: etcd; install the package etcd-server")
	}
	if os.Geteuid() != 0 {
		t.Skip("missing: root, for network namespaces")
	}
	began := time.Now()
	c := &cluster{dir: t.TempDir(), binary: build(t)}
	built := time.Since(began)
	c.lab, err = netlab.NewCluster("e2e", netlab.StandardPods()...)
	check(t, err)
	t.Cleanup(func() { check(t, c.lab.Close()) })
	c.serve(t)
	check(t, os.WriteFile(c.dir+"/audit.yaml", []byte(auditPolicy), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
	defer cancel()
	c.server, err = kubeapi.Start(ctx, kubeapi.Options{
		Host: c.addControlPlane(t), Addr: apiAddr, Dir: c.dir, Binary: apiserver,
		ServiceCIDRs: "172.30.0.0/16,fd00:172:30::/108",
		Flags:        []string{"--audit-policy-file=" + c.dir + "/audit.yaml", "--audit-log-path=" + c.auditLog()},
	})
	check(t, err)
	t.Cleanup(func() { c.killAPI(t); check(t, c.server.Close()) })
	config, err := c.server.Config(c.server.Kubeconfig())
	check(t, err)
	config.ContentType = runtime.ContentTypeProtobuf // the API server has enough to do
	c.admin, err = kubernetes.NewForConfig(config)
	check(t, err)
	c.create(t, text(t, root+"/deploy/base/rbac.yaml"))
	t.Logf("built in %s, all up after %s", built.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	return c
}

// killAPI ends the API server as a crash does: nobody is told, and its endpoints stay.
func (c *cluster) killAPI(t *testing.T) {
	t.Helper()
	if pid := c.server.Pid(); pid != 0 {
		check(t, syscall.Kill(pid, syscall.SIGKILL))
		check(t, c.server.StopAPI())
	}
}

// startAPI starts the API server again and waits until it is ready.
func (c *cluster) startAPI(t *testing.T) {
	t.Helper()
	if c.server.Pid() == 0 {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		began := time.Now()
		check(t, c.server.StartAPI(ctx))
		c.restarts = append(c.restarts, [2]time.Time{began, time.Now()})
	}
}

// isStarting reports whether the API server was starting at a time.
func (c *cluster) isStarting(at time.Time) bool {
	return slices.ContainsFunc(c.restarts, func(r [2]time.Time) bool { return at.After(r[0]) && at.Before(r[1]) })
}

// withoutAPI ends the API server. It comes back when the test ends, if not before.
func (c *cluster) withoutAPI(t *testing.T) {
	t.Helper()
	t.Cleanup(func() { c.startAPI(t) })
	c.killAPI(t)
}

// build builds the program as the image has it; with the race detector if the test
// has it.
func build(t *testing.T) string {
	t.Helper()
	if raced {
		return subject.BuildRace(t)
	}
	return subject.Build(t)
}

// addControlPlane makes the host of the API server, which reaches nodes and pods.
func (c *cluster) addControlPlane(t *testing.T) *netlab.Host {
	t.Helper()
	cp := c.addHost(t, "cp", netip.PrefixFrom(apiAddr, 24))
	for pods, node := range map[string]string{"10.180.0.0/24": "192.168.0.2", "10.180.1.0/24": "192.168.0.3"} {
		check(t, cp.AddRoute(netlab.Route{To: netip.MustParsePrefix(pods), Device: netlab.Uplink, Via: netip.MustParseAddr(node)}))
	}
	return cp
}

// addHost plugs one more host into what the nodes share.
func (c *cluster) addHost(t *testing.T, name string, addr netip.Prefix) *netlab.Host {
	t.Helper()
	host, err := c.lab.AddHost(name)
	check(t, err)
	fabric := c.lab.Host("fabric")
	check(t, errors.Join(
		netlab.Wire(netlab.End{Host: host, Device: netlab.Uplink}, netlab.End{Host: fabric, Device: name}),
		fabric.Plug(name, "br0"), host.AddAddr(netlab.Uplink, addr)))
	return host
}

// addNode makes a node without pods for one test alone. There is no Node object
// of it.
func (c *cluster) addNode(t *testing.T) *netlab.Host {
	t.Helper()
	n := c.nodes.Add(1)
	host := c.addHost(t, fmt.Sprintf("node-%d", n), netip.MustParsePrefix(fmt.Sprintf("192.168.0.%d/24", 100+n)))
	check(t, host.AddRoute(netlab.Route{To: netip.MustParsePrefix("0.0.0.0/0"), Device: netlab.Uplink, Via: netip.MustParseAddr("192.168.0.2")}))
	return host
}

// serve has every pod answer with its IPv4 address, TCP at 8080 and UDP at 5353, and
// repeat what it hears at 7000.
func (c *cluster) serve(t *testing.T) {
	t.Helper()
	for _, p := range netlab.StandardPods() {
		host, addr := c.lab.Host(p.Name), p.Addrs[0]
		check(t, errors.Join(
			c.lab.Serve(host, proxier.TCP, netip.AddrPortFrom(addr, 8080), addr.String()),
			c.lab.Serve(host, proxier.UDP, netip.AddrPortFrom(addr, 5353), addr.String())))
		repeat(t, host, netip.AddrPortFrom(addr, 7000))
	}
}

// auditPolicy notes each request of the program, and of nobody else.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: ["` + account + `"]
- level: None
`

func (c *cluster) auditLog() string { return c.dir + "/audit.log" }

// request is one request of the program, as the API server noted it.
type request struct {
	ID             string    `json:"auditID"`
	Verb           string    `json:"verb"`
	URI            string    `json:"requestURI"`
	ReceivedAt     time.Time `json:"requestReceivedTimestamp"`
	ObjectRef      struct{ Resource string }
	ResponseStatus struct{ Code int }
}

// requests are those since a time, each once.
func (c *cluster) requests(t *testing.T, since time.Time) []request {
	t.Helper()
	log, err := os.ReadFile(c.auditLog())
	check(t, err)
	var all []request
	seen := map[string]bool{}
	for line := range bytes.Lines(log) {
		var r request
		if json.Unmarshal(line, &r) != nil || r.ReceivedAt.Before(since) || seen[r.ID] {
			continue // the last line may be half written
		}
		seen[r.ID] = true
		all = append(all, r)
	}
	return all
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func text(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	check(t, err)
	return string(content)
}

// until waits for something to be so, and returns how long it took.
func until(t *testing.T, what string, so func() bool) time.Duration {
	t.Helper()
	return within(t, limit, what, so)
}

func within(t *testing.T, atMost time.Duration, what string, so func() bool) time.Duration {
	t.Helper()
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if so() {
			return time.Since(start)
		}
		if time.Since(start) > atMost {
			t.Fatalf("not within %s: %s", atMost, what)
		}
	}
}
