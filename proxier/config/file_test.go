package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"
)

// TestBadFile holds the words for a file that cannot be taken: a line for each fault.
func TestBadFile(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string // after the path
	}{
		{"empty", "", []string{": is empty"}},
		{"only a comment", "# nothing\n", []string{": is empty"}},
		{"no object", "[1, 2]", []string{": must be an object with apiVersion kubeproxy.config.k8s.io/v1alpha1 and kind KubeProxyConfiguration"}},
		{"no kind", "mode: ipvs", []string{": apiVersion null, kind null: must be kubeproxy.config.k8s.io/v1alpha1, KubeProxyConfiguration"}},
		{"another version", "apiVersion: kubeproxy.config.k8s.io/v1beta1\nkind: KubeProxyConfiguration",
			[]string{`: apiVersion "kubeproxy.config.k8s.io/v1beta1", kind "KubeProxyConfiguration": must be kubeproxy.config.k8s.io/v1alpha1, KubeProxyConfiguration`}},
		{"another kind", "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: Config",
			[]string{`: apiVersion "kubeproxy.config.k8s.io/v1alpha1", kind "Config": must be kubeproxy.config.k8s.io/v1alpha1, KubeProxyConfiguration`}},
		{"not YAML", header + "iptables:\n\tmasqueradeBit: 1", []string{": yaml: line 4: found character that cannot start any token"}},
		{"text for a number", header + "\niptables:\n  masqueradeBit: fourteen", []string{`:5: iptables.masqueradeBit: "fourteen": must be a whole number of 32 bits`}},
		{"too large", header + "oomScoreAdj: 3000000000", []string{":3: oomScoreAdj: 3000000000: must be a whole number of 32 bits"}},
		{"a number for a duration", header + "configSyncPeriod: 15", []string{":3: configSyncPeriod: 15: must be a duration such as 30s"}},
		{"no unit", header + "conntrack: {udpTimeout: '15'}", []string{`:3: conntrack.udpTimeout: "15": must be a duration such as 30s`}},
		{"text for a switch", header + "enableProfiling: 'yes'", []string{`:3: enableProfiling: "yes": must be true or false`}},
		{"an object for text", header + "mode: {a: b}", []string{`:3: mode: {"a":"b"}: must be a string`}},
		{"text for an object", header + "ipvs: x", []string{`:3: ipvs: "x": must be an object`}},
		{"text for a list", header + "nodePortAddresses: primary", []string{`:3: nodePortAddresses: "primary": must be a list`}},
		{"an entry", header + "nodePortAddresses:\n- primary\n- 7", []string{`:5: nodePortAddresses[1]: 7: must be a string`}},
		{"a gate", header + "featureGates:\n  KubeProxyIPVS: maybe", []string{`:4: featureGates.KubeProxyIPVS: "maybe": must be true or false`}},
		{"below zero", header + "logging: {verbosity: -1}", []string{`:3: logging.verbosity: -1: must be a whole number of 32 bits, not negative`}},
		{"a size", header + "logging: {options: {text: {infoBufferSize: big}}}", []string{`:3: logging.options.text.infoBufferSize: "big": must be a quantity such as 64Ki`}},
		{"a rate", header + "clientConnection: {qps: fast}", []string{`:3: clientConnection.qps: "fast": must be a number`}},
		{"long", header + "oomScoreAdj: " + strings.Repeat("x", 100), []string{`:3: oomScoreAdj: "` + strings.Repeat("x", 59) + "…: must be a whole number of 32 bits"}},
		{"several", header + "oomScoreAdj: x\niptables: {syncPeriod: 3, masqueradeAll: 4}\n",
			[]string{":4: iptables.masqueradeAll: 4: must be true or false", ":4: iptables.syncPeriod: 3: must be a duration such as 30s",
				`:3: oomScoreAdj: "x": must be a whole number of 32 bits`}},
	} {
		_, err := decode("c", []byte(tt.text))
		if err == nil {
			t.Errorf("%s: accepted", tt.name)
			continue
		}
		got := strings.Split(err.Error(), "\n")
		if len(got) != len(tt.want) || !slices.EqualFunc(got, tt.want, func(a, b string) bool { return strings.HasPrefix(a, "c"+b) }) {
			t.Errorf("%s:\n got %q\nwant %q", tt.name, got, tt.want)
		}
	}
}

