package compile

import (
	"slices"

	"switchyard/proxier"
	"switchyard/proxier/cluster"
)

// edit brings a Compiler's groups from the last Snapshot to the next.
type edit struct {
	c        *Compiler
	known    bool    // what was compiled before still holds for unchanged pointers
	reshaped bool    // a Service came or went
	dirty    []int   // groups whose raw services changed
	updated  []int   // groups whose settled services changed
	disputes []claim // claims on keys that are, or were until now, contested
	holders  turnover
}

func (e *edit) changed() bool { return e.reshaped || len(e.updated) > 0 }

// to compiles what differs from the last Snapshot.
func (e *edit) to(services cluster.List) {
	if sameNames(e.c.source, services) {
		e.update(services)
	} else {
		e.merge(services.Slice())
	}
	e.c.holds.settle(services, e.holders, e.recompile)
	e.c.source = services
}

// sameNames holds for almost every event: a pointer compare a page.
func sameNames(a, b cluster.List) bool {
	return slices.EqualFunc(a.Pages(), b.Pages(), func(x, y []*cluster.Service) bool {
		return samePage(x, y) || slices.EqualFunc(x, y, func(s, t *cluster.Service) bool { return s.Name == t.Name })
	})
}

func samePage(a, b []*cluster.Service) bool { return len(a) == len(b) && &a[0] == &b[0] }

// update compiles the Services that are others than before, all of the same names.
func (e *edit) update(services cluster.List) {
	first := 0
	for p, page := range services.Pages() {
		last := e.c.source.Pages()[p]
		for i, svc := range page {
			if e.known && samePage(page, last) {
				break
			}
			if !e.known || svc != last[i] {
				e.c.holds.replace(last[i], svc, &e.holders)
				e.recompile(first+i, svc)
			}
		}
		first += len(page)
	}
}

// merge walks both sorted lists and builds the groups anew, reusing those of
// Services that stay.
func (e *edit) merge(services []*cluster.Service) {
	e.reshaped = true
	old, groups := e.c.source.Slice(), e.c.groups
	e.c.groups = make([]*group, len(services))
	i := 0
	for j, svc := range services {
		for i < len(old) && old[i].Name.Compare(svc.Name) < 0 {
			e.remove(groups[i], old[i])
			i++
		}
		e.c.groups[j] = &group{}
		if i == len(old) || old[i].Name != svc.Name {
			e.c.holds.replace(nil, svc, &e.holders)
			e.recompile(j, svc)
			continue
		}
		e.c.groups[j] = groups[i]
		if !e.known || old[i] != svc {
			e.c.holds.replace(old[i], svc, &e.holders)
			e.recompile(j, svc)
		}
		i++
	}
	for ; i < len(old); i++ {
		e.remove(groups[i], old[i])
	}
}

// remove forgets what a Service asked for.
func (e *edit) remove(g *group, svc *cluster.Service) {
	e.c.holds.replace(svc, nil, &e.holders)
	e.replaceClaims(g.raw, nil)
	e.refuse(g, nil)
}

func (e *edit) recompile(i int, svc *cluster.Service) {
	g := e.c.groups[i]
	e.refuse(g, e.c.env.refused(svc))
	raw := Service(svc, &e.c.env)
	if keepPointers(raw, g.raw) {
		return
	}
	e.replaceClaims(g.raw, raw)
	g.raw = raw
	e.dirty = append(e.dirty, i)
}

// refuse notes what of a group's external IPs is not honoured.
func (e *edit) refuse(g *group, refused []cluster.Problem) {
	e.c.refusing += min(len(refused), 1) - min(len(g.refused), 1)
	g.refused = refused
}

// keepPointers puts the older pointer wherever the meaning is the same, and
// reports whether nothing changed at all.
func keepPointers(next, last []*proxier.Service) bool {
	for i, s := range next {
		at, found := slices.BinarySearchFunc(last, s, (*proxier.Service).Compare)
		if found && equal(last[at], s) {
			next[i] = last[at]
		}
	}
	return slices.Equal(next, last)
}

func (e *edit) replaceClaims(last, next []*proxier.Service) {
	eachClaim(last, func(k key, cl claim) {
		if !slices.Contains(next, cl.owner) && e.c.claims.remove(k, cl) {
			e.dispute(k)
		}
	})
	eachClaim(next, func(k key, cl claim) {
		if !slices.Contains(last, cl.owner) && e.c.claims.add(k, cl) {
			e.dispute(k)
		}
	})
}

func (e *edit) dispute(k key) {
	e.disputes = append(e.disputes, e.c.claims.contested[k]...)
	if cl, ok := e.c.claims.single[k]; ok {
		e.disputes = append(e.disputes, cl)
	}
}

// settle decides the changed groups' claims, and those of everybody who shares
// or shared a key with them.
func (e *edit) settle() {
	todo := e.dirty
	for _, cl := range e.disputes {
		if i, ok := e.c.find(cl.owner); ok {
			todo = append(todo, i)
		}
	}
	slices.Sort(todo)
	for _, i := range slices.Compact(todo) {
		if e.c.groups[i].settle(&e.c.claims) {
			e.updated = append(e.updated, i)
		}
	}
}

// settle reports whether the group's services changed.
func (g *group) settle(c *claims) bool {
	next := make([]*proxier.Service, len(g.raw))
	g.problems = nil
	for i, s := range g.raw {
		settled, problems := c.settle(s)
		next[i] = settled
		g.problems = append(g.problems, problems...)
	}
	same := keepPointers(next, g.services)
	g.services, g.stood = next, len(g.services)
	return !same
}

func (c *Compiler) find(s *proxier.Service) (int, bool) {
	return c.source.Find(cluster.Name{Namespace: s.Name.Namespace, Name: s.Name.Service})
}

// services lists what the State holds. If no Service came or went it is the last
// list with the updated entries replaced.
func (e *edit) services() []*proxier.Service {
	if e.c.state != nil && !e.reshaped {
		if out, ok := e.replaced(); ok {
			return out
		}
	}
	n := 0
	for _, g := range e.c.groups {
		n += len(g.services)
	}
	out := make([]*proxier.Service, 0, n)
	for _, g := range e.c.groups {
		out = append(out, g.services...)
	}
	return out
}

func (e *edit) replaced() ([]*proxier.Service, bool) {
	out := slices.Clone(e.c.state.Services)
	for _, i := range e.updated {
		g := e.c.groups[i]
		if len(g.services) != g.stood {
			return nil, false // an entry that nobody replaces
		}
		for _, s := range g.services {
			at, found := slices.BinarySearchFunc(out, s, (*proxier.Service).Compare)
			if !found {
				return nil, false
			}
			out[at] = s
		}
	}
	return out, true
}
