package ipvs

import (
	"cmp"
	"fmt"
	"slices"

	"switchyard/proxier"
)

// conclude completes the report of an attempt that came to its end.
func (a *attempt) conclude() {
	m := a.mem
	for c := range m.lost {
		if w := m.winner(c); w != nil && a.aside[idOf(c.service)] == nil {
			a.aside[idOf(c.service)] = fmt.Errorf("its address %s, or where the short way of policy Local leads from there, is taken by %s",
				c.servers[0].key, w.service.Name)
		}
	}
	for key, reason := range a.aside {
		a.report.SetAside = append(a.report.SetAside, proxier.SetAside{Service: key.name, Protocol: key.protocol, Reason: reason})
	}
	slices.SortFunc(a.report.SetAside, func(x, y proxier.SetAside) int {
		return cmp.Or(x.Service.Compare(y.Service), cmp.Compare(x.Protocol, y.Protocol))
	})
	a.report.Notes = m.notes()
	a.report.Total = m.totals()
}

// notes are those of all services, sorted.
func (m *memory) notes() []proxier.Note {
	var out []proxier.Note
	for key := range m.noted {
		out = append(out, m.services[key].notes...)
	}
	slices.SortFunc(out, func(x, y proxier.Note) int {
		return cmp.Or(x.Service.Compare(y.Service), cmp.Compare(x.Protocol, y.Protocol), cmp.Compare(x.Text, y.Text))
	})
	return out
}

// totals count what stands in the kernel.
func (m *memory) totals() map[string]int {
	return map[string]int{
		"servers": m.total.servers, "destinations": m.total.destinations,
		"entries": m.entries.total(), "addresses": m.addrs.total(),
	}
}

// tally is how many servers and destinations stand.
type tally struct{ servers, destinations int }

// recount corrects the totals by one server.
func (m *memory) recount(s *standing) {
	var now tally
	if s.stands {
		now = tally{1, len(s.pool)}
	}
	m.total.servers += now.servers - s.counted.servers
	m.total.destinations += now.destinations - s.counted.destinations
	s.counted = now
}
