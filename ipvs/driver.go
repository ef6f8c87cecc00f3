package ipvs

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"switchyard/iptables/ruleset"
	"switchyard/ipvs/dummy"
	"switchyard/ipvs/ipset"
	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

// Driver is the IPVS backend for cmd/backends.
func Driver() proxier.Driver {
	return proxier.Driver{Name: "ipvs", NoLocalhost: true, Open: open, Render: Render, Cleanup: cleanup,
		Rules: ruleClaim(), Objects: objects}
}

func open(ctx context.Context, family proxier.Family, s proxier.Settings) (proxier.Backend, string, error) {
	b, about, err := openBackend(ctx, family, s)
	if err != nil {
		return nil, "", fmt.Errorf("open ipvs for %s: %w", family, err)
	}
	return b, about, nil
}

func openBackend(ctx context.Context, family proxier.Family, s proxier.Settings) (*Backend, string, error) {
	_ = load(ctx, matches...) // part of the kernel perhaps: the rules will tell
	tool, err := ruleset.Find(ctx, family, "")
	if err != nil {
		return nil, "", err
	}
	d, err := openDoors()
	if err != nil {
		return nil, "", err
	}
	about := fmt.Sprintf("ipvs, scheduler %s; iptables %s, %s", schedulerOf(s), tool.Version(), tool.Reason())
	if _, err := scheduled(schedulerOf(s), nil); err != nil {
		about += fmt.Sprintf("; %v: rr is used", err)
		s.IPVS.Scheduler = ""
	}
	if warning := shortTimeout(d.servers, sysctls{}, s.IPVS); warning != "" {
		about += "; " + warning
	}
	return &Backend{
		family: family, config: configOf(s, tool.RandomFully()), settings: s.IPVS,
		servers: d.servers, sets: d.sets, device: d.device, rules: tool,
		hasher: ruleset.NewHasher(), tuner: sysctls{}, log: slog.Default(),
		since: map[vs.Key]leavings{},
	}, about, nil
}

// doors are the ways to the kernel.
type doors struct {
	servers *vs.Kernel
	sets    *ipset.Kernel
	device  *dummy.Kernel
}

func openDoors() (d doors, err error) {
	if d.servers, err = vs.Open(vs.Options{}); err != nil {
		return doors{}, err
	}
	if d.sets, err = ipset.Open(ipset.Options{}); err != nil {
		d.close()
		return doors{}, err
	}
	if d.device, err = dummy.Open(dummy.Options{Name: deviceName}); err != nil {
		d.close()
		return doors{}, err
	}
	return d, nil
}

func (d doors) close() {
	if d.servers != nil {
		d.servers.Close()
	}
	if d.sets != nil {
		d.sets.Close()
	}
	if d.device != nil {
		d.device.Close()
	}
}

func schedulerOf(s proxier.Settings) string {
	if s.IPVS.Scheduler == "" {
		return "rr"
	}
	return s.IPVS.Scheduler
}

func configOf(s proxier.Settings, randomFully bool) Config {
	return Config{
		MasqueradeBit: s.MasqueradeBit, Liberal: s.ConntrackLiberal, RandomFully: randomFully,
		Scheduler: schedulerOf(s), Exclude: s.IPVS.Exclude,
	}
}

// Render is what a State would be in the kernel: virtual servers as ipvsadm -S prints
// them, addresses of kube-ipvs0, sets as ipset save does, and rules. A service that
// cannot be rendered makes an error beside the text of all others.
func Render(want *proxier.State, s proxier.Settings) (string, error) {
	c := configOf(s, true)
	m := newMemory(want.Family, &c)
	m.move(want)
	var b strings.Builder
	m.print(&b)
	for key, err := range m.failed {
		return b.String(), fmt.Errorf("service %s: %w", key.name, err)
	}
	return b.String(), nil
}
