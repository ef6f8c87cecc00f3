package config

import (
	"fmt"
	"maps"
	"slices"
)

// The feature gates that have an effect here.
const (
	gateIPVS        = "KubeProxyIPVS"
	gateExternalIPs = "AllowServiceExternalIPs"
)

// gate is a feature gate of upstream's kube-proxy.
type gate struct {
	locked bool // may only be true
	note   string
}

// gates are those that upstream's kube-proxy 1.37 has, with what is to be said of one
// that is given.
func gates() map[string]gate {
	const always = "what it stands for is always on"
	const api = "it concerns upstream's API client"
	const nft, windows, logs = "it concerns nftables mode", "it concerns Windows", "it concerns upstream's logs"
	return map[string]gate{
		gateIPVS:                              {},
		gateExternalIPs:                       {},
		"KubeProxyNFTablesLocalhostNodePorts": {note: nft},
		"NFTablesNetlink":                     {note: nft},
		"NFTablesProxyMode":                   {locked: true, note: nft},
		"PreferSameTrafficDistribution":       {locked: true, note: always},
		"MultiCIDRServiceAllocator":           {locked: true, note: nft},
		"WinDSR":                              {locked: true, note: windows},
		"WinOverlay":                          {locked: true, note: windows},
		"ComponentFlagz":                      {note: "there is no /flagz"},
		"ComponentStatusz":                    {note: "there is no /statusz"},
		"NativeHistograms":                    {note: "histograms are classic ones"},
		"LoggingAlphaOptions":                 {note: logs},
		"LoggingBetaOptions":                  {note: logs},
		"ContextualLogging":                   {note: logs},
		"WatchListClient":                     {note: api},
		"InOrderInformersBatchProcess":        {note: api},
		"AtomicFIFO":                          {note: api},
		"UnlockWhileProcessingFIFO":           {note: api},
		"ClientsAllowCBOR":                    {note: api},
		"ClientsPreferCBOR":                   {note: api},
		"AllAlpha":                            {note: "no gate that it covers has an effect"},
		"AllBeta":                             {note: "no gate that it covers has an effect"},
	}
}

// closed reports whether a gate was set to false.
func closed(c *configuration, name string) bool {
	open, said := c.FeatureGates[name]
	return said && !open
}

// checkGates refuses what upstream refuses of the gates that it knows.
func (c *checker) checkGates(all map[string]bool) {
	known := gates()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if known[name].locked && !all[name] {
			c.errs = append(c.errs, fmt.Errorf("%s: %s: cannot be false: upstream locked it to true",
				c.gatePlace(name), name))
		}
	}
}

// gateNotes names the gates that were given and have no effect.
func (f *Flags) gateNotes(file *file, c *configuration) []string {
	var out []string
	where := checker{flags: f, file: file}
	known := gates()
	for _, name := range slices.Sorted(maps.Keys(c.FeatureGates)) {
		g, ok := known[name]
		switch {
		case !ok:
			out = append(out, fmt.Sprintf("%s: %q: unknown feature gate, ignored", where.gatePlace(name), name))
		case g.note != "":
			out = append(out, fmt.Sprintf("%s: %s: accepted, without effect: %s", where.gatePlace(name), name, g.note))
		}
	}
	return out
}

// gatePlace is who gave a gate.
func (c *checker) gatePlace(name string) string {
	if _, ok := c.flags.said.FeatureGates[name]; ok && c.flags.given("feature-gates") {
		return "--feature-gates"
	}
	return c.file.at(join("featureGates", name)) + "featureGates"
}
