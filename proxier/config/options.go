package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"switchyard/proxier"
	"switchyard/proxier/compile"
	"switchyard/proxier/node"
)

// Options is everything that was configured, parsed and checked.
type Options struct {
	Manifest  string
	Mode      string // a backend's name
	Node      node.Options
	Compile   compile.Options
	Backend   proxier.Settings
	Sync, Min time.Duration
	Healthz   netip.AddrPort // invalid: no server
	Metrics   netip.AddrPort // likewise
	Profiling bool
	Verbosity int
	JSONLogs  bool
}

// The ports of upstream's servers, where an address has none.
const (
	healthzPort = 10256
	metricsPort = 10249
)

// Options parses and checks the flags. The error joins one line for each flag
// that is wrong; modes are the names of the backends.
func (f *Flags) Options(modes []string) (Options, error) {
	var c checker
	o := Options{
		Manifest: f.Manifest,
		Mode:     strings.ToLower(f.ProxyMode),
		Node: node.Options{
			Name:               c.nodeName(f.HostnameOverride),
			Detect:             c.detect(f),
			NodePorts:          c.selection(f.NodePortAddresses),
			LocalhostNodePorts: f.LocalhostNodePorts,
			BindAddress:        c.address("--bind-address", f.BindAddress),
		},
		Compile:   compile.Options{MasqueradeAll: f.MasqueradeAll},
		Backend:   proxier.Settings{MasqueradeBit: f.MasqueradeBit},
		Sync:      f.SyncPeriod,
		Min:       f.MinSyncPeriod,
		Profiling: f.Profiling,
		Verbosity: f.Verbosity,
		JSONLogs:  f.LoggingFormat == "json",
	}
	if f.HealthzBindAddress != "" {
		o.Healthz = c.addressPort("--healthz-bind-address", f.HealthzBindAddress, healthzPort)
	}
	if f.MetricsBindAddress != "" {
		o.Metrics = c.addressPort("--metrics-bind-address", f.MetricsBindAddress, metricsPort)
	}
	if o.Mode == "" {
		o.Mode = "iptables"
	}
	c.check(slices.Contains(modes, o.Mode), "--proxy-mode: %q: must be one of %s", f.ProxyMode, strings.Join(modes, ", "))
	c.check(f.MasqueradeBit >= 0 && f.MasqueradeBit <= 31,
		"--iptables-masquerade-bit: %d: must be within 0 and 31", f.MasqueradeBit)
	c.check(f.SyncPeriod > 0 || f.renders(), "--iptables-sync-period: %s: must be longer than 0", f.SyncPeriod)
	c.check(f.MinSyncPeriod >= 0, "--iptables-min-sync-period: %s: must not be negative", f.MinSyncPeriod)
	c.check(f.MinSyncPeriod <= f.SyncPeriod || f.renders(),
		"--iptables-min-sync-period: %s: must not be longer than --iptables-sync-period, %s", f.MinSyncPeriod, f.SyncPeriod)
	c.check(slices.Contains([]string{"", "text", "json"}, f.LoggingFormat),
		"--logging-format: %q: must be text or json", f.LoggingFormat)
	return o, errors.Join(c.errs...)
}

// renders tells that only the flags of BindRender were declared.
func (f *Flags) renders() bool { return !f.runs }

// checker collects what is wrong.
type checker struct{ errs []error }

func (c *checker) check(ok bool, format string, args ...any) {
	if !ok {
		c.errs = append(c.errs, fmt.Errorf(format, args...))
	}
}

func (c *checker) nodeName(override string) string {
	if override != "" {
		name := strings.ToLower(strings.TrimSpace(override))
		c.check(name != "", "--hostname-override: %q: must not be blank", override)
		return name
	}
	name, err := node.DefaultName()
	c.check(err == nil, "--hostname-override: not given, and the host name is unknown: %v", err)
	return name
}

func (c *checker) detect(f *Flags) node.Detect {
	d := node.Detect{
		Mode:         node.Mode(f.DetectLocalMode),
		ClusterCIDRs: c.clusterCIDRs(f.ClusterCIDR),
		Bridge:       f.PodBridgeInterface,
		Prefix:       f.PodInterfaceNamePrefix,
	}
	switch d.Mode {
	case "", node.ClusterCIDR, node.NodeCIDR:
	case node.BridgeInterface:
		c.check(d.Bridge != "", "--detect-local-mode=BridgeInterface: needs --pod-bridge-interface")
	case node.InterfaceNamePrefix:
		c.check(d.Prefix != "", "--detect-local-mode=InterfaceNamePrefix: needs --pod-interface-name-prefix")
	default:
		c.check(false, "--detect-local-mode: %q: must be ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix", d.Mode)
	}
	c.interfaceName("--pod-bridge-interface", d.Bridge, 15)
	c.interfaceName("--pod-interface-name-prefix", d.Prefix, 14)
	return d
}

// interfaceName checks a name against the kernel's rules (IFNAMSIZ, 16 bytes with
// the final zero) and what would mean something else in a rule.
func (c *checker) interfaceName(flag, name string, longest int) {
	c.check(len(name) <= longest, "%s: %q: must not be longer than %d bytes", flag, name, longest)
	c.check(!strings.ContainsAny(name, " \t\n/+!\"'\\"), "%s: %q: has a character that no interface name has", flag, name)
}

func (c *checker) clusterCIDRs(list string) []netip.Prefix {
	var out []netip.Prefix
	seen := map[proxier.Family]bool{}
	for _, text := range strings.Split(list, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			c.check(false, "--cluster-cidr: %q: not an address range like 10.244.0.0/16", text)
			continue
		}
		family := proxier.FamilyOf(p.Addr())
		c.check(!seen[family], "--cluster-cidr: %q: one range for each family at most", text)
		seen[family] = true
		out = append(out, p.Masked())
	}
	return out
}

func (c *checker) selection(entries []string) node.Selection {
	sel, err := node.ParseSelection(entries)
	c.check(err == nil, "--nodeport-addresses: %v", err)
	return sel
}

func (c *checker) address(flag, text string) netip.Addr {
	if text == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(text)
	c.check(err == nil, "%s: %q: not an IP address", flag, text)
	return a
}

func (c *checker) addressPort(flag, text string, port uint16) netip.AddrPort {
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return netip.AddrPortFrom(a, port)
	}
	ap, err := netip.ParseAddrPort(text)
	c.check(err == nil && ap.Port() != 0, "%s: %q: not an IP address or IP:port, port 1 to 65535", flag, text)
	return ap
}
