package proxiertest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"switchyard/proxier"
)

// Flags are the command-line flags that change the fate of a packet, by
// upstream's names and defaults, except that the laboratory has a cluster CIDR and
// that --service-external-ips is our own.
type Flags struct {
	ClusterCIDRs           []netip.Prefix // --cluster-cidr
	DetectLocalMode        string         // --detect-local-mode
	PodBridgeInterface     string         // --pod-bridge-interface
	PodInterfaceNamePrefix string         // --pod-interface-name-prefix, without the final "+"
	NodePortAddresses      []string       // --nodeport-addresses: CIDRs and keywords
	LocalhostNodePorts     bool           // --iptables-localhost-nodeports
	MasqueradeAll          bool           // --masquerade-all
	MasqueradeBit          int            // --iptables-masquerade-bit, 0 to 31
	ServiceExternalIPs     string         // --service-external-ips: all, none or ranges
}

// The values of --detect-local-mode.
const (
	DetectClusterCIDR         = "ClusterCIDR"
	DetectNodeCIDR            = "NodeCIDR"
	DetectBridgeInterface     = "BridgeInterface"
	DetectInterfaceNamePrefix = "InterfaceNamePrefix"
)

// DefaultFlags are those of a scenario without a flags section.
func DefaultFlags() Flags {
	return Flags{
		ClusterCIDRs:       []netip.Prefix{LabOf(proxier.IPv4).Pods, LabOf(proxier.IPv6).Pods},
		DetectLocalMode:    DetectClusterCIDR,
		LocalhostNodePorts: true,
		MasqueradeBit:      14,
		ServiceExternalIPs: "all",
	}
}

// ParseFlags reads flags, each one as "--name=value". A flag that is not named
// keeps its default; "--cluster-cidr=" means none.
func ParseFlags(args []string) (Flags, error) {
	f, err := parseFlags(args)
	if err != nil {
		return Flags{}, err
	}
	return f, f.check()
}

// parseFlags reads flags without asking whether they fit together.
func parseFlags(args []string) (Flags, error) {
	f := DefaultFlags()
	var cidrs []string
	set := pflag.NewFlagSet("scenario", pflag.ContinueOnError)
	set.Usage = func() {}
	set.StringSliceVar(&cidrs, "cluster-cidr", nil, "")
	set.StringVar(&f.DetectLocalMode, "detect-local-mode", f.DetectLocalMode, "")
	set.StringVar(&f.PodBridgeInterface, "pod-bridge-interface", "", "")
	set.StringVar(&f.PodInterfaceNamePrefix, "pod-interface-name-prefix", "", "")
	set.StringSliceVar(&f.NodePortAddresses, "nodeport-addresses", nil, "")
	set.BoolVar(&f.LocalhostNodePorts, "iptables-localhost-nodeports", f.LocalhostNodePorts, "")
	set.BoolVar(&f.MasqueradeAll, "masquerade-all", false, "")
	set.IntVar(&f.MasqueradeBit, "iptables-masquerade-bit", f.MasqueradeBit, "")
	set.StringVar(&f.ServiceExternalIPs, "service-external-ips", f.ServiceExternalIPs, "")
	if err := set.Parse(args); err != nil {
		return Flags{}, err
	}
	if set.NArg() > 0 {
		return Flags{}, fmt.Errorf("%q is not a flag", set.Arg(0))
	}
	if set.Changed("cluster-cidr") {
		var err error
		if f.ClusterCIDRs, err = parsePrefixes(cidrs); err != nil {
			return Flags{}, fmt.Errorf("--cluster-cidr: %w", err)
		}
	}
	return f, nil
}

func (f Flags) check() error {
	modes := []string{DetectClusterCIDR, DetectNodeCIDR, DetectBridgeInterface, DetectInterfaceNamePrefix}
	switch {
	case !slices.Contains(modes, f.DetectLocalMode):
		return fmt.Errorf("--detect-local-mode=%s: want one of %v", f.DetectLocalMode, modes)
	case f.DetectLocalMode == DetectBridgeInterface && f.PodBridgeInterface == "":
		return fmt.Errorf("--detect-local-mode=%s needs --pod-bridge-interface", f.DetectLocalMode)
	case f.DetectLocalMode == DetectInterfaceNamePrefix && f.PodInterfaceNamePrefix == "":
		return fmt.Errorf("--detect-local-mode=%s needs --pod-interface-name-prefix", f.DetectLocalMode)
	case f.MasqueradeBit < 0 || f.MasqueradeBit > 31:
		return fmt.Errorf("--iptables-masquerade-bit=%d: want 0 to 31", f.MasqueradeBit)
	}
	return nil
}

func parsePrefixes(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}
