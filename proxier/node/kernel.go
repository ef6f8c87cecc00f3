package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"switchyard/proxier"
)

const (
	// ipvsInterface holds the Services' own addresses in IPVS mode. They are
	// local to the kernel and not addresses of the node.
	ipvsInterface = "kube-ipvs0"

	// A dump is interrupted when an address changes meanwhile. With interfaces
	// coming and going 50 times a second one of this many tries gets through.
	dumpTries = 20
	dumpPause = 5 * time.Millisecond

	// A new interface brings several addresses within milliseconds; this long
	// they are waited for, so that they are one change.
	settle = 100 * time.Millisecond

	localnet         = "net.ipv4.conf.all.route_localnet"
	conntrackLiberal = "net.netfilter.nf_conntrack_tcp_be_liberal"
	oomScore         = "/proc/self/oom_score_adj"
)

// Addresses returns every address of the machine, both families, loopback
// included and those of kube-ipvs0 left out. It is one dump for all interfaces,
// so an interface that vanishes meanwhile cannot hide the others' addresses. The
// list is complete or there is an error.
func Addresses() ([]netip.Addr, error) {
	var err error
	for range dumpTries {
		var addrs []netip.Addr
		addrs, err = dumpAddresses()
		if !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, syscall.EINTR) {
			return addrs, err
		}
		time.Sleep(dumpPause)
	}
	return nil, fmt.Errorf("%w %d times in a row", err, dumpTries)
}

func dumpAddresses() ([]netip.Addr, error) {
	skip, err := ipvsIndex()
	if err != nil {
		return nil, err
	}
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the node's addresses: %w", err)
	}
	var addrs []netip.Addr
	for _, a := range list {
		if a.IPNet == nil || a.LinkIndex == skip {
			continue
		}
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs, nil
}

// ipvsIndex returns the index of kube-ipvs0, 0 (no interface's index) if there
// is none.
func ipvsIndex() (int, error) {
	link, err := netlink.LinkByName(ipvsInterface)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look up interface %s: %w", ipvsInterface, err)
	}
	return link.Attrs().Index, nil
}

// WatchAddresses calls changed once at the start and then whenever an address
// came or went, at most every 100 ms, until ctx ends; then it returns nil. What
// changed it does not tell: changed is to call Addresses. It survives an overflow
// of the kernel's queue of changes by subscribing anew and calling changed; it
// returns an error if the kernel refuses a subscription.
func WatchAddresses(ctx context.Context, changed func()) error {
	return watch(ctx, changed, netlink.AddrSubscribe)
}

// subscribe is netlink.AddrSubscribe: it closes updates when the subscription
// ends, by itself (overflow) or because done was closed.
type subscribe func(updates chan<- netlink.AddrUpdate, done <-chan struct{}) error

func watch(ctx context.Context, changed func(), subscribe subscribe) error {
	for ctx.Err() == nil {
		updates := make(chan netlink.AddrUpdate, 64)
		done := make(chan struct{})
		if err := subscribe(updates, done); err != nil {
			return fmt.Errorf("subscribe to changes of the node's addresses: %w", err)
		}
		changed() // for what happened while there was no subscription
		follow(ctx, updates, changed)
		close(done)
		for range updates { // the sender blocks until it is heard
		}
		pause(ctx, updates)
	}
	return nil
}

// follow returns when ctx ends or the subscription does.
func follow(ctx context.Context, updates <-chan netlink.AddrUpdate, changed func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case _, open := <-updates:
			if !open || !pause(ctx, updates) {
				return
			}
			changed()
		}
	}
}

// pause waits for settle and drops the updates that arrive meanwhile. It reports
// whether the subscription still stands.
func pause(ctx context.Context, updates <-chan netlink.AddrUpdate) bool {
	timer := time.NewTimer(settle)
	defer timer.Stop()
	for open := true; ; {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return open
		case _, open = <-updates:
			if !open {
				updates = nil
			}
		}
	}
}

// Sysctl returns the value of a sysctl without surrounding white space. The name
// is dotted ("net.ipv4.ip_forward"), or has slashes if a part of it contains a
// dot ("net/ipv4/conf/eth0.5/rp_filter").
func Sysctl(name string) (string, error) {
	path, err := sysctlPath(name)
	if err != nil {
		return "", fmt.Errorf("read sysctl %q: %w", name, err)
	}
	value, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %s: %w", name, remedy(err), err)
	}
	return strings.TrimSpace(string(value)), nil
}

// SetSysctl gives a sysctl a value and reports whether it had to be written: it
// is only read if it has the value already, so that a node with a read-only
// /proc/sys can be prepared from outside. The error names the sysctl and what to
// do.
func SetSysctl(name, value string) (bool, error) {
	return setting{name: name, value: value}.apply()
}

func (s setting) apply() (changed bool, err error) {
	old, err := Sysctl(s.name)
	if err != nil || s.enough(old) {
		return false, err
	}
	if err := writeSysctl(s.name, s.value); err != nil {
		return false, fmt.Errorf("set %s from %s to %s: %s: %w", s.what(), old, s.value, s.remedy(err), err)
	}
	return true, nil
}

