package config

import (
	"reflect"

	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"
)

type configuration = kubeproxy.KubeProxyConfiguration

// setting is something that can be configured: by a flag, by a field of the file,
// or by both.
type setting struct {
	flag  string // without dashes; "": only the file has it
	field string // its path in the file
	usage string
	// at is a pointer to the field, also that of a field that is a pointer itself.
	at func(*configuration) any
	// also is another field that the flag sets; nil: none.
	also func(*configuration) any
	// render: the flag decides something that `render` shows.
	render bool
	// idle says why it has no effect here; "": it has one. unless is the mode in
	// which it would have.
	idle   string
	unless string
	// upstream: the flag wins over the file in upstream's kube-proxy too, so nobody
	// needs to be told.
	upstream bool
}

// settings are all of them, in the order of the fields in the API's type.
func settings() []setting {
	var all []setting
	for _, part := range [][]setting{
		clientSettings(), processSettings(), modeSettings(), trafficSettings(), kernelSettings(), loggingSettings(), idleSettings(),
	} {
		all = append(all, part...)
	}
	return all
}

// byField finds the setting of a field.
func byField(field string) (setting, bool) {
	for _, s := range settings() {
		if s.field == field {
			return s, true
		}
	}
	return setting{}, false
}

// copy takes a flag's value over. Feature gates are added to those that are there.
func (s setting) copy(to, from *configuration) {
	for _, at := range []func(*configuration) any{s.at, s.also} {
		if at == nil {
			continue
		}
		if gates, ok := at(to).(*map[string]bool); ok {
			*gates = merged(*gates, *s.at(from).(*map[string]bool))
			continue
		}
		reflect.ValueOf(at(to)).Elem().Set(reflect.ValueOf(s.at(from)).Elem())
	}
}