// TestUnreadableFile holds the words for a file that is not there, is none, or is
// larger than a ConfigMap can be.
func TestUnreadableFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/large", strings.Repeat("#", maxFile+1))
	for path, want := range map[string]string{
		dir + "/none":  "read configuration: open " + dir + "/none: no such file or directory",
		dir:            "read configuration: read " + dir + ": is a directory",
		dir + "/large": "read configuration: " + dir + "/large: larger than 1048576 bytes",
	} {
		_, err := parse(t, "--config="+path)
		oneLine(t, path, err, want)
	}
}

// TestWarnings holds what is said and not refused. %s stands for the file's path.
func TestWarnings(t *testing.T) {
	for _, tt := range []struct {
		name, flags, file string
		want              []string
	}{
		{"unknown fields", "", "maskeradeAll: true\niptables:\n  foo: {bar: 1}\nMode: ipvs",
			[]string{"%s:5: iptables.foo: unknown field, ignored", "%s:3: maskeradeAll: unknown field, ignored", "%s:6: Mode: unknown field, ignored"}},
		{"unknown, with a line break in it", "", `"a\nb": 1`, []string{`%s:3: "a\nb": unknown field, ignored`}},
		{"duplicated fields", "", "bindAddress: 10.0.0.1\nbindAddress: 10.0.0.2\nipvs:\n  strictARP: true\n  strictARP: false",
			[]string{"%s:4: bindAddress: duplicated field, first on line 3: the last one counts",
				"%s:7: ipvs.strictARP: duplicated field, first on line 6: the last one counts"}},
		{"a second document", "", "---\nmode: ipvs", []string{"%s: has more than one document: only the first counts"}},
		{"a flag that wins", "--masquerade-all --oom-score-adj=-999 --kubeconfig=/k", "oomScoreAdj: 1\nclientConnection: {kubeconfig: /k}",
			[]string{"--oom-score-adj=-999 wins over the file: %s:3: oomScoreAdj", "--masquerade-all=true wins over the file: %s: iptables.masqueradeAll"}},
		{"flags that win upstream too", "--hostname-override=a -v=3 --logging-format=json --master=m", "hostnameOverride: b\nlogging: {verbosity: 1}", nil},
		{"deprecated", "--healthz-port=1 --metrics-port=0", "", []string{
			"--healthz-port wins over the file: %s: healthzBindAddress", "--metrics-port wins over the file: %s: metricsBindAddress",
			"--healthz-port is deprecated: use --healthz-bind-address; the port counts only for an address without one, and 0 for no server",
			"--metrics-port is deprecated: use --metrics-bind-address; the port counts only for an address without one, and 0 for no server"}},
		{"nothing to act on", "--vmodule=a=1 --source-vip=1.2.3.4", "portRange: 1-2\nnftables: {masqueradeAll: true}\nwinkernel: {enableDSR: true}\nlogging: {flushFrequency: 1s}",
			[]string{"--source-vip=1.2.3.4 wins over the file: %s: winkernel.sourceVip",
				"--vmodule: accepted, without effect: levels are not set file by file",
				"%s:6: logging.flushFrequency: accepted, without effect: each line is written at once, to stderr",
				"%s:4: nftables.masqueradeAll: accepted, without effect: it concerns nftables mode",
				"--source-vip: accepted, without effect: it concerns Windows",
				"%s:5: winkernel.enableDSR: accepted, without effect: it concerns Windows",
				"%s:3: portRange: accepted, without effect: nothing has used it since upstream's userspace mode went"}},
		{"feature gates", "--feature-gates=NFTablesNetlink=true,KubeProxyIPVS=true", "featureGates:\n  Frobnicate: true\n  WinDSR: true",
			[]string{"--feature-gates=KubeProxyIPVS=true,NFTablesNetlink=true wins over the file: %s:3: featureGates",
				`%s:4: featureGates: "Frobnicate": unknown feature gate, ignored`,
				"--feature-gates: NFTablesNetlink: accepted, without effect: it concerns nftables mode",
				"%s:5: featureGates: WinDSR: accepted, without effect: it concerns Windows"}},
	} {
		path := conf(t, tt.file)
		o, err := flags(t, append(strings.Fields(tt.flags), "--config="+path)...).Options(modes)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var got []string
		for _, line := range o.Warnings {
			got = append(got, strings.ReplaceAll(line, path, "%s"))
		}
		slices.Sort(got)
		slices.Sort(tt.want)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s:\n got %q\nwant %q", tt.name, got, tt.want)
		}
	}
}

