package aside

import (
	"cmp"
	"slices"

	"switchyard/proxier"
)

// Step is the way of one service from what stands of it to what is wanted. Was is nil
// for one that comes, Is for one that goes.
type Step struct{ Was, Is *proxier.Service }

// Steps are the ways from what stands to what is wanted, in an order in which they can
// be taken one by one: who gets an address goes before who loses it, so that it is
// never without a service. (Services that swap addresses are the exception: one of
// them has to be first.)
func Steps(stands, want *proxier.State) []Step {
	o := order{getting: map[address]int{}}
	proxier.EachChange(stands.Services, want.Services, false, func(was, is *proxier.Service) {
		for _, a := range less(is, was) {
			o.getting[a] = len(o.steps)
		}
		o.steps = append(o.steps, Step{was, is})
	})
	o.done = make([]bool, len(o.steps))
	for i := range o.steps {
		o.visit(i)
	}
	return o.sorted
}

// order sorts steps: depth first, those that a step waits for before it.
type order struct {
	steps, sorted []Step
	getting       map[address]int // the step by which a service gets an address
	done          []bool
}

func (o *order) visit(i int) {
	if o.done[i] {
		return
	}
	o.done[i] = true
	for _, a := range less(o.steps[i].Was, o.steps[i].Is) {
		if first, ok := o.getting[a]; ok {
			o.visit(first)
		}
	}
	o.sorted = append(o.sorted, o.steps[i])
}

// less are the addresses of one version that the other lacks.
func less(of, other *proxier.Service) []address {
	has := addresses(other)
	return slices.DeleteFunc(addresses(of), func(a address) bool { return slices.Contains(has, a) })
}

// after is a State when some steps have been taken from it.
func after(stands *proxier.State, steps []Step) *proxier.State {
	changes := slices.SortedFunc(slices.Values(steps), func(a, b Step) int { return a.service().Compare(b.service()) })
	next := &proxier.State{Family: stands.Family, Node: stands.Node}
	for _, s := range stands.Services {
		for len(changes) > 0 && changes[0].service().Compare(s) < 0 {
			next.Services, changes = append(next.Services, changes[0].Is), changes[1:]
		}
		if len(changes) == 0 || changes[0].service().Compare(s) != 0 {
			next.Services = append(next.Services, s)
			continue
		}
		if is := changes[0].Is; is != nil {
			next.Services = append(next.Services, is)
		}
		changes = changes[1:]
	}
	for _, c := range changes {
		next.Services = append(next.Services, c.Is)
	}
	return next
}

// service is either version, to compare by.
func (s Step) service() *proxier.Service {
	if s.Is != nil {
		return s.Is
	}
	return s.Was
}

// Try brings the kernel to a State. A refusal says that the kernel does not take it,
// for the sake of something in it; err ends the search.
type Try func(*proxier.State) (refusal, err error)

// Isolate brings the kernel from what stands to what is wanted, less what it refuses.
// It is an error if the kernel refuses what stands, or what is left in the end: that is
// no service's fault.
func (s *Services) Isolate(want, stands *proxier.State, try Try) error {
	reached := stands
	must := func(next *proxier.State) error {
		refusal, err := try(next)
		return cmp.Or(err, refusal)
	}
	if err := must(stands); err != nil {
		return err
	}
	err := s.Search(stands, Steps(stands, s.Without(want, stands)), func(next *proxier.State) (refusal, err error) {
		if refusal, err = try(next); refusal == nil && err == nil {
			reached = next
		}
		return refusal, err
	})
	if err != nil {
		return err
	}
	return must(s.Without(want, reached))
}

// Search takes steps from what stands, as many at once as the kernel takes, and puts
// the services that it refuses aside. It needs 2·n·log₂(steps) tries at the most to
// find n of them.
func (s *Services) Search(stands *proxier.State, steps []Step, try Try) error {
	_, err := s.halve(stands, steps, try)
	return err
}

// halve returns what stands in the end.
func (s *Services) halve(stands *proxier.State, steps []Step, try Try) (*proxier.State, error) {
	if len(steps) == 0 {
		return stands, nil
	}
	next := after(stands, steps)
	refusal, err := try(next)
	switch {
	case err != nil:
		return nil, err
	case refusal == nil:
		return next, nil
	case len(steps) > 1:
		half := len(steps) / 2
		if stands, err = s.halve(stands, steps[:half], try); err != nil {
			return nil, err
		}
		return s.halve(stands, steps[half:], try)
	}
	if is := steps[0].Is; is != nil { // one that goes is nobody's fault
		s.Put(is, refusal)
	}
	return stands, nil
}
