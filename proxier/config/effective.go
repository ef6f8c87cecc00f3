package config

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/yaml"
)

// base is what the file says, or what stands in for it where there is none.
func (f *Flags) base() (*file, error) {
	if f.config != "" {
		return readFile(f.config)
	}
	var none file
	none.said.IPVS.MinSyncPeriod = flagsMinSync
	return &none, nil
}

// over puts the flags that were given over a file, and defaults under both.
func (f *Flags) over(file *file) configuration {
	c := *file.said.DeepCopy()
	given := f.settingsGiven()
	for _, s := range given {
		s.copy(&c, &f.said)
	}
	c.HealthzBindAddress = f.server(c.HealthzBindAddress, "healthz", f.healthzPort)
	c.MetricsBindAddress = f.server(c.MetricsBindAddress, "metrics", f.metricsPort)
	defaults(&c)
	for _, s := range given {
		s.zero(&c, &f.said)
	}
	return c
}

// zero puts a flag's 0 back where a default took its place.
func (s setting) zero(to, from *configuration) {
	flag, ok := s.at(from).(*metav1.Duration)
	if !ok || flag.Duration != 0 {
		return
	}
	shortest := *flag
	if strings.HasSuffix(s.field, "minSyncPeriod") {
		shortest.Duration = atOnce
	}
	*s.at(to).(*metav1.Duration) = shortest
}

// atOnce is the minSyncPeriod that a file can hold for none: its 0 is the default.
const atOnce = time.Nanosecond

// server is the address of a server once flags that only it has are looked at: an
// empty address, and the deprecated port.
func (f *Flags) server(address, name string, port int32) string {
	switch byPort := f.given(name + "-port"); {
	case byPort && port == 0, address == "" && f.given(name+"-bind-address"):
		return off
	case byPort && port > 0 && port < 1<<16:
		if a, err := netip.ParseAddr(strings.Trim(address, "[]")); err == nil {
			return netip.AddrPortFrom(a, uint16(port)).String()
		}
	}
	return address
}

func (f *Flags) settingsGiven() []setting {
	var given []setting
	for _, s := range settings() {
		if f.given(s.flag) {
			given = append(given, s)
		}
	}
	return given
}

// warnings says what a person should know of what was configured.
func (f *Flags) warnings(file *file, c *configuration) []string {
	out := append([]string(nil), file.warnings...)
	out = append(out, f.overruled(file, c)...)
	for _, name := range []string{"healthz", "metrics"} {
		if f.given(name + "-port") {
			out = append(out, fmt.Sprintf("--%[1]s-port is deprecated: use --%[1]s-bind-address; "+
				"the port counts only for an address without one, and 0 for no server", name))
		}
	}
	out = append(out, f.idle(file, c)...)
	return append(out, f.gateNotes(file, c)...)
}

// overruled names the flags that change what the file alone would mean.
func (f *Flags) overruled(file *file, c *configuration) []string {
	if f.config == "" {
		return nil
	}
	alone := file.said.DeepCopy()
	defaults(alone)
	var out []string
	for _, s := range f.settingsGiven() {
		if !s.upstream && !equality.Semantic.DeepEqual(s.at(alone), s.at(c)) {
			out = append(out, fmt.Sprintf("--%s=%s wins over the file: %s", s.flag, f.set.Lookup(s.flag).Value, file.place(s.field)))
		}
	}
	for _, name := range []string{"healthz", "metrics"} {
		if f.given(name + "-port") {
			out = append(out, fmt.Sprintf("--%s-port wins over the file: %s", name, file.place(name+"BindAddress")))
		}
	}
	return out
}

// idle names what was said, by flag or file, and has no effect.
func (f *Flags) idle(file *file, c *configuration) []string {
	alone, plain := file.said.DeepCopy(), &configuration{}
	defaults(alone)
	defaults(plain)
	var out []string
	for _, s := range settings() {
		if s.idle == "" || s.unless != "" && s.unless == string(c.Mode) {
			continue
		}
		if f.given(s.flag) {
			out = append(out, fmt.Sprintf("--%s: accepted, without effect: %s", s.flag, s.idle))
		} else if !equality.Semantic.DeepEqual(s.at(alone), s.at(plain)) {
			out = append(out, fmt.Sprintf("%s: accepted, without effect: %s", file.place(s.field), s.idle))
		}
	}
	return out
}

// Write writes a configuration as YAML. Read by --config, without flags that say
// the same otherwise, it means what it meant here; the flags that have no field
// (--master, --manifest, …) are not in it.
func Write(path string, c *kubeproxy.KubeProxyConfiguration) error {
	text, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}
