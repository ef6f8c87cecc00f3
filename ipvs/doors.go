package ipvs

import (
	"context"
	"net/netip"

	"switchyard/iptables/ruleset"
	"switchyard/ipvs/ipset"
	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

// servers is what the backend asks of the table of virtual servers; *vs.Kernel.
type servers interface {
	Servers(f proxier.Family) (map[vs.Key]vs.Server, error)
	Destinations(key vs.Key) ([]vs.Counted, error)
	Batch(writes []vs.Write) []error
	Add(key vs.Key, s vs.Server) error
	Update(key vs.Key, s vs.Server) error
	Delete(key vs.Key) error
	AddDestination(key vs.Key, d vs.Destination) error
	UpdateDestination(key vs.Key, d vs.Destination) error
	DeleteDestination(key vs.Key, d vs.Destination) error
	Timeouts() (vs.Timeouts, error)
	SetTimeouts(t vs.Timeouts) error
	Operations() int64
	Close()
}

// sets is what it asks of the sets; *ipset.Kernel.
type sets interface {
	Sets() ([]ipset.Set, error)
	Entries(name string) ([]ipset.Entry, error)
	Create(s ipset.Set) error
	Change(name string, add, del []ipset.Entry) error
	Destroy(name string) error
	Operations() int64
	Close()
}

// device is what it asks of kube-ipvs0; *dummy.Kernel.
type device interface {
	Ensure() (created bool, err error)
	Addresses(f proxier.Family) ([]netip.Addr, error)
	Change(add, del []netip.Addr) error
	Drifted() (string, error)
	Operations() int64
	Close()
}

// rules is what it asks of the iptables programs; *ruleset.Tool.
type rules interface {
	Save(ctx context.Context, table string) ([]byte, error)
	Restore(ctx context.Context, input []byte) error
	EnsureJump(ruleset.Jump) (added bool, err error)
	Stamp() (ruleset.Stamp, error)
}
