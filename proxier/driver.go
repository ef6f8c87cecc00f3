package proxier

import (
	"context"
	"net/netip"
	"time"
)

// Driver is a kind of backend: what --proxy-mode names. Its functions keep no
// state; cmd/backends lists all of them.
type Driver struct {
	// Name is the value of --proxy-mode, in lower case.
	Name string

	// Localnet: NodePorts on 127.0.0.0/8 take the sysctl route_localnet, which the
	// caller sets once a State with such NodePorts is applied, or prepared for: the
	// backend keeps strangers out of that range then.
	Localnet bool
	// NoLocalhost: NodePorts cannot answer on 127.0.0.0/8; no State asks for it.
	NoLocalhost bool
	// Relay is the port of the node at which the backend's own relay takes
	// connections and flows; 0: the kernel sends them to the endpoints itself.
	Relay uint16

	// Open makes the backend of one family and leaves the kernel alone. about is
	// a line for the log: what it found and chose. The error says what is missing
	// and what to do.
	Open func(ctx context.Context, family Family, s Settings) (b Backend, about string, err error)

	// Render is the text of what a State would be in the kernel, without touching
	// it.
	Render func(want *State, s Settings) (string, error)

	// Prepare does ahead what Apply would do once and may lack the privileges for:
	// modules, sysctls, and what must stand before the caller opens the node
	// (--init-only). It says what it did. It is safe at any time, also beside a
	// running proxy. nil: there is nothing.
	Prepare func(ctx context.Context, family Family, n *Node, s Settings) (did []string, err error)

	// Rules are the backend's in the packet filter's tables, for a mode that follows on
	// this one; zero: it has none there.
	Rules Claim
	// Objects takes out of the kernel what the backend has there beside its rules, once
	// those are gone, and says what it took. It loads no module. nil: there is nothing.
	Objects func(ctx context.Context) (removed []string, err error)

	// Cleanup takes everything of this backend out of the kernel, in all families
	// that it finds, and says what it took. Running it again is no error.
	Cleanup func(ctx context.Context) (removed []string, err error)
}

// Settings are the settings that backends share. A backend ignores what means
// nothing to it.
type Settings struct {
	// MasqueradeBit is the bit, 0..31, of the packet mark that asks for masquerade.
	MasqueradeBit int
	// ConntrackLiberal is the sysctl net.netfilter.nf_conntrack_tcp_be_liberal:
	// TCP segments outside the window are not INVALID.
	ConntrackLiberal bool

	IPVS      IPVSSettings
	Userspace UserspaceSettings
}

// IPVSSettings are those of the IPVS backend.
type IPVSSettings struct {
	// Scheduler is that of Services that name none: a scheduler of the kernel,
	// perhaps followed by its flags, as in "mh,mh-port,mh-fallback". "": rr.
	Scheduler string
	// StrictARP has the node answer and announce the addresses of its own
	// interfaces only, so that those on kube-ipvs0 stay silent.
	StrictARP bool
	// Exclude are ranges in which virtual servers are left alone, whoever made them.
	Exclude []netip.Prefix
	// TCP, TCPFin and UDP are how long a connection may be idle; 0: the kernel's value
	// stays.
	TCP, TCPFin, UDP time.Duration
}

// UserspaceSettings are those of the userspace backend.
type UserspaceSettings struct {
	// Drain is how long established connections may go on after the end was asked
	// for; 0: they end at once.
	Drain time.Duration
	// Keeper is the command that starts a process which holds the listening sockets
	// while no proxy runs; none: they end with the proxy.
	Keeper []string
	// Warn takes lines for the log that belong to no Apply; nil: nobody listens.
	Warn func(text string, args ...any)
}
