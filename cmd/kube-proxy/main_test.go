package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDispatch holds what a command line means, and the words for one that means
// nothing.
func TestDispatch(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("web.yaml", `apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 172.30.0.1, ports: [{port: 80}]}
`)
	manifest := "--manifest=" + dir
	for _, tt := range []struct {
		args      []string
		out, fail string
	}{
		{[]string{"version"}, "backends: iptables", ""},
		{[]string{"--version"}, "backends: iptables", ""},
		{[]string{"help"}, "take everything of ours out of the kernel", ""},
		{[]string{"frobnicate"}, "", `"frobnicate" is no verb`},
		{[]string{"run", "extra"}, "", `run: unexpected argument "extra"`},
		{[]string{"--no-such-flag"}, "", "unknown flag: --no-such-flag"},
		{[]string{"--proxy-mode=iptables"}, "", "run: find the API server as a pod does, since neither kubeconfig nor master is given"},
		{[]string{"--kubeconfig=" + dir + "/nothing"}, "", "run: read kubeconfig \"" + dir + "/nothing\""},
		{[]string{"render", manifest, "--hostname-override=n", "--family=4"}, "172.30.0.1:80          anyone → reject", ""},
		{[]string{"render", manifest, "--hostname-override=n", "--family=4", "--as=ruleset"}, `"default/web has no endpoints"`, ""},
		{[]string{"render", manifest, "--family=5"}, "", "--family: 5: must be 4 or 6"},
		{[]string{"render", manifest, "--as=poem"}, "", `--as: "poem": must be state or ruleset`},
		{[]string{"render", manifest, "--node-addresses=here"}, "", `--node-addresses: "here": not an IP address`},
		{[]string{"render"}, "", "render: --manifest: must name a file or a directory"},
		{[]string{"render", "--manifest=" + dir + "/nothing"}, "", "no such file or directory"},
	} {
		var out strings.Builder
		err := dispatch(tt.args, &out)
		switch {
		case tt.fail == "" && err != nil:
			t.Errorf("%v: %v", tt.args, err)
		case tt.fail != "" && (err == nil || !strings.Contains(err.Error(), tt.fail)):
			t.Errorf("%v: error %v, want %q", tt.args, err, tt.fail)
		case !strings.Contains(out.String(), tt.out):
			t.Errorf("%v: printed\n%s\nwithout %q", tt.args, out.String(), tt.out)
		}
	}
}

// TestRenderShowsTheGoodFiles holds that one bad file costs only itself.
func TestRenderShowsTheGoodFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: good}\nspec: {clusterIP: 172.30.0.1, ports: [{port: 80}]}\n",
		"b.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec:\n  ports:\n  - port: eighty\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	err := dispatch([]string{"render", "--manifest=" + dir, "--hostname-override=n"}, &out)
	if err == nil || !strings.Contains(err.Error(), `b.yaml:6: Service default/bad: spec.ports[0].port: "eighty": expected an integer`) {
		t.Errorf("error %v", err)
	}
	if !strings.Contains(out.String(), "service default/good TCP") {
		t.Errorf("printed\n%s", out.String())
	}
}
