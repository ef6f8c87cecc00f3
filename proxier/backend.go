package proxier

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// Backend makes one IP family of one node do what a State says. Its methods are
// called from one goroutine at a time.
type Backend interface {
	// Apply brings the kernel to the wanted State and reports what it did. An
	// unchanged State is cheap and writes nothing. An error means that nothing is
	// known of the kernel any more: the next Apply starts from what it really
	// holds. A service that cannot be programmed does not make an error: it is
	// set aside, named in the Report, and tried again whenever it changes or
	// Apply is called with the same State.
	Apply(ctx context.Context, want *State) (Report, error)

	// Close ends the backend and leaves the kernel as it is.
	Close() error
}

// Watcher is a Backend that notices cheaply when somebody else changed the
// kernel behind its back.
type Watcher interface {
	// Drifted reports what of the kernel's state is no longer as Apply left it,
	// "" if nothing is known to be. After a non-empty answer the next Apply
	// starts from what the kernel really holds.
	Drifted(ctx context.Context) (string, error)
}

// Resyncer is a Backend that can be told to trust nothing it remembers.
type Resyncer interface {
	// Forget makes the next Apply start from what the kernel really holds.
	Forget()
}

// Starter is a Backend that can tell cheaply that the kernel holds nothing of its
// kind yet, as on a node that has just booted.
type Starter interface {
	Empty(ctx context.Context) (bool, error)
}

// Heir is a Backend that can tell where the process before it sent packets.
type Heir interface {
	// Led returns those of some ways that packets took by what stands in the kernel
	// before the first Apply, or by what stood there a moment before: an endpoint that
	// terminates keeps its flows and has no rule. node tells who is a pod. What is
	// somebody else's leads nobody.
	Led(ctx context.Context, node *Node, ways []Way) ([]Way, error)
}

// Way is where a flow was sent, and the endpoint to which it went.
type Way struct {
	Protocol     Protocol
	To, Endpoint netip.AddrPort
}

// Counter is a Backend whose rules count packets.
type Counter interface {
	// Packets reads the kernel's counts. It may be called from any goroutine, also
	// during an Apply.
	Packets(ctx context.Context) (Packets, error)
}

// Packets are counts since the rules were written; a rule that is written anew
// counts from 0.
type Packets struct {
	Invalid   uint64 // dropped because conntrack took them for invalid
	Localhost uint64 // first packets of connections to a NodePort at a loopback address
}

// Carrier is a Backend that carries the bytes itself and so knows how many.
type Carrier interface {
	// Traffic may be called from any goroutine.
	Traffic() []Traffic
}

// Traffic is what one service port has carried since the backend first knew it.
type Traffic struct {
	Service  ServicePort
	Protocol Protocol

	Active      int64 // connections, and flows of UDP, at this moment
	Connections int64 // accepted, whatever became of them
	Received    int64 // bytes from clients
	Sent        int64 // bytes to clients
	Retries     int64 // endpoints that did not take a connection, so that another was tried
	Failed      int64 // connections that no endpoint took
	Refused     int64 // connections over a limit
	Evicted     int64 // connections that made room for others: the longest idle of those never used, stuck or half closed
	TimedOut    int64 // connections that were ended: their peer vanished, took nothing, or said nothing
}

// Report is what one Apply did.
type Report struct {
	// Full: the kernel's content was read back first.
	Full bool
	// Operations is the number of calls that wrote to the kernel: executions,
	// netlink messages. 0: nothing had to change.
	Operations int
	// Written and Deleted count the kernel objects (rules, virtual servers, …)
	// by the backend's own words for them.
	Written, Deleted map[string]int
	// Total counts the objects that stand in the kernel now.
	Total map[string]int
	// Rules count the rules of packet filter tables ("nat", "filter", …); nil in a
	// backend that has none.
	Rules map[string]RuleCount
	// Refused is how many writes of rules the kernel refused, those included that
	// were tried again with less in them.
	Refused int
	// SetAside are the services that are not in the kernel as wanted.
	SetAside []SetAside
	// Notes are all that a person should know of services that are in the kernel,
	// but not quite as asked for.
	Notes []Note
	// Repaired says what of somebody else's doing this Apply put right.
	Repaired string
	Took     time.Duration
}

// RuleCount is how many rules of one table an Apply wrote, and how many of ours
// stand in it now.
type RuleCount struct{ Written, Total int }

// Note says what of a Service's wishes could not be met, and what is done
// instead.
type Note struct {
	Service  ServicePort
	Protocol Protocol
	Text     string // `scheduler "mhh" is unknown: rr is used`
}

func (n Note) String() string {
	return fmt.Sprintf("%s %s: %s", n.Service, n.Protocol, n.Text)
}

// SetAside is a service that was left out so that all others could go in.
type SetAside struct {
	Service  ServicePort
	Protocol Protocol
	Reason   error
}

func (s SetAside) String() string {
	return fmt.Sprintf("%s %s: %v", s.Service, s.Protocol, s.Reason)
}
