package config

import (
	"net/netip"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	logs "k8s.io/component-base/logs/api/v1"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"

	"switchyard/proxier/node"
)

const (
	kind = "KubeProxyConfiguration"
	// off stands for no server where an empty address stands for the default one.
	off = "off"

	iptables, ipvs, nftables = "iptables", "ipvs", "nftables"

	// The ports of upstream's servers, where an address has none.
	healthzPort = 10256
	metricsPort = 10249

	// previousMinor is the minor version before that of the API types in go.mod:
	// the only one whose hidden metrics can be asked for.
	previousMinor = "1.36"
)

// flagsMinSync is ipvs.minSyncPeriod if there is no file; in a file it is 0 (upstream
// is not of one mind there).
var flagsMinSync = metav1.Duration{Duration: time.Second}

// defaults fills in what was not said: upstream's v1alpha1 defaults, then those it
// has on Linux.
func defaults(c *configuration) {
	c.APIVersion, c.Kind = kubeproxy.SchemeGroupVersion.String(), kind
	orElse(&c.BindAddress, "0.0.0.0")
	v6 := false
	if a, err := netip.ParseAddr(c.BindAddress); err == nil {
		v6 = a.Is6()
	}
	c.HealthzBindAddress = address(c.HealthzBindAddress, family(v6, "[::]", "0.0.0.0"), healthzPort)
	c.MetricsBindAddress = address(c.MetricsBindAddress, family(v6, "[::1]", "127.0.0.1"), metricsPort)

	orElse(&c.ClientConnection.ContentType, runtime.ContentTypeProtobuf)
	orElse(&c.ClientConnection.QPS, 5)
	orElse(&c.ClientConnection.Burst, 10)
	orElse(&c.ConfigSyncPeriod.Duration, 15*time.Minute)
	orElse(&c.IPTables.SyncPeriod.Duration, 30*time.Second)
	orElse(&c.IPTables.MinSyncPeriod.Duration, time.Second)
	orElse(&c.IPVS.SyncPeriod.Duration, 30*time.Second)
	orElse(&c.NFTables.SyncPeriod.Duration, 30*time.Second)
	orElse(&c.NFTables.MinSyncPeriod.Duration, time.Second)

	unlessSet(&c.OOMScoreAdj, -999)
	unlessSet(&c.IPTables.MasqueradeBit, 14)
	unlessSet(&c.IPTables.LocalhostNodePorts, true)
	unlessSet(&c.NFTables.MasqueradeBit, 14)
	unlessSet(&c.Conntrack.MaxPerCore, 32*1024)
	unlessSet(&c.Conntrack.Min, 128*1024)
	unlessSet(&c.Conntrack.TCPEstablishedTimeout, metav1.Duration{Duration: 24 * time.Hour})
	unlessSet(&c.Conntrack.TCPCloseWaitTimeout, metav1.Duration{Duration: time.Hour})
	logs.SetRecommendedLoggingConfiguration(&c.Logging)

	orElse(&c.Mode, iptables)
	orElse(&c.DetectLocalMode, kubeproxy.LocalMode(node.ClusterCIDR))
	if c.Mode == nftables && len(c.NodePortAddresses) == 0 {
		c.NodePortAddresses = []string{"primary"}
	}
}

func orElse[T comparable](at *T, value T) {
	var zero T
	if *at == zero {
		*at = value
	}
}

func unlessSet[T any](at **T, value T) {
	if *at == nil {
		*at = &value
	}
}

func family(v6 bool, six, four string) string {
	if v6 {
		return six
	}
	return four
}

// address completes that of a server: host where there is none, and the port.
func address(text, host string, port uint16) string {
	if text == "" {
		text = host
	}
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return netip.AddrPortFrom(a, port).String()
	}
	return text
}
