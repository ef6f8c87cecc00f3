package config

import (
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/cli/flag"
	logs "k8s.io/component-base/logs/api/v1"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"
)

// Flags are the command line's words, unchecked.
type Flags struct {
	cleanup bool
	version string // "": not given

	config      string // the file; "": none
	writeTo     string
	manifest    string
	master      string
	initOnly    bool
	externalIPs string
	drain       time.Duration

	healthzPort, metricsPort int32 // deprecated

	said configuration  // what the flags of settings say; defaults where they were not given
	set  *pflag.FlagSet // which were given
}

// Bind declares the flags of `run`: upstream's, with its names and defaults, and ours.
func (f *Flags) Bind(fs *pflag.FlagSet) {
	f.BindRender(fs)
	for _, s := range settings() {
		if s.flag != "" && !s.render {
			s.declare(fs, &f.said)
		}
	}
	fs.StringVar(&f.writeTo, "write-config-to", "",
		"write what is configured, defaults and flags included, to this file, and end")
	fs.StringVar(&f.master, "master", "", "the API server's address, in place of the kubeconfig's")
	fs.BoolVar(&f.initOnly, "init-only", false, "do what needs full root, and end; a run afterwards needs CAP_NET_ADMIN only")
	fs.BoolVar(&f.cleanup, "cleanup", false, "the verb cleanup, as a flag")
	fs.StringVar(&f.version, "version", "", "the verb version, as a flag")
	fs.Lookup("version").NoOptDefVal = "true"
	fs.Int32Var(&f.healthzPort, "healthz-port", healthzPort,
		"deprecated: use --healthz-bind-address; 0: no health check server")
	fs.Int32Var(&f.metricsPort, "metrics-port", metricsPort,
		"deprecated: use --metrics-bind-address; 0: no metrics server")
	fs.DurationVar(&f.drain, "userspace-drain", 30*time.Second,
		"in userspace mode: how long connections may go on after the end was asked for")
}

// File is the configuration file, "" if there is none.
func (f *Flags) File() string { return f.config }

// BindRender declares the flags that decide what the State is.
func (f *Flags) BindRender(fs *pflag.FlagSet) {
	f.set, f.said = fs, configuration{}
	f.said.IPVS.MinSyncPeriod = flagsMinSync
	defaults(&f.said)
	for _, s := range settings() {
		if s.flag != "" && s.render {
			s.declare(fs, &f.said)
		}
	}
	fs.StringVar(&f.config, "config", "",
		"a file with a KubeProxyConfiguration. A flag that is given beside it wins over the file's field, and a line in the log says so")
	fs.StringVar(&f.manifest, "manifest", "",
		"a YAML file, or a directory of them, with the Services, EndpointSlices and Nodes to serve; an edit takes effect within a second")
	fs.StringVar(&f.externalIPs, "service-external-ips", "all",
		"which externalIPs of Services are served: all, none, or those within address ranges, comma-separated")
}

// declare makes the flag of a setting, with the value in c as its default. It knows
// the types of all settings that have a flag.
func (s setting) declare(fs *pflag.FlagSet, c *configuration) {
	usage := s.usage
	if s.idle != "" {
		usage = "accepted, without effect: " + s.idle
	}
	switch at := s.at(c).(type) {
	case *string:
		fs.StringVar(at, s.flag, *at, usage)
	case *kubeproxy.ProxyMode:
		fs.StringVar((*string)(at), s.flag, string(*at), usage)
	case *kubeproxy.LocalMode:
		fs.StringVar((*string)(at), s.flag, string(*at), usage)
	case *[]string:
		fs.StringSliceVar(at, s.flag, *at, usage)
	case *bool:
		fs.BoolVar(at, s.flag, *at, usage)
	case **bool:
		fs.BoolVar(*at, s.flag, **at, usage)
	case *int32:
		fs.Int32Var(at, s.flag, *at, usage)
	case **int32:
		fs.Int32Var(*at, s.flag, **at, usage)
	case *float32:
		fs.Float32Var(at, s.flag, *at, usage)
	case *metav1.Duration:
		fs.DurationVar(&at.Duration, s.flag, at.Duration, usage)
	case **metav1.Duration:
		fs.DurationVar(&(*at).Duration, s.flag, (*at).Duration, usage)
	case *logs.TimeOrMetaDuration:
		fs.DurationVar(&at.Duration.Duration, s.flag, at.Duration.Duration, usage)
	case *map[string]bool:
		fs.Var(flag.NewMapStringBool(at), s.flag, usage)
	case *logs.VerbosityLevel:
		fs.VarP(logs.VerbosityLevelPflag(at), s.flag, s.flag, usage)
	case *logs.VModuleConfiguration:
		fs.Var(logs.VModuleConfigurationPflag(at), s.flag, usage)
	case *resource.QuantityValue:
		fs.Var(at, s.flag, usage)
	}
}

// Verb is what upstream's flags --cleanup and --version ask for instead of a run:
// "cleanup", "version", or "". No other flag counts then.
func (f *Flags) Verb() string {
	switch {
	case f.version != "" && f.version != "false":
		return "version"
	case f.cleanup:
		return "cleanup"
	}
	return ""
}

// given reports whether a flag was on the command line.
func (f *Flags) given(name string) bool { return name != "" && f.set != nil && f.set.Changed(name) }
