package config

import (
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"switchyard/proxier"
	"switchyard/proxier/node"
)

// TestEffect holds, for each flag and the field that says the same, what of the Options
// it changes. fields lack apiVersion and kind.
func TestEffect(t *testing.T) {
	prefix := netip.MustParsePrefix
	for _, tt := range []struct {
		flag, field string
		want        func(*Options)
	}{
		{"--kubeconfig=/k", "clientConnection: {kubeconfig: /k}", func(o *Options) { o.Client.Kubeconfig = "/k" }},
		{"--kube-api-content-type=a/b", "clientConnection: {contentType: a/b}", func(o *Options) { o.Client.ContentType = "a/b" }},
		{"", "clientConnection: {acceptContentTypes: a/b}", func(o *Options) { o.Client.AcceptContentTypes = "a/b" }},
		{"--kube-api-qps=5.5", "clientConnection: {qps: 5.5}", func(o *Options) { o.Client.QPS = 5.5 }},
		{"--kube-api-burst=7", "clientConnection: {burst: 7}", func(o *Options) { o.Client.Burst = 7 }},
		{"--kube-api-burst=0 --kube-api-qps=0", "clientConnection: {burst: 0}", func(*Options) {}},
		{"--master=https://m", "", func(o *Options) { o.Client.Master = "https://m" }},
		{"--bind-address=10.0.0.1", "bindAddress: 10.0.0.1", func(o *Options) { o.Node.BindAddress = netip.MustParseAddr("10.0.0.1") }},
		{"--healthz-bind-address=10.0.0.1:8", "healthzBindAddress: 10.0.0.1:8", func(o *Options) { o.Healthz = netip.MustParseAddrPort("10.0.0.1:8") }},
		{"--metrics-bind-address=off", `metricsBindAddress: "off"`, func(o *Options) { o.Metrics = netip.AddrPort{} }},
		{"--bind-address-hard-fail", "bindAddressHardFail: true", func(o *Options) { o.HardFail = true }},
		{"--profiling", "enableProfiling: true", func(o *Options) { o.Profiling = true }},
		{"--show-hidden-metrics-for-version=1.36", "showHiddenMetricsForVersion: '1.36'", func(o *Options) { o.HiddenMetrics = true }},
		{"--oom-score-adj=-998", "oomScoreAdj: -998", func(o *Options) { o.OOMScoreAdj = -998 }},
		{"--oom-score-adj=0", "oomScoreAdj: 0", func(o *Options) { o.OOMScoreAdj = 0 }},
		{"--config-sync-period=1m", "configSyncPeriod: 1m", func(o *Options) { o.ConfigSync = time.Minute }},
		{"--iptables-masquerade-bit=0", "iptables: {masqueradeBit: 0}", func(o *Options) { o.Backend.MasqueradeBit = 0 }},
		{"--masquerade-all", "iptables: {masqueradeAll: true}", func(o *Options) { o.Compile.MasqueradeAll = true }},
		{"--iptables-localhost-nodeports=false", "iptables: {localhostNodePorts: false}", func(o *Options) { o.Node.LocalhostNodePorts = false }},
		{"--iptables-sync-period=1m", "iptables: {syncPeriod: 1m}", func(o *Options) { o.Sync = time.Minute }},
		{"--iptables-min-sync-period=2s", "iptables: {minSyncPeriod: 2s}", func(o *Options) { o.Min = 2 * time.Second }},
		{"--iptables-min-sync-period=0", "iptables: {minSyncPeriod: 1ns}", func(o *Options) { o.Min = 0 }},
		{"--ipvs-sync-period=1m", "ipvs: {syncPeriod: 1m}", func(*Options) {}},
		{"--detect-local-mode=NodeCIDR", "detectLocalMode: NodeCIDR", func(o *Options) { o.Node.Detect.Mode = node.NodeCIDR }},
		{"--detect-local-mode=BridgeInterface --pod-bridge-interface=br0", "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: br0}",
			func(o *Options) { o.Node.Detect = node.Detect{Mode: node.BridgeInterface, Bridge: "br0"} }},
		{"--detect-local-mode=InterfaceNamePrefix --pod-interface-name-prefix=veth", "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}",
			func(o *Options) { o.Node.Detect = node.Detect{Mode: node.InterfaceNamePrefix, Prefix: "veth"} }},
		{"--pod-bridge-interface=a-name-that-is-longer-than-any", "detectLocal: {bridgeInterface: a-name-that-is-longer-than-any}", func(*Options) {}},
		{"--cluster-cidr=10.1.2.3/8,fd00::/8", "clusterCIDR: 10.1.2.3/8,fd00::/8",
			func(o *Options) {
				o.Node.Detect.ClusterCIDRs = []netip.Prefix{prefix("10.0.0.0/8"), prefix("fd00::/8")}
				o.Compile.ClusterCIDRs = o.Node.Detect.ClusterCIDRs
			}},
		{"--nodeport-addresses=primary,10.0.0.0/8", "nodePortAddresses: [primary, 10.0.0.0/8]",
			func(o *Options) {
				o.Node.NodePorts = node.Selection{Primary: true, CIDRs: []netip.Prefix{prefix("10.0.0.0/8")}}
			}},
		{"--conntrack-max-per-core=0", "conntrack: {maxPerCore: 0}", func(o *Options) { o.Conntrack.MaxPerCore = nil }},
		{"--conntrack-min=0", "conntrack: {min: 0}", func(o *Options) { o.Conntrack.Min = 0 }},
		{"--conntrack-tcp-timeout-established=0", "conntrack: {tcpEstablishedTimeout: 0s}", func(o *Options) { o.Conntrack.TCPEstablishedTimeout = nil }},
		{"--conntrack-tcp-timeout-close-wait=1m", "conntrack: {tcpCloseWaitTimeout: 1m}", func(o *Options) { o.Conntrack.TCPCloseWaitTimeout = new(time.Minute) }},
		{"--conntrack-tcp-be-liberal", "conntrack: {tcpBeLiberal: true}", func(o *Options) { o.Conntrack.TCPBeLiberal = true }},
		{"--conntrack-udp-timeout=1m", "conntrack: {udpTimeout: 1m}", func(o *Options) { o.Conntrack.UDPTimeout = new(time.Minute) }},
		{"--conntrack-udp-timeout-stream=1m", "conntrack: {udpStreamTimeout: 1m}", func(o *Options) { o.Conntrack.UDPStreamTimeout = new(time.Minute) }},
		{"--logging-format=json", "logging: {format: json}", func(o *Options) { o.JSONLogs = true }},
		{"-v=4", "logging: {verbosity: 4}", func(o *Options) { o.Verbosity = 4 }},
		{"--feature-gates=AllowServiceExternalIPs=false", "featureGates: {AllowServiceExternalIPs: false}", func(o *Options) { o.Compile.ExternalIPs.None = true }},
		{"--service-external-ips=none", "", func(o *Options) { o.Compile.ExternalIPs.None = true }},
		{"--service-external-ips=203.0.113.7/24,fd00::/8", "", func(o *Options) {
			o.Compile.ExternalIPs.Within = []netip.Prefix{prefix("203.0.113.0/24"), prefix("fd00::/8")}
		}},
		{"--service-external-ips=203.0.113.0/24 --feature-gates=AllowServiceExternalIPs=false", "", func(o *Options) { o.Compile.ExternalIPs.None = true }},
		{"--userspace-drain=0", "", func(o *Options) { o.Backend.Userspace.Drain = 0 }},
		{"--manifest=/m", "", func(o *Options) { o.Manifest = "/m" }},
		{"--init-only", "", func(o *Options) { o.Init = true }},
		{"--write-config-to=/w", "", func(o *Options) { o.WriteTo = "/w" }},
		{"--proxy-mode=IPVS", "mode: IPVS", func(o *Options) { o.Mode = "ipvs" }},
		{"--proxy-mode= --bind-address=", "mode: ''", func(*Options) {}},
	} {
		want := mustParse(t)
		tt.want(&want)
		if tt.flag != "" {
			same(t, tt.flag, mustParse(t, strings.Fields(tt.flag)...), want)
		}
		if tt.field != "" {
			got := mustParse(t, "--config="+conf(t, tt.field))
			if got.Mode == "ipvs" {
				want.Min = 0 // a file's default
			}
			same(t, tt.field, got, want)
		}
	}
}

