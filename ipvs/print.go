package ipvs

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"switchyard/iptables/ruleset"
	"switchyard/ipvs/ipset"
	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

// print writes all that is wanted, in the words of the kernel's own tools.
func (m *memory) print(b *strings.Builder) {
	b.WriteString("# virtual servers, as ipvsadm -Sn\n")
	for _, key := range slices.SortedFunc(maps.Keys(m.servers), vs.Key.Compare) {
		if s := m.servers[key]; s.want != nil {
			printServer(b, s.want)
		}
	}
	b.WriteString("\n# addresses of kube-ipvs0\n")
	for _, a := range slices.SortedFunc(slices.Values(m.addrs.pending(true)), netip.Addr.Compare) {
		fmt.Fprintf(b, "%s\n", netip.PrefixFrom(a, a.BitLen()))
	}
	b.WriteString("\n# sets, as ipset save\n")
	m.printSets(b)
	b.WriteString("\n# rules, for iptables-restore --noflush\n")
	chains := ruler{*m.config, m.family, &m.state.Node}.chains()
	for _, table := range tableNames {
		change := ruleset.Change{Table: table}
		for _, c := range chains[table] {
			change.Writes = append(change.Writes, ruleset.Write{Name: c.Name, Text: c.AppendTo(nil), Rules: len(c.Rules), Owner: -1})
		}
		b.Write(ruleset.Print([]ruleset.Change{change}, 0).Text)
	}
}

// option is how ipvsadm names a virtual server's protocol.
var option = map[proxier.Protocol]string{proxier.TCP: "-t", proxier.UDP: "-u", proxier.SCTP: "--sctp-service"}

func printServer(b *strings.Builder, s *server) {
	name := option[s.key.Protocol] + " " + s.key.Addr.String()
	fmt.Fprintf(b, "-A %s -s %s", name, s.Scheduler)
	if s.Persistence > 0 {
		fmt.Fprintf(b, " -p %d", int(s.Persistence.Seconds()))
	}
	var flags []string
	if s.Flags&vs.Port != 0 {
		flags = append(flags, s.Scheduler+"-port")
	}
	if s.Flags&vs.Fallback != 0 {
		flags = append(flags, s.Scheduler+"-fallback")
	}
	if len(flags) > 0 {
		fmt.Fprintf(b, " -b %s", strings.Join(flags, ","))
	}
	b.WriteByte('\n')
	for _, d := range s.pool {
		fmt.Fprintf(b, "-a %s -r %s -m -w %d\n", name, d.Addr, d.Weight)
	}
}

func (m *memory) printSets(b *strings.Builder) {
	all := m.entries.pending(true)
	slices.SortFunc(all, func(x, y member) int {
		return cmp.Or(cmp.Compare(x.set, y.set), compareEntries(x.entry, y.entry))
	})
	for s := range setCount {
		h := s.header(m.family)
		fmt.Fprintf(b, "create %s %s", h.Name, h.Type)
		switch h.Family {
		case proxier.IPv4:
			b.WriteString(" family inet")
		case proxier.IPv6:
			b.WriteString(" family inet6")
		case 0:
			b.WriteString(" range 0-65535")
		}
		b.WriteByte('\n')
		for len(all) > 0 && all[0].set == s {
			fmt.Fprintf(b, "add %s %s\n", h.Name, all[0].entry)
			all = all[1:]
		}
	}
}

func compareEntries(x, y ipset.Entry) int {
	return cmp.Or(x.Addr.Compare(y.Addr), cmp.Compare(x.Protocol, y.Protocol), cmp.Compare(x.Port, y.Port),
		x.Addr2.Compare(y.Addr2), x.Net.Addr().Compare(y.Net.Addr()), cmp.Compare(x.Net.Bits(), y.Net.Bits()))
}
