package config

import (
	"errors"
	"net/netip"
	"reflect"
	"time"

	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"

	"switchyard/proxier"
	"switchyard/proxier/compile"
	"switchyard/proxier/node"
)

// Options is everything that was configured, parsed and checked.
type Options struct {
	Manifest string // a file or directory; "": the API server is the source
	Client   ClientConnection

	Mode    string // a backend's name
	Node    node.Options
	Compile compile.Options
	Backend proxier.Settings
	// Sync is the mode's syncPeriod, more than 0. Min is its minSyncPeriod, 0 to
	// Sync; 0: every change at once.
	Sync, Min time.Duration
	// ConfigSync is configSyncPeriod, more than 0.
	ConfigSync time.Duration

	Healthz  netip.AddrPort // invalid: no server
	Metrics  netip.AddrPort // likewise
	HardFail bool           // a server that cannot listen ends the process
	// Profiling: the metrics server answers /debug/pprof.
	Profiling bool
	// HiddenMetrics: those that were hidden in the last minor version are shown.
	HiddenMetrics bool

	Conntrack   Conntrack
	OOMScoreAdj int // -1000..1000

	Verbosity int
	JSONLogs  bool

	// Init: do what needs full root, and end.
	Init bool
	// WriteTo: write Effective to this file (Write), and end; "": do not.
	WriteTo string
	// Effective is the configuration that all of this was made from: the file, the
	// flags over it, and defaults. It is not to be changed.
	Effective *kubeproxy.KubeProxyConfiguration
	// Warnings are lines for the log.
	Warnings []string
}

// ClientConnection is how to reach the API server. With Kubeconfig and Master empty
// it is the one of the cluster that the process is a pod of.
type ClientConnection struct {
	Kubeconfig string  // a file's path
	Master     string  // an address, in place of the kubeconfig's
	QPS        float32 // requests a second; not 0; negative: no limit
	Burst      int     // more than 0
	// ContentType and AcceptContentTypes are MIME types. The second may be empty: the
	// client's default.
	ContentType, AcceptContentTypes string
}

// Conntrack are the sysctls of connection tracking; what is nil is left alone.
type Conntrack struct {
	// MaxPerCore is for each CPU; nil: nf_conntrack_max is left alone, whatever Min.
	MaxPerCore *int
	// Min is the least nf_conntrack_max, 0 or more.
	Min                                        int
	TCPEstablishedTimeout, TCPCloseWaitTimeout *time.Duration // more than 0
	UDPTimeout, UDPStreamTimeout               *time.Duration // more than 0
	// TCPBeLiberal: set nf_conntrack_tcp_be_liberal; false: leave it alone.
	TCPBeLiberal bool
}

// Options reads the file, if there is one, and checks everything. modes are the
// names of the backends. The error joins one line for each flag or field that is
// wrong; there are no Options then.
func (f *Flags) Options(modes []string) (Options, error) {
	file, err := f.base()
	if err != nil {
		return Options{}, err
	}
	return f.options(file, modes)
}

func (f *Flags) options(file *file, modes []string) (Options, error) {
	effective := f.over(file)
	c := checker{flags: f, file: file, c: &effective}
	o := c.options(modes)
	if err := errors.Join(c.errs...); err != nil {
		return Options{}, err
	}
	o.Effective = &effective
	o.Warnings = f.warnings(file, &effective)
	return o, nil
}

// SameEffect reports whether two Options ask for the same, whatever the words were.
func (o Options) SameEffect(p Options) bool {
	o.Effective, p.Effective = nil, nil
	o.Warnings, p.Warnings = nil, nil
	return reflect.DeepEqual(o, p)
}