// Tune sets what a Tuning asks for and says what it changed, a text each, and what
// it could not, an error each. Nothing that has its value already is written, so
// that a node with a read-only /proc/sys can be prepared from outside, and one
// thing that cannot be set does not stop the others.
func Tune(t Tuning) (changed []string, errs []error) {
	for _, s := range t.settings(runtime.NumCPU()) {
		switch wrote, err := s.apply(); {
		case err != nil:
			errs = append(errs, err)
		case wrote:
			changed = append(changed, s.name+"="+s.value)
		}
	}
	return changed, errs
}

func writeSysctl(name, value string) error {
	path, err := sysctlPath(name)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value + "\n")
	return errors.Join(err, f.Close())
}

// sysctlPath is where a sysctl stands. A few settings that are none have their
// whole path for a name.
func sysctlPath(name string) (string, error) {
	if name == oomScore || name == conntrackHashsize {
		return name, nil
	}
	path := name
	if !strings.Contains(name, "/") {
		path = strings.ReplaceAll(name, ".", "/")
	}
	if name == "" || !filepath.IsLocal(path) {
		return "", errors.New("not a sysctl's name such as net.ipv4.ip_forward")
	}
	return filepath.Join("/proc/sys", path), nil
}

// what a setting is, for people.
func (s setting) what() string {
	if strings.HasPrefix(s.name, "/") {
		return s.name
	}
	return "sysctl " + s.name
}

func (s setting) remedy(err error) string {
	if s.name == oomScore && errors.Is(err, os.ErrPermission) {
		return "needs CAP_SYS_RESOURCE; the priority class system-node-critical has the kubelet set -997"
	}
	return remedy(err)
}

func remedy(err error) string {
	switch {
	case errors.Is(err, syscall.EROFS):
		return "/proc/sys is read-only here: set it on the host, or run with a writable /proc/sys (privileged)"
	case errors.Is(err, os.ErrPermission):
		return "needs root with CAP_NET_ADMIN over this network namespace: set it on the host, or run privileged"
	case errors.Is(err, os.ErrNotExist):
		return "this kernel does not have it: load the module that brings it"
	case errors.Is(err, syscall.EINVAL):
		return "the kernel refuses this value"
	}
	return "the kernel refuses"
}

// ConntrackLiberal reports whether conntrack takes TCP segments outside the
// window as valid (nf_conntrack_tcp_be_liberal), so that nothing is INVALID for
// that reason. False if conntrack is not loaded.
func ConntrackLiberal() bool {
	value, err := Sysctl(conntrackLiberal)
	return err == nil && value != "0"
}

// Flows is how many connections the kernel tracks, and how many it would. An error if
// conntrack is not loaded.
func Flows() (count, limit int, err error) {
	for name, n := range map[string]*int{"net.netfilter.nf_conntrack_count": &count, conntrackMax: &limit} {
		value, err := Sysctl(name)
		if err == nil {
			*n, err = strconv.Atoi(value)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("count connections: %w", err)
		}
	}
	return count, limit, nil
}

// HasInterface reports whether the machine has an interface of that name.
func HasInterface(name string) bool {
	_, err := netlink.LinkByName(name)
	return err == nil
}

// RouteLocalnet reports whether the kernel routes packets between loopback
// addresses and other machines on all interfaces.
func RouteLocalnet() (bool, error) {
	value, err := Sysctl(localnet)
	return value != "" && value != "0", err
}

// DisableRouteLocalnet undoes EnableRouteLocalnet.
func DisableRouteLocalnet() (changed bool, err error) { return SetSysctl(localnet, "0") }

// EnableRouteLocalnet lets NodePorts answer on 127.0.0.0/8: it makes the kernel
// route packets between loopback addresses and other machines
// (net.ipv4.conf.all.route_localnet). Whoever calls it must drop such packets
// that come from outside (CVE-2020-8558). It reports whether it changed anything.
func EnableRouteLocalnet() (changed bool, err error) {
	return SetSysctl(localnet, "1")
}

// HasFamily reports whether the kernel speaks a family. IPv6 is off if it is
// compiled out, disabled at boot (ipv6.disable=1), or disabled by sysctl.
func HasFamily(family proxier.Family) bool {
	if family != proxier.IPv6 {
		return family == proxier.IPv4
	}
	// Of this thread, as /proc/sys/net is: /proc/net is that of the first thread.
	if _, err := os.Stat("/proc/thread-self/net/if_inet6"); err != nil {
		return false
	}
	disabled, err := Sysctl("net.ipv6.conf.all.disable_ipv6")
	return err == nil && disabled != "1"
}

// DefaultName is the node's name where none is configured: the host name as the
// kubelet takes it, trimmed and in lower case.
func DefaultName() (string, error) {
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("find the node's name: %w; set --hostname-override", err)
	}
	name = strings.ToLower(strings.TrimSpace(name))
	if name == "" {
		return "", errors.New("find the node's name: the host name is empty; set --hostname-override")
	}
	return name, nil
}
