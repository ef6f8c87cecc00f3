package proxiertest

import "switchyard/proxier"

// Combination is one row that a frontend of a kind may have.
type Combination struct {
	Kind proxier.Kind
	proxier.Route
}

// String is the row with its kind in front: "ClusterIP: anyone → cluster".
func (c Combination) String() string { return c.Kind.String() + ": " + c.Route.String() }

// Combinations lists every row that can stand in a State: all that follows from
// the policies, the detector of pods and masquerade-all. The suite must show
// each; a State must have no other.
func Combinations() []Combination {
	row := func(from proxier.From, to proxier.To, masq bool) proxier.Route {
		return proxier.Route{From: from, To: to, Masq: masq}
	}
	inside := []proxier.Route{
		row(proxier.FromAnyone, proxier.ToReject, false),
		row(proxier.FromAnyone, proxier.ToDrop, false),
		row(proxier.FromNotPods, proxier.ToCluster, true),
		row(proxier.FromAnyone, proxier.ToCluster, false),
		row(proxier.FromAnyone, proxier.ToCluster, true), // masquerade-all
		row(proxier.FromNotPods, proxier.ToLocal, true),
		row(proxier.FromAnyone, proxier.ToLocal, false),
		row(proxier.FromAnyone, proxier.ToLocal, true), // masquerade-all
	}
	outside := []proxier.Route{
		row(proxier.FromAnyone, proxier.ToReject, false),
		row(proxier.FromAnyone, proxier.ToDrop, false),
		row(proxier.FromAnyone, proxier.ToCluster, true),
		row(proxier.FromPods, proxier.ToCluster, false),
		row(proxier.FromNode, proxier.ToCluster, true),
		row(proxier.FromAnyone, proxier.ToLocal, false),
	}
	var all []Combination
	for _, kind := range proxier.Kinds {
		routes := outside
		if kind == proxier.ClusterIP {
			routes = inside
		}
		for _, r := range routes {
			all = append(all, Combination{kind, r})
		}
	}
	return all
}
