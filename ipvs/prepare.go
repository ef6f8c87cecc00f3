package ipvs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

// modules are those that a node needs: IPVS, the sets that rules look into, what the
// rules match and do, and the device.
var modules = []string{
	"ip_vs", "nf_conntrack", "dummy",
	"ip_set", "ip_set_hash_ip", "ip_set_hash_ipport", "ip_set_hash_ipportip", "ip_set_hash_ipportnet",
	"ip_set_bitmap_port", "xt_set", "xt_NETMAP",
	"xt_addrtype", "xt_comment", "xt_conntrack", "xt_mark", "xt_MASQUERADE", "ipt_REJECT", "ip6t_REJECT",
}

// withSchedulers are modules and those of all schedulers, since a Service may ask for
// any.
func withSchedulers(modules []string) []string {
	all := slices.Clone(modules)
	for _, name := range vs.Schedulers() {
		all = append(all, "ip_vs_"+name)
	}
	return all
}

// prepare loads the modules and sets the sysctls and timeouts, so that what runs later
// needs CAP_NET_ADMIN alone: neither a module to load nor a sysctl to write.
func prepare(ctx context.Context, family proxier.Family, _ *proxier.Node, s proxier.Settings) ([]string, error) {
	missing := load(ctx, withSchedulers(modules)...)
	d, err := openDoors()
	if err != nil {
		return nil, fmt.Errorf("prepare ipvs for %s: %w", family, errors.Join(err, missing))
	}
	defer d.close()
	did := &diary{}
	log := slog.New(did)
	if err := errors.Join(tune(sysctls{}, s.IPVS, log), setTimeouts(d.servers, s.IPVS, log)); err != nil {
		return did.lines, fmt.Errorf("prepare ipvs for %s: %w", family, err)
	}
	return did.lines, nil
}

// diary keeps what is logged as lines of text. It has no levels and no groups.
type diary struct{ lines []string }

func (*diary) Enabled(context.Context, slog.Level) bool { return true }
func (d *diary) WithAttrs([]slog.Attr) slog.Handler     { return d }
func (d *diary) WithGroup(string) slog.Handler          { return d }

// Handle implements slog.Handler.
func (d *diary) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool {
		line += " " + a.String()
		return true
	})
	d.lines = append(d.lines, line)
	return nil
}
