package switching

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"switchyard/proxier"
	"switchyard/test/kubeapi"
	"switchyard/test/netlab"
)

// apiAddr is where the API server is.
var apiAddr = netip.MustParseAddr("192.168.0.10")

// startAPI starts an API server that has the objects.
func (st *stage) startAPI(t *testing.T) {
	t.Helper()
	for _, needed := range []string{"bin/kube-apiserver", "bin/upstream-kube-proxy"} {
		if _, err := os.Stat(root + "/" + needed); err != nil {
			t.Skip("missing: " + needed + "; make proxybench builds it")
		}
	}
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Skip("missing: etcd; install the package etcd-server")
	}
	binary, err := filepath.Abs(root + "/bin/kube-apiserver")
	check(t, err)
	host, err := st.lab.AddHost("cp")
	check(t, err)
	fabric := st.lab.Host("fabric")
	check(t, netlab.Wire(netlab.End{Host: host, Device: netlab.Uplink}, netlab.End{Host: fabric, Device: "cp"}),
		fabric.Plug("cp", "br0"), host.AddAddr(netlab.Uplink, netip.PrefixFrom(apiAddr, 24)))
	ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
	defer cancel()
	server, err := kubeapi.Start(ctx, kubeapi.Options{Host: host, Addr: apiAddr, Dir: t.TempDir(), Binary: binary,
		ServiceCIDRs: "172.30.0.0/16,fd00:172:30::/108"})
	check(t, err)
	t.Cleanup(func() { check(t, server.Close()) })
	config, err := server.Config(server.Kubeconfig())
	check(t, err)
	client, err := rest.HTTPClientFor(config)
	check(t, err)
	st.kubeconfig = server.Kubeconfig()
	const node = "kind: Node\napiVersion: v1\nmetadata: {name: node-a}\nspec: {podCIDRs: [10.180.0.0/24]}\n"
	post(t, client, config.Host+"/api/v1/nodes", node)
	for _, object := range strings.Split(objects, "---\n") {
		path := "/api/v1/namespaces/default/services"
		if strings.Contains(object, "kind: EndpointSlice") {
			path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
		}
		post(t, client, config.Host+path, object)
	}
	patch(t, client, config.Host+"/api/v1/nodes/node-a/status",
		`{"status":{"addresses":[{"type":"InternalIP","address":"192.168.0.2"},{"type":"InternalIP","address":"fd00:192:168::2"}]}}`)
}

func post(t *testing.T, client *http.Client, url, object string) {
	t.Helper()
	// The namespace comes a moment after the server.
	until(t, "the API server takes "+object, func() bool {
		answer, err := client.Post(url, "application/yaml", strings.NewReader(object))
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		said, _ := io.ReadAll(answer.Body)
		if answer.StatusCode/100 == 4 && answer.StatusCode != http.StatusNotFound && answer.StatusCode != http.StatusForbidden {
			t.Fatalf("%s: %s: %s", url, answer.Status, said)
		}
		return answer.StatusCode == http.StatusCreated
	})
}

func patch(t *testing.T, client *http.Client, url, change string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, url, strings.NewReader(change))
	check(t, err)
	request.Header.Set("Content-Type", "application/merge-patch+json")
	answer, err := client.Do(request)
	check(t, err)
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", url, answer.Status)
	}
}

// startUpstream starts upstream's kube-proxy, and waits until every way is open.
func (st *stage) startUpstream(t *testing.T, m mode) *program {
	t.Helper()
	binary, err := filepath.Abs(root + "/bin/upstream-kube-proxy")
	check(t, err)
	// It takes the programs of the plain names.
	tools := t.TempDir()
	for _, tool := range []string{"iptables", "ip6tables"} {
		for _, end := range []string{"", "-save", "-restore"} {
			path, err := exec.LookPath(tool + "-" + m.flavour + end)
			check(t, err, os.Symlink(path, filepath.Join(tools, tool+end)))
		}
	}
	p := st.launch(t, binary, tools+":"+os.Getenv("PATH"), []string{"--kubeconfig", st.kubeconfig,
		"--proxy-mode", m.name, "--hostname-override", "node-a", "--cluster-cidr", "10.180.0.0/16,fd00:10:180::/64",
		"--conntrack-max-per-core", "0"})
	for _, w := range ways {
		until(t, fmt.Sprintf("upstream's serves %v", w), func() bool {
			r := st.lab.Host(w.from).Probe(t.Context(), netlab.Probe{Protocol: proxier.TCP, Dst: netip.MustParseAddrPort(w.to), Timeout: time.Second})
			return r.Verdict == netlab.Answered
		})
	}
	return p
}
