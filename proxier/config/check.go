package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"switchyard/proxier"
	"switchyard/proxier/compile"
	"switchyard/proxier/node"
)

// checker parses a configuration and collects what is wrong with it.
type checker struct {
	flags *Flags
	file  *file
	c     *configuration
	errs  []error
}

func (c *checker) options(modes []string) Options {
	f, conf := c.flags, c.c
	o := Options{
		Manifest:      f.manifest,
		Client:        c.client(),
		Mode:          c.mode(modes),
		ConfigSync:    conf.ConfigSyncPeriod.Duration,
		Healthz:       c.server("healthzBindAddress", conf.HealthzBindAddress),
		Metrics:       c.server("metricsBindAddress", conf.MetricsBindAddress),
		HardFail:      conf.BindAddressHardFail,
		Profiling:     conf.EnableProfiling,
		HiddenMetrics: conf.ShowHiddenMetricsForVersion != "",
		Conntrack:     c.conntrack(),
		OOMScoreAdj:   int(*conf.OOMScoreAdj),
		Verbosity:     int(conf.Logging.Verbosity),
		JSONLogs:      conf.Logging.Format == "json",
		Init:          f.initOnly,
		WriteTo:       f.writeTo,
	}
	o.Node = node.Options{
		Name:               c.nodeName(),
		Detect:             c.detect(),
		NodePorts:          c.selection(),
		LocalhostNodePorts: *conf.IPTables.LocalhostNodePorts,
		BindAddress:        c.bindAddress(),
	}
	o.Compile, o.Backend = c.backend(o.Mode)
	o.Sync, o.Min = c.periods(o.Mode)
	c.rest()
	return o
}

// check notes a field that is wrong, by the flag or the line that said it.
func (c *checker) check(ok bool, field, format string, args ...any) {
	if !ok {
		c.errs = append(c.errs, fmt.Errorf("%s: %s", c.place(field), fmt.Sprintf(format, args...)))
	}
}

// place is the flag, or file, line and field.
func (c *checker) place(field string) string {
	if s, _ := byField(field); c.byFlag(s) {
		return "--" + s.flag
	}
	return c.file.place(field)
}

// word is what a field is called beside another one that is wrong.
func (c *checker) word(field string) string {
	if s, _ := byField(field); c.byFlag(s) {
		return "--" + s.flag
	}
	return field
}

func (c *checker) byFlag(s setting) bool {
	return c.flags.given(s.flag) || c.flags.config == "" && s.flag != ""
}

func (c *checker) client() ClientConnection {
	cc := c.c.ClientConnection
	c.check(cc.Burst >= 0, "clientConnection.burst", "%d: must not be negative", cc.Burst)
	return ClientConnection{
		Kubeconfig: cc.Kubeconfig, Master: c.flags.master, QPS: cc.QPS, Burst: int(cc.Burst),
		ContentType: cc.ContentType, AcceptContentTypes: cc.AcceptContentTypes,
	}
}

// mode is the backend's name. Modes that upstream has and we have not are told from
// typing errors.
func (c *checker) mode(modes []string) string {
	said := string(c.c.Mode)
	mode := strings.ToLower(said)
	there := strings.Join(modes, ", ")
	switch {
	case mode == ipvs && closed(c.c, gateIPVS):
		c.check(false, "mode", "%q: is switched off by the feature gate %s=false", said, gateIPVS)
	case slices.Contains(modes, mode):
	case mode == nftables:
		c.check(false, "mode", "%q: is not built yet: use one of %s", said, there)
	case mode == "kernelspace":
		c.check(false, "mode", "%q: exists on Windows only: must be one of %s", said, there)
	default:
		c.check(false, "mode", "%q: must be one of %s", said, there)
	}
	return mode
}

func (c *checker) externalIPs() compile.ExternalIPs {
	said := c.flags.externalIPs
	switch {
	case closed(c.c, gateExternalIPs), said == "none":
		return compile.ExternalIPs{None: true}
	case said == "all":
		return compile.ExternalIPs{}
	}
	var within []netip.Prefix
	for _, text := range strings.Split(said, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			c.errs = append(c.errs, fmt.Errorf(
				"--service-external-ips: %q: must be all, none or address ranges like 203.0.113.0/24, comma-separated", text))
			continue
		}
		within = append(within, p.Masked())
	}
	return compile.ExternalIPs{Within: within}
}

func (c *checker) nodeName() string {
	if override := c.c.HostnameOverride; override != "" {
		name := strings.ToLower(strings.TrimSpace(override))
		c.check(name != "", "hostnameOverride", "%q: must not be blank", override)
		return name
	}
	name, err := node.DefaultName()
	c.check(err == nil, "hostnameOverride", "not given, and the host name is unknown: %v", err)
	return name
}