// TestFlagsOverFile holds that a flag wins, also with its zero, and that gates add up.
func TestFlagsOverFile(t *testing.T) {
	path := conf(t, "masquerade: x\niptables: {masqueradeAll: true, minSyncPeriod: 5s}\nfeatureGates: {KubeProxyIPVS: false}\nmode: ipvs\nnodePortAddresses: [all]")
	o := mustParse(t, "--config="+path, "--masquerade-all=false", "--proxy-mode=iptables", "--iptables-min-sync-period=0",
		"--feature-gates=AllowServiceExternalIPs=false", "--nodeport-addresses=primary")
	if o.Compile.MasqueradeAll || o.Mode != "iptables" || o.Min != 0 || !o.Node.NodePorts.Primary || o.Node.NodePorts.All {
		t.Errorf("%+v", o)
	}
	if gates := o.Effective.FeatureGates; len(gates) != 2 || gates["KubeProxyIPVS"] || gates["AllowServiceExternalIPs"] {
		t.Errorf("gates %v", gates)
	}
}

// TestKubeadm holds that what kubeadm writes (reference, 1.5), with the command line
// of its DaemonSet, works without a word.
func TestKubeadm(t *testing.T) {
	o, err := flags(t, "--config=testdata/kubeadm.conf", "--hostname-override=node-1").Options(modes)
	if err != nil || len(o.Warnings) > 0 {
		t.Fatalf("%v, warnings %q", err, o.Warnings)
	}
	want, err := flags(t, "--hostname-override=node-1", "--cluster-cidr=10.244.0.0/16", "--kubeconfig=/var/lib/kube-proxy/kubeconfig.conf").Options(modes)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "kubeadm's file", o, want)
}

// FuzzDecode holds that no file makes the decoder panic or its words break a line, and
// that what is accepted means the same after it was written.
func FuzzDecode(f *testing.F) {
	kubeadm, err := os.ReadFile("testdata/kubeadm.conf")
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{
		string(kubeadm), header, header + "mode: [", header + "a: &a [*a]", header + "<<: {mode: ipvs}", header + "? [a]\n: b",
		header + "1: 2\ntrue: 3\nnull: 4\n~: 5", header + "ipvs: {excludeCIDRs: [10.0.0.0/8]}\nmode: ipvs", "\xff", "---\n...\n",
		header + "logging: {vmodule: [{filePattern: a, verbosity: 1}], flushFrequency: 3}",
		header + "featureGates: {A: true}\nconntrack: {maxPerCore: .inf}",
	} {
		body, headed := strings.CutPrefix(text, header)
		f.Add(body, headed)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string, headed bool) {
		if headed {
			text = header + text
		}
		read, err := decode("c", []byte(text))
		if err != nil {
			if strings.HasPrefix(err.Error(), "\n") || strings.Contains(err.Error(), "\n\n") {
				t.Fatalf("%q", err)
			}
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "c:") {
					t.Fatalf("a line that names no file: %q", line)
				}
			}
			return
		}
		fl := flags(t)
		o, err := fl.options(read, modes)
		if err != nil {
			return
		}
		for _, line := range o.Warnings {
			if strings.Contains(line, "\n") {
				t.Fatalf("two lines: %q", line)
			}
		}
		path := filepath.Join(dir, "written")
		if err := Write(path, o.Effective); err != nil {
			t.Fatal(err)
		}
		again, err := flags(t, "--config="+path).Options(modes)
		if err != nil || !o.SameEffect(again) {
			t.Fatalf("%v: read %+v, wrote %+v", err, again, o)
		}
	})
}

// TestTypes holds that the file is upstream's: what is written has its version, and
// previousMinor is that before its.
func TestTypes(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := kubeproxy.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	kinds, _, err := scheme.ObjectKinds(mustParse(t).Effective)
	if err != nil || len(kinds) != 1 || kinds[0].GroupVersion().String()+kinds[0].Kind != mustParse(t).Effective.APIVersion+kind {
		t.Errorf("%v, %v", kinds, err)
	}
	mod, err := os.ReadFile("../../go.mod")
	if err != nil || !strings.Contains(string(mod), "k8s.io/kube-proxy v0.37.") || previousMinor != "1.36" {
		t.Errorf("go.mod has another k8s.io/kube-proxy than that after %s (%v)", previousMinor, err)
	}
}
