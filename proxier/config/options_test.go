package config

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"switchyard/proxier/node"
)

var update = flag.Bool("update", false, "write the golden files")

var modes = []string{"iptables", "ipvs", "userspace"}

// flags reads a command line of run.
func flags(t testing.TB, args ...string) *Flags {
	t.Helper()
	var f Flags
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	f.Bind(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return &f
}

func parse(t testing.TB, args ...string) (Options, error) {
	t.Helper()
	return flags(t, append([]string{"--hostname-override=N1"}, args...)...).Options(modes)
}

func mustParse(t testing.TB, args ...string) Options {
	t.Helper()
	o, err := parse(t, args...)
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return o
}

// conf writes a file named config.conf that begins with apiVersion and kind.
func conf(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.conf")
	write(t, path, header+text)
	return path
}

const header = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDefaults holds what everybody else gets if nothing is said.
func TestDefaults(t *testing.T) {
	o := mustParse(t)
	if o.Node.Name != "n1" {
		t.Errorf("the node's name is %q: it is in lower case", o.Node.Name)
	}
	if o.Mode != "iptables" || o.Sync != 30*time.Second || o.Min != time.Second || o.ConfigSync != 15*time.Minute {
		t.Errorf("mode %s, sync period %s, minimum %s, config %s", o.Mode, o.Sync, o.Min, o.ConfigSync)
	}
	if o.Backend.MasqueradeBit != 14 || !o.Node.LocalhostNodePorts || !o.Node.NodePorts.IsEmpty() {
		t.Errorf("bit %d, localhost %t, node ports %+v", o.Backend.MasqueradeBit, o.Node.LocalhostNodePorts, o.Node.NodePorts)
	}
	if o.Node.Detect.Mode != node.ClusterCIDR || o.Healthz.String() != "0.0.0.0:10256" || o.Metrics.String() != "127.0.0.1:10249" {
		t.Errorf("detect %q, healthz %s, metrics %s", o.Node.Detect.Mode, o.Healthz, o.Metrics)
	}
	want := ClientConnection{QPS: 5, Burst: 10, ContentType: "application/vnd.kubernetes.protobuf"}
	if o.Client != want {
		t.Errorf("client %+v", o.Client)
	}
	ct := o.Conntrack
	if *ct.MaxPerCore != 32768 || ct.Min != 131072 || *ct.TCPEstablishedTimeout != 24*time.Hour || *ct.TCPCloseWaitTimeout != time.Hour ||
		ct.UDPTimeout != nil || ct.UDPStreamTimeout != nil || ct.TCPBeLiberal {
		t.Errorf("conntrack %+v", ct)
	}
	if o.OOMScoreAdj != -999 || o.Backend.Userspace.Drain != 30*time.Second || o.Compile.ExternalIPs.None || o.Compile.MasqueradeAll {
		t.Errorf("oom %d, drain %s, %+v", o.OOMScoreAdj, o.Backend.Userspace.Drain, o.Compile)
	}
	if o.Init || o.HardFail || o.Profiling || o.HiddenMetrics || o.JSONLogs || len(o.Warnings) > 0 {
		t.Errorf("switched on: %+v", o)
	}
}

// TestDefaultConfiguration holds upstream's defaults, field by field (reference, table
// 1.2): what an empty file means. Only one differs without a file.
func TestDefaultConfiguration(t *testing.T) {
	const golden = "testdata/defaults.yaml"
	o, err := flags(t, "--config="+conf(t, "")).Options(modes)
	if err != nil {
		t.Fatal(err)
	}
	got := printed(t, o)
	if *update {
		write(t, golden, got)
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("an empty file means\n%s\nnot as in %s", got, golden)
	}
	bare, err := flags(t).Options(modes)
	if err != nil {
		t.Fatal(err)
	}
	var differ []string
	was := strings.Split(got, "\n")
	for i, line := range strings.Split(printed(t, bare), "\n") {
		if line != was[i] {
			differ = append(differ, was[i]+" →"+line)
		}
	}
	if wanted := []string{"  minSyncPeriod: 0s →  minSyncPeriod: 1s"}; !slices.Equal(differ, wanted) {
		t.Errorf("without a file these differ: %q", differ)
	}
}

func printed(t testing.TB, o Options) string {
	t.Helper()
	text, err := yaml.Marshal(o.Effective)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestRefused holds the words for everything that can be wrong, by flag and by
// field. The field's line is counted from 1.
func TestRefused(t *testing.T) {
	for _, tt := range []struct{ flag, flagError, field, fieldError string }{
		{"--proxy-mode=nfttables", `--proxy-mode: "nfttables": must be one of iptables, ipvs, userspace`,
			"mode: nfttables", `:3: mode: "nfttables": must be one of iptables, ipvs, userspace`},
		{"--proxy-mode=nftables", `--proxy-mode: "nftables": is not built yet: use one of iptables, ipvs, userspace`,
			"mode: nftables", `:3: mode: "nftables": is not built yet: use one of iptables, ipvs, userspace`},
		{"--proxy-mode=kernelspace", `--proxy-mode: "kernelspace": exists on Windows only: must be one of iptables, ipvs, userspace`, "", ""},
		{"--proxy-mode=ipvs --feature-gates=KubeProxyIPVS=false", `--proxy-mode: "ipvs": is switched off by the feature gate KubeProxyIPVS=false`,
			"mode: ipvs\nfeatureGates: {KubeProxyIPVS: false}", `:3: mode: "ipvs": is switched off by the feature gate KubeProxyIPVS=false`},
		{"--feature-gates=NFTablesProxyMode=false", `--feature-gates: NFTablesProxyMode: cannot be false: upstream locked it to true`,
			"featureGates:\n  NFTablesProxyMode: false", `:4: featureGates: NFTablesProxyMode: cannot be false: upstream locked it to true`},
		{"--cluster-cidr=10.0.0.0", `--cluster-cidr: "10.0.0.0": not an address range like 10.244.0.0/16`,
			"clusterCIDR: 10.0.0.0", `:3: clusterCIDR: "10.0.0.0": not an address range like 10.244.0.0/16`},
		{"--cluster-cidr=10.0.0.0/8,10.1.0.0/16", `--cluster-cidr: "10.1.0.0/16": one range for each family at most`,
			"clusterCIDR: 10.0.0.0/8,10.1.0.0/16", `:3: clusterCIDR: "10.1.0.0/16": one range for each family at most`},
		{"--detect-local-mode=Magic", `--detect-local-mode: "Magic": must be ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix`,
			"detectLocalMode: Magic", `:3: detectLocalMode: "Magic": must be ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix`},
		{"--detect-local-mode=BridgeInterface", `--detect-local-mode: "BridgeInterface": needs --pod-bridge-interface`,
			"detectLocalMode: BridgeInterface", `:3: detectLocalMode: "BridgeInterface": needs detectLocal.bridgeInterface`},
		{"--detect-local-mode=InterfaceNamePrefix", `--detect-local-mode: "InterfaceNamePrefix": needs --pod-interface-name-prefix`, "", ""},
		{"--detect-local-mode=BridgeInterface --pod-bridge-interface=a-name-that-is-long",
			`--pod-bridge-interface: "a-name-that-is-long": must not be longer than 15 bytes`, "", ""},
		{"--detect-local-mode=InterfaceNamePrefix --pod-interface-name-prefix=ve+",
			`--pod-interface-name-prefix: "ve+": has a character that no interface name has`,
			"detectLocalMode: InterfaceNamePrefix\ndetectLocal:\n  interfaceNamePrefix: ve+",
			`:5: detectLocal.interfaceNamePrefix: "ve+": has a character that no interface name has`},
		{"--iptables-masquerade-bit=32", `--iptables-masquerade-bit: 32: must be within 0 and 31`,
			"iptables: {masqueradeBit: 32}", `:3: iptables.masqueradeBit: 32: must be within 0 and 31`},
		{"--iptables-sync-period=0", `--iptables-sync-period: 0s: must be longer than 0`,
			"iptables:\n  syncPeriod: -1s", `:4: iptables.syncPeriod: -1s: must be longer than 0`},
		{"--iptables-min-sync-period=-1s", `--iptables-min-sync-period: -1s: must not be negative`,
			"iptables:\n  minSyncPeriod: -1s", `:4: iptables.minSyncPeriod: -1s: must not be negative`},
		{"--iptables-min-sync-period=1m", `--iptables-min-sync-period: 1m0s: must not be longer than --iptables-sync-period, 30s`,
			"iptables:\n  minSyncPeriod: 1m", `:4: iptables.minSyncPeriod: 1m0s: must not be longer than iptables.syncPeriod, 30s`},
		{"--proxy-mode=ipvs --ipvs-sync-period=-1s", `--ipvs-sync-period: -1s: must be longer than 0`,
			"mode: ipvs\nipvs:\n  minSyncPeriod: 1m", `:5: ipvs.minSyncPeriod: 1m0s: must not be longer than ipvs.syncPeriod, 30s`},
		{"--proxy-mode=ipvs --ipvs-tcp-timeout=-1s", `--ipvs-tcp-timeout: -1s: must not be negative`,
			"mode: ipvs\nipvs:\n  udpTimeout: -1s", `:5: ipvs.udpTimeout: -1s: must not be negative`},
		{"--proxy-mode=ipvs --ipvs-exclude-cidrs=10.0.0.1", `--ipvs-exclude-cidrs: "10.0.0.1": not an address range like 10.244.0.0/16`,
			"mode: ipvs\nipvs:\n  excludeCIDRs: [x]", `:5: ipvs.excludeCIDRs: "x": not an address range like 10.244.0.0/16`},
		{"--bind-address=here", `--bind-address: "here": not an IP address`,
			"bindAddress: here", `:3: bindAddress: "here": not an IP address`},
		{"--healthz-bind-address=0.0.0.0:0", `--healthz-bind-address: "0.0.0.0:0": not an IP address or IP:port, port 1 to 65535`,
			"healthzBindAddress: host:1", `:3: healthzBindAddress: "host:1": not an IP address or IP:port, port 1 to 65535`},
		{"--metrics-bind-address=:0", `--metrics-bind-address: ":0": not an IP address or IP:port, port 1 to 65535`,
			"metricsBindAddress: 127.0.0.1:65536", `:3: metricsBindAddress: "127.0.0.1:65536": not an IP address or IP:port, port 1 to 65535`},
		{"--nodeport-addresses=all,x", `--nodeport-addresses: parse nodePortAddresses[1] "x": must be a CIDR`,
			"nodePortAddresses: [primary, primary]", `:3: nodePortAddresses: parse nodePortAddresses[1] "primary": must not be repeated`},
		{"--conntrack-max-per-core=-1", `--conntrack-max-per-core: -1: must not be negative`,
			"conntrack:\n  min: -1", `:4: conntrack.min: -1: must not be negative`},
		{"--conntrack-udp-timeout=-1s", `--conntrack-udp-timeout: -1s: must not be negative`,
			"conntrack:\n  tcpEstablishedTimeout: -1s", `:4: conntrack.tcpEstablishedTimeout: -1s: must not be negative`},
		{"--oom-score-adj=1001", `--oom-score-adj: 1001: must be within -1000 and 1000`,
			"oomScoreAdj: -1001", `:3: oomScoreAdj: -1001: must be within -1000 and 1000`},
		{"--kube-api-burst=-1", `--kube-api-burst: -1: must not be negative`,
			"clientConnection: {burst: -1}", `:3: clientConnection.burst: -1: must not be negative`},
		{"--config-sync-period=0", `--config-sync-period: 0s: must be longer than 0`,
			"configSyncPeriod: -1s", `:3: configSyncPeriod: -1s: must be longer than 0`},
		{"--show-hidden-metrics-for-version=1.35", `--show-hidden-metrics-for-version: "1.35": must be empty or the previous minor version, 1.36`,
			"showHiddenMetricsForVersion: '1.35'", `:3: showHiddenMetricsForVersion: "1.35": must be empty or the previous minor version, 1.36`},
		{"--logging-format=xml", `--logging-format: "xml": must be text or json`,
			"logging:\n  format: xml", `:4: logging.format: "xml": must be text or json`},
		{"--logging-format=json --vmodule=a=1", `--vmodule: works with format text only`, "", ""},
		{"--service-external-ips=some", `--service-external-ips: "some": must be all, none or address ranges like 203.0.113.0/24, comma-separated`, "", ""},
		{"--userspace-drain=-1s", `--userspace-drain: -1s: must not be negative`, "", ""},
	} {
		_, err := parse(t, strings.Fields(tt.flag)...)
		oneLine(t, tt.flag, err, tt.flagError)
		if tt.field == "" {
			continue
		}
		path := conf(t, tt.field)
		_, err = parse(t, "--config="+path)
		oneLine(t, tt.field, err, path+tt.fieldError)
	}
	_, err := flags(t, "--hostname-override= ").Options(modes)
	oneLine(t, "blank name", err, `--hostname-override: " ": must not be blank`)
}

func oneLine(t testing.TB, what string, err error, want string) {
	t.Helper()
	if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: %v; want %s", what, err, want)
	}
}

// TestFlagOverFieldIsBlamed holds that a mistake is the flag's if the flag won.
func TestFlagOverFieldIsBlamed(t *testing.T) {
	_, err := parse(t, "--config="+conf(t, "oomScoreAdj: 5"), "--oom-score-adj=2000")
	oneLine(t, "flag", err, "--oom-score-adj: 2000")
}

// TestAllIsSaid holds that several mistakes are named at once, each on its line.
func TestAllIsSaid(t *testing.T) {
	_, err := parse(t, "--proxy-mode=x", "--iptables-masquerade-bit=-1", "--nodeport-addresses=y,z")
	if n := strings.Count(err.Error(), "\n") + 1; n != 4 {
		t.Errorf("%d lines: %v", n, err)
	}
}

// TestWrongValue holds the words for a flag whose value has the wrong type.
func TestWrongValue(t *testing.T) {
	for args, want := range map[string]string{
		"--feature-gates=KubeProxyIPVS=maybe": `invalid argument "KubeProxyIPVS=maybe" for "--feature-gates" flag`,
		"--feature-gates=KubeProxyIPVS":       `invalid argument "KubeProxyIPVS" for "--feature-gates" flag: malformed pair`,
		"--oom-score-adj=low":                 `invalid argument "low" for "--oom-score-adj" flag`,
		"--v=-1":                              `for "-v, --v" flag`,
		"--iptables-sync-period=30":           `invalid argument "30" for "--iptables-sync-period" flag: must be a duration like "30s"`,
	} {
		var f Flags
		fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
		f.Bind(fs)
		err := fs.Parse([]string{args})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want %s", args, err, want)
		}
	}
}