// detect reads what its mode needs and nothing else, as upstream does.
func (c *checker) detect() node.Detect {
	local := c.c.DetectLocal
	d := node.Detect{Mode: node.Mode(c.c.DetectLocalMode)}
	switch d.Mode {
	case node.ClusterCIDR:
		d.ClusterCIDRs = c.clusterCIDRs()
	case node.NodeCIDR:
	case node.BridgeInterface:
		d.Bridge = c.interfaceName("detectLocal.bridgeInterface", local.BridgeInterface, 15)
	case node.InterfaceNamePrefix:
		d.Prefix = c.interfaceName("detectLocal.interfaceNamePrefix", local.InterfaceNamePrefix, 14)
	default:
		c.check(false, "detectLocalMode", "%q: must be ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix", d.Mode)
	}
	return d
}

// interfaceName checks a name against the kernel's rules (IFNAMSIZ, 16 bytes with
// the final zero) and what would mean something else in a rule.
func (c *checker) interfaceName(field, name string, longest int) string {
	c.check(name != "", "detectLocalMode", "%q: needs %s", c.c.DetectLocalMode, c.word(field))
	c.check(len(name) <= longest, field, "%q: must not be longer than %d bytes", name, longest)
	c.check(!strings.ContainsAny(name, " \t\n/+!\"'\\"), field, "%q: has a character that no interface name has", name)
	return name
}

func (c *checker) clusterCIDRs() []netip.Prefix {
	var out []netip.Prefix
	seen := map[proxier.Family]bool{}
	for _, p := range c.prefixes("clusterCIDR", strings.Split(c.c.ClusterCIDR, ",")) {
		family := proxier.FamilyOf(p.Addr())
		c.check(!seen[family], "clusterCIDR", "%q: one range for each family at most", p)
		seen[family] = true
		out = append(out, p)
	}
	return out
}

// podRanges are the pods' ranges as far as they can be read. Where pods are known in
// another way nothing else depends on them, and upstream reads them not at all.
func (c *checker) podRanges() (ranges []netip.Prefix) {
	for _, text := range strings.Split(c.c.ClusterCIDR, ",") {
		if p, err := netip.ParsePrefix(strings.TrimSpace(text)); err == nil {
			ranges = append(ranges, p.Masked())
		}
	}
	return ranges
}

// prefixes reads address ranges; blank entries are none.
func (c *checker) prefixes(field string, entries []string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range entries {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			c.check(false, field, "%q: not an address range like 10.244.0.0/16", text)
			continue
		}
		out = append(out, p.Masked())
	}
	return out
}

func (c *checker) selection() node.Selection {
	sel, err := node.ParseSelection(c.c.NodePortAddresses)
	for _, err := range each(err) {
		c.check(false, "nodePortAddresses", "%v", err)
	}
	return sel
}

// each takes joined errors apart.
func each(err error) []error {
	var joined interface{ Unwrap() []error }
	switch {
	case err == nil:
		return nil
	case errors.As(err, &joined):
		return joined.Unwrap()
	}
	return []error{err}
}

func (c *checker) bindAddress() netip.Addr {
	a, err := netip.ParseAddr(c.c.BindAddress)
	c.check(err == nil, "bindAddress", "%q: not an IP address", c.c.BindAddress)
	return a
}

func (c *checker) server(field, text string) netip.AddrPort {
	if text == off {
		return netip.AddrPort{}
	}
	ap, err := netip.ParseAddrPort(text)
	c.check(err == nil && ap.Port() != 0, field, "%q: not an IP address or IP:port, port 1 to 65535", text)
	return ap
}

// backend is what the mode's backend and the compiler need of the mode's section.
// Modes that upstream has not take that of iptables, as upstream's ipvs mode does.
func (c *checker) backend(mode string) (compile.Options, proxier.Settings) {
	bit, all, field := *c.c.IPTables.MasqueradeBit, c.c.IPTables.MasqueradeAll, "iptables.masqueradeBit"
	c.check(bit >= 0 && bit <= 31, field, "%d: must be within 0 and 31", bit)
	if mode == nftables {
		bit, all, field = *c.c.NFTables.MasqueradeBit, c.c.NFTables.MasqueradeAll, "nftables.masqueradeBit"
		c.check(bit >= 0 && bit <= 31, field, "%d: must be within 0 and 31", bit)
	}
	s := proxier.Settings{MasqueradeBit: int(bit), Userspace: proxier.UserspaceSettings{Drain: c.flags.drain}}
	if c.flags.drain < 0 {
		c.errs = append(c.errs, fmt.Errorf("--userspace-drain: %s: must not be negative", c.flags.drain))
	}
	if mode == ipvs {
		s.IPVS = c.ipvs()
	}
	return compile.Options{MasqueradeAll: all, ExternalIPs: c.externalIPs(), ClusterCIDRs: c.podRanges()}, s
}

