package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is one network namespace.
type Host struct {
	lab  *Lab
	name string
	ns   netns.NsHandle
	nl   *netlink.Handle
}

// errNoReturn is what Do answers when its function ended the goroutine, as
// testing.T.Fatal does.
var errNoReturn = errors.New("the function did not return")

// AddHost makes a host with nothing but a loopback interface that is up.
func (l *Lab) AddHost(name string) (*Host, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("add host %s: the lab is closed", name)
	}
	if l.hosts[name] != nil {
		return nil, fmt.Errorf("add host %s: there is one already", name)
	}
	h := &Host{lab: l, name: name, ns: netns.None()}
	if err := h.create(); err != nil {
		return nil, errors.Join(fmt.Errorf("add host %s: %w", name, err), h.remove())
	}
	l.hosts[name], l.order = h, append(l.order, h)
	return h, nil
}

func (h *Host) create() error {
	err := h.lab.onThread(func() (err error) {
		h.ns, err = netns.NewNamed(h.Namespace())
		return err
	})
	if err != nil {
		return fmt.Errorf("new namespace: %w", err)
	}
	if h.nl, err = netlink.NewHandleAt(h.ns, unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	if err := h.Sysctl(hostSysctls...); err != nil {
		return err
	}
	return h.up("lo")
}

// remove gives up all that keeps the namespace alive. The kernel then takes it
// down with its interfaces, within milliseconds and all hosts in one go, which
// is ten times faster than to delete the interfaces one by one.
func (h *Host) remove() error {
	if h.nl != nil {
		h.nl.Close()
	}
	if !h.ns.IsOpen() {
		return nil
	}
	return errors.Join(h.ns.Close(), unbind(h.Namespace()))
}

// Name is the host's name in its lab.
func (h *Host) Name() string { return h.name }

// Namespace is the name that `ip netns exec` takes.
func (h *Host) Namespace() string { return "sy-" + h.lab.id + "-" + h.name }

// Do runs f on a thread that is in the host's namespace. Goroutines that f
// starts are not in it; sockets that f makes stay in it for good.
func (h *Host) Do(f func() error) error {
	return h.lab.onThread(func() error {
		if err := netns.Set(h.ns); err != nil {
			return fmt.Errorf("enter namespace of %s: %w", h.name, err)
		}
		return f()
	})
}

// onThread runs f on a thread of its own that f may move to another namespace.
// A thread that cannot be brought home is never used again: it ends with its
// goroutine, which stays locked to it.
func (l *Lab) onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := errNoReturn
		defer func() {
			if home := netns.Set(l.home); home != nil {
				err = errors.Join(err, fmt.Errorf("leave namespace: %w", home))
			} else {
				runtime.UnlockOSThread()
			}
			done <- err
		}()
		err = f()
	}()
	return <-done
}

// Command prepares a program to run on the host. The process number is the
// program's own: `ip netns exec` replaces itself by it.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", h.Namespace(), name}, args...)...)
}

// Output runs a program on the host and returns what it printed. The error has
// the program's own words.
func (h *Host) Output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := h.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("on %s: %s %s: %w: %s", h.name, name,
			strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// Listen makes a listening socket on the host: network "tcp", address
// "10.180.0.11:8080". It is used from anywhere.
func (h *Host) Listen(network, addr string) (net.Listener, error) {
	var ln net.Listener
	err := h.Do(func() (err error) {
		ln, err = (&net.ListenConfig{}).Listen(context.Background(), network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("on %s: %w", h.name, err)
	}
	return ln, nil
}

// ListenPacket makes a packet socket on the host: network "udp".
func (h *Host) ListenPacket(network, addr string) (net.PacketConn, error) {
	var pc net.PacketConn
	err := h.Do(func() (err error) {
		pc, err = (&net.ListenConfig{}).ListenPacket(context.Background(), network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("on %s: %w", h.name, err)
	}
	return pc, nil
}

// Dial connects from the host: network "tcp" or "udp". Where src has no
// address, routing chooses it; where it has no port, the kernel does.
func (h *Host) Dial(ctx context.Context, network string, src, dst netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{}
	if src.IsValid() && network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(src)
	} else if src.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(src)
	}
	var conn net.Conn
	err := h.Do(func() (err error) {
		conn, err = d.DialContext(ctx, network, dst.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("on %s: %w", h.name, err)
	}
	return conn, nil
}

// Setting is one kernel parameter: a path below /proc/sys and its value.
type Setting struct {
	Path, Value string
	// Optional: this kernel may not have it.
	Optional bool
}

// Sysctl sets kernel parameters of the host's own namespace.
func (h *Host) Sysctl(settings ...Setting) error {
	return h.Do(func() error {
		for _, s := range settings {
			err := os.WriteFile("/proc/sys/"+s.Path, []byte(s.Value), 0o644)
			if err != nil && !(s.Optional && errors.Is(err, os.ErrNotExist)) {
				return fmt.Errorf("on %s: set %s to %s: %w", h.name, s.Path, s.Value, err)
			}
		}
		return nil
	})
}

// ForgetFlows empties the host's connection tracking. A flow that began before
// rules changed keeps its translation, and so does a later one from the same
// port, for as long as conntrack remembers (a lone SYN: two minutes).
func (h *Host) ForgetFlows() error {
	nl, err := netlink.NewHandleAt(h.ns, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("on %s: netlink: %w", h.name, err)
	}
	defer nl.Close()
	if err := nl.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		return fmt.Errorf("on %s: empty conntrack: %w", h.name, err)
	}
	return nil
}
