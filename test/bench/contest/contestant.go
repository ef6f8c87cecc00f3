package contest

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"switchyard/test/bench/load"
	"switchyard/test/bench/street"
)

// The flavours of iptables programs.
const (
	NFT    = "nft"
	Legacy = "legacy"
)

// Kind is what a contestant is.
type Kind string

// The kinds.
const (
	Program Kind = "program" // a kube-proxy
	Floor   Kind = "floor"   // what the kernel and its tool need for the same content, without a proxy
	Direct  Kind = "direct"  // no proxy: connections go to the pods themselves
)

// Contestant is one participant.
type Contestant struct {
	Name string
	Kind Kind
	Path string // Program: the binary
	Mode string // Program: the proxy mode; Floor: iptables or ipvs
	// Tables is the flavour of the iptables programs.
	Tables string
	// Args are passed to the program besides.
	Args []string
}

// Stage is where and on what a contestant runs.
type Stage struct {
	Street *street.Street
	Load   *load.Load
	// Kubeconfig reaches the API server; or Manifest names a directory.
	Kubeconfig, Manifest string
	// Dir is an existing folder for configuration and logs.
	Dir string
}

// Settings are those of one start.
type Settings struct {
	// MinSync is the shortest time between two syncs: 0 means none, and less than 0
	// the program's default.
	MinSync time.Duration
	// Tally counts the programs that it starts. It slows it down.
	Tally bool
}

// Default are the settings that a program has if nobody says anything.
func Default() Settings { return Settings{MinSync: -1} }

// Runner is a contestant at work. Its methods are called from one goroutine.
type Runner interface {
	// Start begins; it does not wait until the contestant is in sync.
	Start(ctx context.Context, s Settings) error
	// Changed tells that service i has changed, for contestants that watch nothing,
	// and returns when they began to work on it. Others return the zero time.
	Changed(ctx context.Context, i int) (time.Time, error)
	// Ended returns why it does not run any more, nil if it does.
	Ended() error
	// Stop ends it by a signal, if it runs, and waits.
	Stop(sig syscall.Signal) error
	// Tally is what was counted in starts with a tally.
	Tally() (Tally, error)
	// Usage is what all starts so far have used.
	Usage() Usage
	// Close stops it and gives up what accounts for it.
	Close() error
}

// Usage is what a contestant and its children have used.
type Usage struct {
	CPU  time.Duration
	RSS  int64 // bytes, now
	Peak int64 // bytes, the largest sum of RSS of all processes since the last Start
	// Charged is the most that the kernel has charged the cgroup with since the last
	// Start, page cache and kernel memory included, and Kernel the kernel memory that it
	// is charged with now, rules included: bytes; 0 where the kernel does not tell.
	Charged, Kernel int64
}

// Parse reads a contestant: "name=path,mode=iptables,tables=nft,arg=--v=2", or the
// name of one of known.
func Parse(text string, known []Contestant) (Contestant, error) {
	if i := slices.IndexFunc(known, func(c Contestant) bool { return c.Name == text }); i >= 0 {
		return known[i], nil
	}
	name, rest, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return Contestant{}, fmt.Errorf("contestant %q: is neither name=path,mode=… nor one of %s", text, strings.Join(names(known), ", "))
	}
	fields := strings.Split(rest, ",")
	c := Contestant{Name: name, Kind: Program, Path: fields[0], Mode: "iptables", Tables: NFT}
	for _, field := range fields[1:] {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "mode":
			c.Mode = value
		case "tables":
			c.Tables = value
		case "arg":
			c.Args = append(c.Args, value)
		default:
			return Contestant{}, fmt.Errorf("contestant %s: %q: must be mode=, tables= or arg=", name, field)
		}
	}
	if c.Tables != NFT && c.Tables != Legacy {
		return Contestant{}, fmt.Errorf("contestant %s: tables %q: must be nft or legacy", name, c.Tables)
	}
	return c, nil
}

// Known are the contestants that need no description: our modes in a binary,
// upstream's in another, the floors and the direct way.
func Known(ours, upstream string) []Contestant {
	program := func(name, path, mode, tables string) Contestant {
		return Contestant{Name: name, Kind: Program, Path: path, Mode: mode, Tables: tables}
	}
	return []Contestant{
		program("iptables", ours, "iptables", NFT),
		program("iptables-legacy", ours, "iptables", Legacy),
		program("ipvs", ours, "ipvs", NFT),
		program("userspace", ours, "userspace", NFT),
		program("upstream-iptables", upstream, "iptables", NFT),
		program("upstream-iptables-legacy", upstream, "iptables", Legacy),
		program("upstream-nftables", upstream, "nftables", NFT),
		program("upstream-ipvs", upstream, "ipvs", NFT),
		{Name: "floor", Kind: Floor, Mode: "iptables", Tables: NFT},
		{Name: "floor-legacy", Kind: Floor, Mode: "iptables", Tables: Legacy},
		{Name: "floor-ipvs", Kind: Floor, Mode: "ipvs"},
		{Name: "direct", Kind: Direct},
	}
}

func names(known []Contestant) (out []string) {
	for _, c := range known {
		out = append(out, c.Name)
	}
	return out
}

// Open prepares the contestant on a stage. Nothing runs yet.
func (c Contestant) Open(s Stage) (Runner, error) {
	switch c.Kind {
	case Direct:
		return nobody{}, nil
	case Floor:
		if c.Mode == "ipvs" {
			return openBare(c, s)
		}
		return openFloor(c, s)
	}
	path, err := filepath.Abs(c.Path)
	if err != nil {
		return nil, fmt.Errorf("contestant %s: %w", c.Name, err)
	}
	c.Path = path
	return openProgram(c, s)
}

// nobody is the direct way: there is nothing to run.
type nobody struct{}

func (nobody) Start(context.Context, Settings) error                 { return nil }
func (nobody) Changed(context.Context, int) (t time.Time, err error) { return t, nil }
func (nobody) Ended() error                                          { return nil }
func (nobody) Stop(syscall.Signal) error                             { return nil }
func (nobody) Tally() (t Tally, err error)                           { return t, nil }
func (nobody) Usage() Usage                                          { return Usage{} }
func (nobody) Close() error                                          { return nil }
