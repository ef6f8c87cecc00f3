package config

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// Whatever command line is given, of flags that read no file: options, or an error that
// says what is wrong.
func FuzzCommandLine(f *testing.F) {
	for _, line := range []string{
		"--proxy-mode=ipvs --ipvs-exclude-cidrs=10.0.0.0/8 --nodeport-addresses=primary,10.0.0.0/8",
		"--detect-local-mode=BridgeInterface --pod-bridge-interface=cbr0 --cluster-cidr=10.244.0.0/16,fd00::/64",
		"--service-external-ips=203.0.113.0/24,fd00::/8 --feature-gates=AllowServiceExternalIPs=true",
		"--healthz-bind-address=[::]:10256 --metrics-bind-address= --conntrack-min=0 --iptables-sync-period=1m",
		"--bind-address=:: --hostname-override=N --oom-score-adj=-1000 --ipvs-scheduler=mh,mh-port -v 4",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		var flags Flags
		set := pflag.NewFlagSet("run", pflag.ContinueOnError)
		set.Usage = func() {}
		flags.Bind(set)
		args := append(strings.Fields(line), "--hostname-override=n", "--config=", "--write-config-to=")
		if set.Parse(args) != nil {
			return
		}
		o, err := flags.Options([]string{"iptables", "ipvs", "userspace"})
		if err == nil && (o.Sync <= 0 || o.Mode == "") {
			t.Fatalf("%q: %+v", line, o)
		}
	})
}