func merged(under, over map[string]bool) map[string]bool {
	out := map[string]bool{}
	for _, m := range []map[string]bool{under, over} {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

// clientSettings are how the API server is asked.
func clientSettings() []setting {
	return []setting{
		{flag: "kubeconfig", field: "clientConnection.kubeconfig",
			usage: "how to reach the API server; empty, and no --master: as a pod of the cluster",
			at:    func(c *configuration) any { return &c.ClientConnection.Kubeconfig }},
		{flag: "kube-api-content-type", field: "clientConnection.contentType", usage: "the MIME type of requests to the API server",
			at: func(c *configuration) any { return &c.ClientConnection.ContentType }},
		{field: "clientConnection.acceptContentTypes",
			at: func(c *configuration) any { return &c.ClientConnection.AcceptContentTypes }},
		{flag: "kube-api-qps", field: "clientConnection.qps", usage: "requests to the API server a second",
			at: func(c *configuration) any { return &c.ClientConnection.QPS }},
		{flag: "kube-api-burst", field: "clientConnection.burst", usage: "requests to the API server at once",
			at: func(c *configuration) any { return &c.ClientConnection.Burst }},
	}
}

// processSettings concern the process itself: who it is, what it serves.
func processSettings() []setting {
	return []setting{
		{flag: "feature-gates", field: "featureGates", render: true,
			usage: "upstream's feature gates, as KubeProxyIPVS=false,…; unknown ones are named in a warning",
			at:    func(c *configuration) any { return &c.FeatureGates }},
		{flag: "hostname-override", field: "hostnameOverride", render: true, upstream: true,
			usage: "this node's name; default: the host name, in lower case",
			at:    func(c *configuration) any { return &c.HostnameOverride }},
		{flag: "bind-address", field: "bindAddress", render: true,
			usage: "overrides the node's IP address if specified; binds nothing",
			at:    func(c *configuration) any { return &c.BindAddress }},
		{flag: "healthz-bind-address", field: "healthzBindAddress",
			usage: `IP address or IP:port of the health check server; empty or "off": none`,
			at:    func(c *configuration) any { return &c.HealthzBindAddress }},
		{flag: "metrics-bind-address", field: "metricsBindAddress",
			usage: `IP address or IP:port of the metrics server; empty or "off": none`,
			at:    func(c *configuration) any { return &c.MetricsBindAddress }},
		{flag: "bind-address-hard-fail", field: "bindAddressHardFail",
			usage: "end if the health check or metrics server cannot listen, instead of trying again",
			at:    func(c *configuration) any { return &c.BindAddressHardFail }},
		{flag: "profiling", field: "enableProfiling", usage: "the metrics server answers /debug/pprof too",
			at: func(c *configuration) any { return &c.EnableProfiling }},
		{flag: "show-hidden-metrics-for-version", field: "showHiddenMetricsForVersion",
			usage: "show the metrics that were hidden since this minor version, the one before: " + previousMinor,
			at:    func(c *configuration) any { return &c.ShowHiddenMetricsForVersion }},
		{flag: "oom-score-adj", field: "oomScoreAdj", usage: "the process's oom_score_adj, -1000 to 1000",
			at: func(c *configuration) any { return &c.OOMScoreAdj }},
		{flag: "config-sync-period", field: "configSyncPeriod", usage: "how often what the API server said is gone through again",
			at: func(c *configuration) any { return &c.ConfigSyncPeriod }},
	}
}

// modeSettings choose the backend and concern one or some of them.
func modeSettings() []setting {
	return []setting{
		{flag: "proxy-mode", field: "mode", render: true, usage: "the backend; one of those that `version` lists",
			at: func(c *configuration) any { return &c.Mode }},
		{flag: "iptables-masquerade-bit", field: "iptables.masqueradeBit", render: true,
			usage: "the bit, 0 to 31, of the packet mark that asks for masquerade",
			at:    func(c *configuration) any { return &c.IPTables.MasqueradeBit }},
		{flag: "masquerade-all", field: "iptables.masqueradeAll", render: true, usage: "masquerade everything that goes to a ClusterIP",
			at:   func(c *configuration) any { return &c.IPTables.MasqueradeAll },
			also: func(c *configuration) any { return &c.NFTables.MasqueradeAll }},
		{flag: "iptables-localhost-nodeports", field: "iptables.localhostNodePorts", render: true,
			usage: "NodePorts answer on 127.0.0.0/8 too, if they are to by --nodeport-addresses",
			at:    func(c *configuration) any { return &c.IPTables.LocalhostNodePorts }},
		{flag: "iptables-sync-period", field: "iptables.syncPeriod",
			usage: "in every mode but ipvs: how often the kernel's state is compared with what it should be; also the longest wait before a failed sync is tried again",
			at:    func(c *configuration) any { return &c.IPTables.SyncPeriod },
			also:  func(c *configuration) any { return &c.NFTables.SyncPeriod }},
		{flag: "iptables-min-sync-period", field: "iptables.minSyncPeriod",
			usage: "in every mode but ipvs: the shortest time between two syncs; 0: every change at once",
			at:    func(c *configuration) any { return &c.IPTables.MinSyncPeriod },
			also:  func(c *configuration) any { return &c.NFTables.MinSyncPeriod }},
		{flag: "ipvs-sync-period", field: "ipvs.syncPeriod", usage: "--iptables-sync-period of ipvs mode",
			at: func(c *configuration) any { return &c.IPVS.SyncPeriod }},
		{flag: "ipvs-min-sync-period", field: "ipvs.minSyncPeriod", usage: "--iptables-min-sync-period of ipvs mode",
			at: func(c *configuration) any { return &c.IPVS.MinSyncPeriod }},
		{flag: "ipvs-scheduler", field: "ipvs.scheduler", render: true, usage: "the scheduler of Services that name none; default: rr",
			at: func(c *configuration) any { return &c.IPVS.Scheduler }},
		{flag: "ipvs-exclude-cidrs", field: "ipvs.excludeCIDRs", render: true,
			usage: "address ranges in which virtual servers are left alone",
			at:    func(c *configuration) any { return &c.IPVS.ExcludeCIDRs }},
		{flag: "ipvs-strict-arp", field: "ipvs.strictARP", render: true, usage: "answer ARP for the addresses of real interfaces only",
			at: func(c *configuration) any { return &c.IPVS.StrictARP }},
		{flag: "ipvs-tcp-timeout", field: "ipvs.tcpTimeout", render: true, usage: "how long a TCP connection may be idle; 0: as the kernel has it",
			at: func(c *configuration) any { return &c.IPVS.TCPTimeout }},
		{flag: "ipvs-tcpfin-timeout", field: "ipvs.tcpFinTimeout", render: true, usage: "the same after a FIN",
			at: func(c *configuration) any { return &c.IPVS.TCPFinTimeout }},
		{flag: "ipvs-udp-timeout", field: "ipvs.udpTimeout", render: true, usage: "the same for UDP",
			at: func(c *configuration) any { return &c.IPVS.UDPTimeout }},
	}
}

// trafficSettings decide fates in every mode.
func trafficSettings() []setting {
	return []setting{
		{flag: "detect-local-mode", field: "detectLocalMode", render: true,
			usage: "how a pod's packet is told: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix",
			at:    func(c *configuration) any { return &c.DetectLocalMode }},
		{flag: "pod-bridge-interface", field: "detectLocal.bridgeInterface", render: true, usage: "the bridge of the pods, for BridgeInterface",
			at: func(c *configuration) any { return &c.DetectLocal.BridgeInterface }},
		{flag: "pod-interface-name-prefix", field: "detectLocal.interfaceNamePrefix", render: true,
			usage: "what the names of the pods' interfaces begin with, for InterfaceNamePrefix",
			at:    func(c *configuration) any { return &c.DetectLocal.InterfaceNamePrefix }},
		{flag: "cluster-cidr", field: "clusterCIDR", render: true,
			usage: "the pods' address range, or one for each family, comma-separated; packets from elsewhere to a ClusterIP are masqueraded",
			at:    func(c *configuration) any { return &c.ClusterCIDR }},
		{flag: "nodeport-addresses", field: "nodePortAddresses", render: true,
			usage: "on which of the node's addresses NodePorts answer: CIDRs, and the words primary, localhost and all; default: on all",
			at:    func(c *configuration) any { return &c.NodePortAddresses }},
	}
}

// kernelSettings are written to sysctls.
func kernelSettings() []setting {
	return []setting{
		{flag: "conntrack-max-per-core", field: "conntrack.maxPerCore", usage: "connections to track for each CPU; 0: as the kernel has it",
			at: func(c *configuration) any { return &c.Conntrack.MaxPerCore }},
		{flag: "conntrack-min", field: "conntrack.min", usage: "connections to track at least, whatever the number of CPUs",
			at: func(c *configuration) any { return &c.Conntrack.Min }},
		{flag: "conntrack-tcp-timeout-established", field: "conntrack.tcpEstablishedTimeout",
			usage: "how long an idle TCP connection is tracked; 0: as the kernel has it",
			at:    func(c *configuration) any { return &c.Conntrack.TCPEstablishedTimeout }},
		{flag: "conntrack-tcp-timeout-close-wait", field: "conntrack.tcpCloseWaitTimeout", usage: "the same in CLOSE_WAIT",
			at: func(c *configuration) any { return &c.Conntrack.TCPCloseWaitTimeout }},
		{flag: "conntrack-tcp-be-liberal", field: "conntrack.tcpBeLiberal", usage: "do not take TCP segments outside the window for INVALID",
			at: func(c *configuration) any { return &c.Conntrack.TCPBeLiberal }},
		{flag: "conntrack-udp-timeout", field: "conntrack.udpTimeout", usage: "how long UDP without an answer is tracked; 0: as the kernel has it",
			at: func(c *configuration) any { return &c.Conntrack.UDPTimeout }},
		{flag: "conntrack-udp-timeout-stream", field: "conntrack.udpStreamTimeout", usage: "the same for UDP with answers",
			at: func(c *configuration) any { return &c.Conntrack.UDPStreamTimeout }},
	}
}