// TestServers holds the forms of the servers' addresses, and how they are switched off.
func TestServers(t *testing.T) {
	for args, want := range map[string]string{
		"--healthz-bind-address=127.0.0.1":                     "127.0.0.1:10256 127.0.0.1:10249",
		"--healthz-bind-address=::":                            "[::]:10256 127.0.0.1:10249",
		"--healthz-bind-address=[::1]:80":                      "[::1]:80 127.0.0.1:10249",
		"--bind-address=fd00::1":                               "[::]:10256 [::1]:10249",
		"--healthz-bind-address=":                              "off 127.0.0.1:10249",
		"--metrics-bind-address=":                              "0.0.0.0:10256 off",
		"--metrics-bind-address=off":                           "0.0.0.0:10256 off",
		"--metrics-port=0 --healthz-port=0":                    "off off",
		"--metrics-port=0 --metrics-bind-address=10.0.0.1":     "0.0.0.0:10256 off",
		"--metrics-port=70 --metrics-bind-address=10.0.0.1":    "0.0.0.0:10256 10.0.0.1:70",
		"--metrics-port=70 --metrics-bind-address=10.0.0.1:80": "0.0.0.0:10256 10.0.0.1:80",
		"--healthz-port=70":                                    "0.0.0.0:10256 127.0.0.1:10249",
	} {
		o := mustParse(t, strings.Fields(args)...)
		got := []string{"off", "off"}
		if o.Healthz.IsValid() {
			got[0] = o.Healthz.String()
		}
		if o.Metrics.IsValid() {
			got[1] = o.Metrics.String()
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %s, want %s", args, got, want)
		}
	}
}