// ipvs leaves the scheduler's name to the kernel, which knows what it has.
func (c *checker) ipvs() proxier.IPVSSettings {
	said := c.c.IPVS
	return proxier.IPVSSettings{
		Scheduler: said.Scheduler,
		StrictARP: said.StrictARP,
		Exclude:   c.prefixes("ipvs.excludeCIDRs", said.ExcludeCIDRs),
		TCP:       c.notNegative("ipvs.tcpTimeout", said.TCPTimeout),
		TCPFin:    c.notNegative("ipvs.tcpFinTimeout", said.TCPFinTimeout),
		UDP:       c.notNegative("ipvs.udpTimeout", said.UDPTimeout),
	}
}

func (c *checker) notNegative(field string, d metav1.Duration) time.Duration {
	c.check(d.Duration >= 0, field, "%s: must not be negative", d.Duration)
	return d.Duration
}

// periods are those of the mode; the other modes' are not looked at.
func (c *checker) periods(mode string) (period, least time.Duration) {
	section, p, m := iptables, c.c.IPTables.SyncPeriod, c.c.IPTables.MinSyncPeriod
	switch mode {
	case ipvs:
		section, p, m = ipvs, c.c.IPVS.SyncPeriod, c.c.IPVS.MinSyncPeriod
	case nftables:
		section, p, m = nftables, c.c.NFTables.SyncPeriod, c.c.NFTables.MinSyncPeriod
	}
	long, short := section+".syncPeriod", section+".minSyncPeriod"
	c.check(p.Duration > 0, long, "%s: must be longer than 0", p.Duration)
	least = c.notNegative(short, m)
	if least == atOnce {
		least = 0
	}
	c.check(least <= p.Duration || p.Duration <= 0, short, "%s: must not be longer than %s, %s", least, c.word(long), p.Duration)
	return p.Duration, least
}

func (c *checker) conntrack() Conntrack {
	said := c.c.Conntrack
	c.check(*said.MaxPerCore >= 0, "conntrack.maxPerCore", "%d: must not be negative", *said.MaxPerCore)
	c.check(*said.Min >= 0, "conntrack.min", "%d: must not be negative", *said.Min)
	out := Conntrack{
		Min:                   int(*said.Min),
		TCPEstablishedTimeout: c.timeout("conntrack.tcpEstablishedTimeout", *said.TCPEstablishedTimeout),
		TCPCloseWaitTimeout:   c.timeout("conntrack.tcpCloseWaitTimeout", *said.TCPCloseWaitTimeout),
		UDPTimeout:            c.timeout("conntrack.udpTimeout", said.UDPTimeout),
		UDPStreamTimeout:      c.timeout("conntrack.udpStreamTimeout", said.UDPStreamTimeout),
		TCPBeLiberal:          said.TCPBeLiberal,
	}
	if n := int(*said.MaxPerCore); n > 0 {
		out.MaxPerCore = &n
	}
	return out
}

// timeout is nil for 0: the kernel's value stays.
func (c *checker) timeout(field string, d metav1.Duration) *time.Duration {
	if c.notNegative(field, d) == 0 {
		return nil
	}
	return &d.Duration
}

// rest checks what needs no parsing.
func (c *checker) rest() {
	conf := c.c
	c.checkGates(conf.FeatureGates)
	c.check(conf.ConfigSyncPeriod.Duration > 0, "configSyncPeriod", "%s: must be longer than 0", conf.ConfigSyncPeriod.Duration)
	c.check(*conf.OOMScoreAdj >= -1000 && *conf.OOMScoreAdj <= 1000, "oomScoreAdj",
		"%d: must be within -1000 and 1000", *conf.OOMScoreAdj)
	hidden := conf.ShowHiddenMetricsForVersion
	c.check(hidden == "" || hidden == previousMinor, "showHiddenMetricsForVersion",
		"%q: must be empty or the previous minor version, %s", hidden, previousMinor)
	format := conf.Logging.Format
	c.check(format == "text" || format == "json", "logging.format", "%q: must be text or json", format)
	c.check(format != "json" || len(conf.Logging.VModule) == 0, "logging.vmodule", "works with format text only")
	c.check(conf.Logging.FlushFrequency.Duration.Duration >= 0, "logging.flushFrequency",
		"%s: must not be negative", conf.Logging.FlushFrequency.Duration.Duration)
}
