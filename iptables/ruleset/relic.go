package ruleset

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"switchyard/proxier"
)

// Relic is what stands in the kernel of one service port, whoever wrote it and when.
type Relic struct {
	// Service is as much of it as the rules tell: name, addresses, allowed sources and
	// endpoints. It has no routes: it stands for the relic, and cannot be rendered.
	Service *proxier.Service
	Entries []Entry            // by which packets find it, in the order of their chains
	Chains  map[string][]Chain // by table: what the entries lead to, leaves first
}

// Entry is a rule for one destination, in a chain that services share.
type Entry struct {
	Table, Chain string
	Rule         Rule
}

// Layout tells what chains are for.
type Layout struct {
	Own   func(table, chain string) bool // those of one service, or one endpoint of it
	Allow string                         // prefix of those that list the sources allowed
}

// Relics finds the services in tables, sorted by name. Entries are the rules for one
// port whose comments begin with the name of a service. One for the health checks of a
// Service tells no port of it: it is an entry of all of them.
func Relics(t Tables, l Layout) []*Relic {
	f := finder{tables: t, layout: l, found: map[service]*Relic{}}
	for _, table := range slices.Sorted(maps.Keys(t)) {
		for _, chain := range slices.Sorted(maps.Keys(t[table])) {
			if !l.Own(table, chain) {
				f.list(table, chain)
			}
		}
	}
	f.addHealth()
	relics := slices.SortedFunc(maps.Values(f.found), func(a, b *Relic) int { return a.Service.Compare(b.Service) })
	for _, r := range relics {
		f.follow(r)
	}
	return relics
}

// ReadTables reads some chains of nat and filter as a program saves them.
func ReadTables(ctx context.Context, save func(ctx context.Context, table string) ([]byte, error), want func(table, chain string) bool) (Tables, error) {
	tables := Tables{}
	for _, table := range []string{"filter", "nat"} {
		dump, err := save(ctx, table)
		if err != nil {
			return nil, err
		}
		if err := Scan(dump, want, tables.Add); err != nil {
			return nil, err
		}
	}
	return tables, nil
}

type finder struct {
	tables Tables
	layout Layout
	found  map[service]*Relic
	health []Entry
}

// service names a service port in a map.
type service struct {
	name     proxier.ServicePort
	protocol proxier.Protocol
}

// list notes the entries of a chain.
func (f *finder) list(table, chain string) {
	for _, rule := range f.tables[table][chain] {
		e := Entry{table, chain, rule}
		s, ok := e.service()
		switch {
		case !ok:
			continue
		case strings.HasSuffix(rule.Comment, " health check node port"):
			f.health = append(f.health, e)
			continue
		case f.found[s] == nil:
			f.found[s] = &Relic{Service: &proxier.Service{Name: s.name, Protocol: s.protocol}, Chains: map[string][]Chain{}}
		}
		f.found[s].Entries = append(f.found[s].Entries, e)
	}
}

// service reads the name of the service port that an entry is for.
func (e Entry) service() (service, bool) {
	r := &e.Rule
	first, _, _ := strings.Cut(r.Comment, " ")
	namespace, name, ok := strings.Cut(first, "/")
	name, port, _ := strings.Cut(name, ":")
	if !ok || namespace == "" || name == "" || r.Proto == 0 || r.Ports.From == 0 || r.Ports.From != r.Ports.To {
		return service{}, false
	}
	return service{proxier.ServicePort{Namespace: namespace, Service: name, Port: port}, r.Proto}, true
}

func (f *finder) addHealth() {
	for _, e := range f.health {
		of, _ := e.service()
		for s, r := range f.found {
			if s.name.Namespace == of.name.Namespace && s.name.Service == of.name.Service {
				r.Entries = append(r.Entries, e)
			}
		}
	}
}

// follow gathers the service's own chains, and what they tell of it.
func (f *finder) follow(r *Relic) {
	for _, e := range r.Entries {
		f.visit(r, e.Table, e.Rule.Jump)
	}
	s := r.Service
	for _, e := range r.Entries {
		at := netip.AddrPortFrom(e.Rule.Dst.Prefix.Addr(), e.Rule.Ports.From)
		i := slices.IndexFunc(s.Frontends, func(f proxier.Frontend) bool { return f.Addr == at })
		if i < 0 {
			i = len(s.Frontends)
			s.Frontends = append(s.Frontends, proxier.Frontend{Addr: at})
		}
		if f.isAllow(e.Rule.Jump) {
			s.Frontends[i].Allow = f.sources(r.Chains[e.Table])
		}
	}
	for _, c := range r.Chains["nat"] {
		for _, rule := range c.Rules {
			if rule.To.IsValid() {
				s.Cluster = append(s.Cluster, proxier.Endpoint{Addr: rule.To})
			}
		}
	}
}

// visit adds a chain of the service's own after those that it leads to.
func (f *finder) visit(r *Relic, table, chain string) {
	rules, stands := f.tables[table][chain]
	known := func(c Chain) bool { return c.Name == chain }
	if !stands || !f.layout.Own(table, chain) || slices.ContainsFunc(r.Chains[table], known) {
		return
	}
	for i := range rules {
		f.visit(r, table, rules[i].Jump)
	}
	r.Chains[table] = append(r.Chains[table], Chain{Name: chain, Rules: rules})
}

func (f *finder) isAllow(chain string) bool { return strings.HasPrefix(chain, f.layout.Allow) }

// sources are those that chains allow.
func (f *finder) sources(chains []Chain) (allowed []netip.Prefix) {
	for _, c := range chains {
		for _, rule := range c.Rules {
			if f.isAllow(c.Name) && rule.Src.Prefix.IsValid() {
				allowed = append(allowed, rule.Src.Prefix)
			}
		}
	}
	return allowed
}
