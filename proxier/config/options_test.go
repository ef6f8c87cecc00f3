package config

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"switchyard/proxier/node"
)

func parse(t *testing.T, args ...string) (Options, error) {
	t.Helper()
	var f Flags
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	f.Bind(fs)
	if err := fs.Parse(append([]string{"--hostname-override=N1"}, args...)); err != nil {
		t.Fatal(err)
	}
	return f.Options([]string{"iptables", "ipvs"})
}

// TestDefaults holds upstream's defaults (reference, table 1.1).
func TestDefaults(t *testing.T) {
	o, err := parse(t)
	if err != nil {
		t.Fatal(err)
	}
	if o.Node.Name != "n1" {
		t.Errorf("the node's name is %q: it is in lower case", o.Node.Name)
	}
	if o.Mode != "iptables" || o.Sync != 30*time.Second || o.Min != time.Second {
		t.Errorf("mode %s, sync period %s, minimum %s", o.Mode, o.Sync, o.Min)
	}
	if o.Backend.MasqueradeBit != 14 || !o.Node.LocalhostNodePorts || !o.Node.NodePorts.IsEmpty() {
		t.Errorf("bit %d, localhost %t, node ports %+v", o.Backend.MasqueradeBit, o.Node.LocalhostNodePorts, o.Node.NodePorts)
	}
	if o.Node.Detect.Mode != node.ClusterCIDR || o.Healthz.String() != "0.0.0.0:10256" {
		t.Errorf("detect %q, healthz %s", o.Node.Detect.Mode, o.Healthz)
	}
}

// TestRefused holds the words for every flag that can be wrong.
func TestRefused(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"--proxy-mode=nfttables", `--proxy-mode: "nfttables": must be one of iptables, ipvs`},
		{"--cluster-cidr=10.0.0.0", `--cluster-cidr: "10.0.0.0": not an address range like 10.244.0.0/16`},
		{"--cluster-cidr=10.0.0.0/8,10.1.0.0/16", `--cluster-cidr: "10.1.0.0/16": one range for each family at most`},
		{"--detect-local-mode=Magic", `--detect-local-mode: "Magic": must be ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix`},
		{"--detect-local-mode=BridgeInterface", `--detect-local-mode=BridgeInterface: needs --pod-bridge-interface`},
		{"--detect-local-mode=InterfaceNamePrefix", `--detect-local-mode=InterfaceNamePrefix: needs --pod-interface-name-prefix`},
		{"--pod-bridge-interface=a-name-that-is-long", `--pod-bridge-interface: "a-name-that-is-long": must not be longer than 15 bytes`},
		{"--pod-interface-name-prefix=ve+", `--pod-interface-name-prefix: "ve+": has a character that no interface name has`},
		{"--iptables-masquerade-bit=32", `--iptables-masquerade-bit: 32: must be within 0 and 31`},
		{"--iptables-sync-period=0", `--iptables-sync-period: 0s: must be longer than 0`},
		{"--iptables-min-sync-period=-1s", `--iptables-min-sync-period: -1s: must not be negative`},
		{"--iptables-min-sync-period=1m", `--iptables-min-sync-period: 1m0s: must not be longer than --iptables-sync-period, 30s`},
		{"--bind-address=here", `--bind-address: "here": not an IP address`},
		{"--healthz-bind-address=0.0.0.0:0", `--healthz-bind-address: "0.0.0.0:0": not an IP address or IP:port, port 1 to 65535`},
		{"--metrics-bind-address=:0", `--metrics-bind-address: ":0": not an IP address or IP:port, port 1 to 65535`},
		{"--logging-format=xml", `--logging-format: "xml": must be text or json`},
		{"--nodeport-addresses=primary,primary", `--nodeport-addresses: `},
		{"--hostname-override=  ", `--hostname-override: "  ": must not be blank`},
	} {
		_, err := parse(t, tt.args)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %s", tt.args, err, tt.want)
		}
	}
}

// TestAllIsSaid holds that several mistakes are named at once.
func TestAllIsSaid(t *testing.T) {
	_, err := parse(t, "--proxy-mode=x", "--iptables-masquerade-bit=-1", "--bind-address=y")
	if n := strings.Count(err.Error(), "\n") + 1; n != 3 {
		t.Errorf("%d lines: %v", n, err)
	}
}

// TestHealthzAddress holds the forms of an address.
func TestHealthzAddress(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1": "127.0.0.1:10256", "::": "[::]:10256", "[::1]:80": "[::1]:80", "1.2.3.4:5": "1.2.3.4:5",
	} {
		o, err := parse(t, "--healthz-bind-address="+text)
		if err != nil || o.Healthz.String() != want {
			t.Errorf("%s: %s, %v; want %s", text, o.Healthz, err, want)
		}
	}
}

// TestUpstreamCommandLine holds that upstream's flags are understood, all of them
// (reference, table 1.1), and that those without an effect are named.
func TestUpstreamCommandLine(t *testing.T) {
	var f Flags
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	f.Bind(fs)
	err := fs.Parse([]string{
		"--oom-score-adj=-998", "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=24h",
		"--kube-api-qps=5.5", "--profiling", "--cluster-cidr=10.0.0.0/8", "-v=2", "--feature-gates=KubeProxyIPVS=true",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"--conntrack-max-per-core", "--conntrack-tcp-timeout-established", "--feature-gates",
		"--kube-api-qps", "--oom-score-adj"}
	if got := Idle(fs); !slices.Equal(got, want) {
		t.Errorf("idle: %v, want %v", got, want)
	}
}
