package backends

import (
	"slices"

	"switchyard/iptables"
	"switchyard/ipvs"
	"switchyard/proxier"
	"switchyard/userspace"
)

// All lists the backends in the order in which they are shown.
func All() []proxier.Driver {
	return []proxier.Driver{
		iptables.Driver(),
		ipvs.Driver(),
		userspace.Driver(),
	}
}

// Names lists the names of All.
func Names() []string {
	var names []string
	for _, d := range All() {
		names = append(names, d.Name)
	}
	return names
}

// ByName returns the backend with a name.
func ByName(name string) (proxier.Driver, bool) {
	all := All()
	i := slices.IndexFunc(all, func(d proxier.Driver) bool { return d.Name == name })
	if i < 0 {
		return proxier.Driver{}, false
	}
	return all[i], true
}
