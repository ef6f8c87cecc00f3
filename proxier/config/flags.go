package config

import (
	"time"

	"github.com/spf13/pflag"
)

// Flags are the command line's words, unchecked.
type Flags struct {
	Manifest         string
	HostnameOverride string
	BindAddress      string
	ProxyMode        string

	ClusterCIDR            string
	DetectLocalMode        string
	PodBridgeInterface     string
	PodInterfaceNamePrefix string

	NodePortAddresses  []string
	MasqueradeAll      bool
	MasqueradeBit      int
	LocalhostNodePorts bool
	SyncPeriod         time.Duration
	MinSyncPeriod      time.Duration

	HealthzBindAddress string
	MetricsBindAddress string
	Profiling          bool
	Verbosity          int
	LoggingFormat      string

	runs bool // the flags of Bind were declared
}

// Bind declares the flags of `run` with upstream's names and defaults.
func (f *Flags) Bind(fs *pflag.FlagSet) {
	f.BindRender(fs)
	bindIdle(fs)
	f.runs = true
	fs.DurationVar(&f.SyncPeriod, "iptables-sync-period", 30*time.Second,
		"how often the kernel's rules are compared with what they should be; also the longest wait before a failed sync is tried again")
	fs.DurationVar(&f.MinSyncPeriod, "iptables-min-sync-period", time.Second,
		"the shortest time between two syncs; 0: every change at once")
	fs.StringVar(&f.HealthzBindAddress, "healthz-bind-address", "0.0.0.0:10256",
		"IP address or IP:port of the health check server")
	fs.StringVar(&f.MetricsBindAddress, "metrics-bind-address", "127.0.0.1:10249",
		"IP address or IP:port of the metrics server; empty: none")
	fs.BoolVar(&f.Profiling, "profiling", false, "the metrics server answers /debug/pprof too")
	fs.IntVarP(&f.Verbosity, "v", "v", 0, "log level: 0 to 3 informative, from 4 on everything")
	fs.StringVar(&f.LoggingFormat, "logging-format", "text", `log format, "text" or "json"`)
}

// BindRender declares the flags that decide what the State is.
func (f *Flags) BindRender(fs *pflag.FlagSet) {
	fs.StringVar(&f.Manifest, "manifest", "",
		"a YAML file, or a directory of them, with the Services, EndpointSlices and Nodes to serve; an edit takes effect within a second")
	fs.StringVar(&f.HostnameOverride, "hostname-override", "",
		"this node's name; default: the host name, in lower case")
	fs.StringVar(&f.BindAddress, "bind-address", "0.0.0.0",
		"overrides the node's IP address if specified; binds nothing")
	fs.StringVar(&f.ProxyMode, "proxy-mode", "iptables", "the backend; one of those that `version` lists")
	fs.StringVar(&f.ClusterCIDR, "cluster-cidr", "",
		"the pods' address range, or one for each family, comma-separated; packets from elsewhere to a ClusterIP are masqueraded")
	fs.StringVar(&f.DetectLocalMode, "detect-local-mode", "ClusterCIDR",
		"how a pod's packet is told: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix")
	fs.StringVar(&f.PodBridgeInterface, "pod-bridge-interface", "", "the bridge of the pods, for BridgeInterface")
	fs.StringVar(&f.PodInterfaceNamePrefix, "pod-interface-name-prefix", "",
		"what the names of the pods' interfaces begin with, for InterfaceNamePrefix")
	fs.StringSliceVar(&f.NodePortAddresses, "nodeport-addresses", nil,
		"on which of the node's addresses NodePorts answer: CIDRs, and the words primary, localhost and all; default: on all")
	fs.BoolVar(&f.MasqueradeAll, "masquerade-all", false, "masquerade everything that goes to a ClusterIP")
	fs.IntVar(&f.MasqueradeBit, "iptables-masquerade-bit", 14,
		"the bit, 0 to 31, of the packet mark that asks for masquerade")
	fs.BoolVar(&f.LocalhostNodePorts, "iptables-localhost-nodeports", true,
		"NodePorts answer on 127.0.0.0/8 too, if they are to by --nodeport-addresses")
}
