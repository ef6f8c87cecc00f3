package config

import (
	"slices"

	"github.com/spf13/pflag"
)

// idle are upstream's flags that are accepted so that its command lines work, but
// have no effect yet.
var idle = map[string][]string{
	"string": {
		"config", "write-config-to", "kubeconfig", "master", "kube-api-content-type",
		"show-hidden-metrics-for-version", "feature-gates",
		"ipvs-scheduler", "ipvs-exclude-cidrs", "vmodule",
		"log-flush-frequency", "log-json-info-buffer-size", "log-text-info-buffer-size",
	},
	"bool": {
		"init-only", "bind-address-hard-fail", "ipvs-strict-arp",
		"conntrack-tcp-be-liberal", "log-json-split-stream", "log-text-split-stream",
	},
	"int": {
		"kube-api-burst", "oom-score-adj", "conntrack-max-per-core", "conntrack-min",
		"healthz-port", "metrics-port",
	},
	"float": {"kube-api-qps"},
	"duration": {
		"ipvs-sync-period", "ipvs-min-sync-period", "ipvs-tcp-timeout", "ipvs-tcpfin-timeout",
		"ipvs-udp-timeout", "conntrack-tcp-timeout-established", "conntrack-tcp-timeout-close-wait",
		"conntrack-udp-timeout", "conntrack-udp-timeout-stream", "config-sync-period",
	},
}

// bindIdle declares the idle flags, each with the type of its values.
func bindIdle(fs *pflag.FlagSet) {
	for kind, names := range idle {
		for _, name := range names {
			usage := "accepted, as upstream's; no effect yet"
			switch kind {
			case "string":
				fs.String(name, "", usage)
			case "bool":
				fs.Bool(name, false, usage)
			case "int":
				fs.Int(name, 0, usage)
			case "float":
				fs.Float64(name, 0, usage)
			case "duration":
				fs.Duration(name, 0, usage)
			}
		}
	}
}

// Idle lists the flags that were given and have no effect yet, sorted.
func Idle(fs *pflag.FlagSet) []string {
	var given []string
	fs.Visit(func(f *pflag.Flag) {
		for _, names := range idle {
			if slices.Contains(names, f.Name) {
				given = append(given, "--"+f.Name)
			}
		}
	})
	slices.Sort(given)
	return given
}