func same(t testing.TB, what string, got, want Options) {
	t.Helper()
	got.Effective, want.Effective = nil, nil
	got.Warnings, want.Warnings = nil, nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// TestEffectIPVS holds that the mode's own section counts in ipvs mode.
func TestEffectIPVS(t *testing.T) {
	want := mustParse(t, "--proxy-mode=ipvs")
	want.Sync, want.Min = time.Minute, 2*time.Second
	want.Backend.IPVS = proxier.IPVSSettings{
		Scheduler: "mh", StrictARP: true, Exclude: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		TCP: time.Hour, TCPFin: time.Minute, UDP: time.Second,
	}
	same(t, "flags", mustParse(t, "--proxy-mode=ipvs", "--ipvs-sync-period=1m", "--ipvs-min-sync-period=2s", "--ipvs-scheduler=mh",
		"--ipvs-strict-arp", "--ipvs-exclude-cidrs=10.2.0.0/8", "--ipvs-tcp-timeout=1h", "--ipvs-tcpfin-timeout=1m", "--ipvs-udp-timeout=1s",
		"--iptables-sync-period=1h"), want)
	same(t, "fields", mustParse(t, "--config="+conf(t, `mode: ipvs
ipvs: {syncPeriod: 1m, minSyncPeriod: 2s, scheduler: mh, strictARP: true, excludeCIDRs: [10.2.0.0/8], tcpTimeout: 1h, tcpFinTimeout: 1m, udpTimeout: 1s}
`)), want)
	if o := mustParse(t, "--ipvs-exclude-cidrs=nonsense"); o.Backend.IPVS.Exclude != nil {
		t.Errorf("in another mode %v", o.Backend.IPVS)
	}
}

// TestEveryField holds that each field of the API's type is the field of a setting,
// so that none is forgotten when the type grows.
func TestEveryField(t *testing.T) {
	var known []string
	for _, s := range settings() {
		known = append(known, s.field)
	}
	var missing []string
	for _, field := range leaves("", reflect.TypeFor[configuration]()) {
		if !slices.Contains(known, field) && field != "apiVersion" && field != "kind" {
			missing = append(missing, field)
		}
	}
	if len(missing) > 0 {
		t.Errorf("no setting has %v", missing)
	}
	if n := len(leaves("", reflect.TypeFor[configuration]())); n < 60 {
		t.Errorf("only %d fields were found", n)
	}
}

// leaves lists the paths of the fields that hold values; types that decode
// themselves are values.
func leaves(path string, of reflect.Type) []string {
	var out []string
	for i := range of.NumField() {
		f := of.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		at := path
		if name != "" {
			at = join(path, name)
		}
		_, self := reflect.PointerTo(f.Type).MethodByName("UnmarshalJSON")
		if f.Type.Kind() == reflect.Struct && !self {
			out = append(out, leaves(at, f.Type)...)
		} else {
			out = append(out, at)
		}
	}
	return out
}

// TestEveryFlag holds that all flags of upstream's are there, with their defaults
// (reference, table 1.1), and that no other is but ours.
func TestEveryFlag(t *testing.T) {
	want := map[string]string{
		"config": "", "write-config-to": "", "cleanup": "false", "init-only": "false", "feature-gates": "", "kubeconfig": "", "master": "",
		"kube-api-content-type": "application/vnd.kubernetes.protobuf", "kube-api-burst": "10", "kube-api-qps": "5", "hostname-override": "",
		"bind-address": "0.0.0.0", "healthz-bind-address": "0.0.0.0:10256", "metrics-bind-address": "127.0.0.1:10249",
		"bind-address-hard-fail": "false", "profiling": "false", "show-hidden-metrics-for-version": "", "proxy-mode": "iptables",
		"iptables-masquerade-bit": "14", "masquerade-all": "false", "iptables-localhost-nodeports": "true", "iptables-sync-period": "30s",
		"iptables-min-sync-period": "1s", "ipvs-sync-period": "30s", "ipvs-min-sync-period": "1s", "ipvs-scheduler": "",
		"ipvs-exclude-cidrs": "[]", "ipvs-strict-arp": "false", "ipvs-tcp-timeout": "0s", "ipvs-tcpfin-timeout": "0s", "ipvs-udp-timeout": "0s",
		"detect-local-mode": "ClusterCIDR", "pod-bridge-interface": "", "pod-interface-name-prefix": "", "cluster-cidr": "",
		"nodeport-addresses": "[]", "oom-score-adj": "-999", "conntrack-max-per-core": "32768", "conntrack-min": "131072",
		"conntrack-tcp-timeout-established": "24h0m0s", "conntrack-tcp-timeout-close-wait": "1h0m0s", "conntrack-tcp-be-liberal": "false",
		"conntrack-udp-timeout": "0s", "conntrack-udp-timeout-stream": "0s", "config-sync-period": "15m0s", "healthz-port": "10256",
		"metrics-port": "10249", "log-flush-frequency": "5s", "logging-format": "text", "v": "0", "vmodule": "",
		"log-json-split-stream": "false", "log-json-info-buffer-size": "0", "log-text-split-stream": "false", "log-text-info-buffer-size": "0",
		"version": "", "windows-service": "false", "source-vip": "", "network-name": "", "enable-dsr": "false",
		"root-hnsendpoint-name": "", "forward-healthcheck-vip": "false",
		"manifest": "", "service-external-ips": "all", "userspace-drain": "30s", // ours
	}
	got := map[string]string{}
	flags(t).set.VisitAll(func(f *pflag.Flag) { got[f.Name] = f.DefValue })
	for name, value := range want {
		if was, ok := got[name]; !ok || was != value {
			t.Errorf("--%s=%s, want %s (declared: %t)", name, was, value, ok)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("more flags: %v", got)
	}
}

// TestRenderFlags holds that `render` takes what decides the State, and needs no more.
func TestRenderFlags(t *testing.T) {
	var f Flags
	fs := pflag.NewFlagSet("render", pflag.ContinueOnError)
	f.BindRender(fs)
	if err := fs.Parse([]string{"--hostname-override=n", "--masquerade-all", "--service-external-ips=none",
		"--config=" + conf(t, "clusterCIDR: 10.0.0.0/8\noomScoreAdj: 3"), "--proxy-mode=ipvs", "--ipvs-scheduler=sh"}); err != nil {
		t.Fatal(err)
	}
	o, err := f.Options(modes)
	if err != nil || !o.Compile.MasqueradeAll || !o.Compile.ExternalIPs.None || len(o.Node.Detect.ClusterCIDRs) != 1 || o.Backend.IPVS.Scheduler != "sh" {
		t.Errorf("%+v, %v", o, err)
	}
	if err := fs.Parse([]string{"--oom-score-adj=1"}); err == nil {
		t.Error("render takes --oom-score-adj, which it does not show")
	}
}

// TestVerb holds upstream's flags that stand for a verb.
func TestVerb(t *testing.T) {
	for args, want := range map[string]string{
		"": "", "--cleanup": "cleanup", "--cleanup=false": "", "--version": "version", "--version=raw -v=2": "version",
		"--version=false": "", "--cleanup --config=/c --proxy-mode=ipvs": "cleanup",
	} {
		if got := flags(t, strings.Fields(args)...).Verb(); got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
}

// TestRoundTrip holds that what was written means the same when it is read.
func TestRoundTrip(t *testing.T) {
	for _, args := range []string{
		"",
		"--proxy-mode=ipvs --ipvs-scheduler=wrr --ipvs-exclude-cidrs=10.0.0.0/8 --ipvs-udp-timeout=3s",
		"--iptables-min-sync-period=0 --iptables-sync-period=7s --masquerade-all",
		"--proxy-mode=ipvs --ipvs-min-sync-period=0",
		"--healthz-port=0 --metrics-bind-address= -v=5 --logging-format=json",
		"--bind-address=fd00::1 --oom-score-adj=0 --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0",
		"--feature-gates=AllowServiceExternalIPs=false,Other=true --nodeport-addresses=primary,10.0.0.0/8 --kube-api-qps=0.5",
		"--vmodule=a=1,b=2 --log-text-info-buffer-size=4Ki --log-flush-frequency=0 --windows-service --source-vip=1.2.3.4",
	} {
		path := filepath.Join(t.TempDir(), "written")
		wrote := mustParse(t, strings.Fields(args+" --write-config-to="+path)...)
		if err := Write(wrote.WriteTo, wrote.Effective); err != nil {
			t.Fatal(err)
		}
		read, err := flags(t, "--config="+path, "--write-config-to="+path).Options(modes)
		if err != nil {
			t.Errorf("%s: %v", args, err)
		}
		same(t, args, read, wrote)
		if a, b := printed(t, read), printed(t, wrote); a != b {
			t.Errorf("%s: read\n%s\nwrote\n%s", args, a, b)
		}
	}
	if err := Write("/nonexistent/dir/file", mustParse(t).Effective); err == nil ||
		!strings.HasPrefix(err.Error(), "write configuration: open /nonexistent/dir/file") {
		t.Error(err)
	}
}
