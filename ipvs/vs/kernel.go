package vs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"github.com/moby/ipvs"
	"golang.org/x/sys/unix"

	"switchyard/ipvs/bounded"
	"switchyard/proxier"
)

const defaultTimeout = 5 * time.Second

// Options are those of Open.
type Options struct {
	// Timeout bounds the wait for one answer of the kernel. 0: 5 s.
	Timeout time.Duration
}

// Kernel is the kernel's table of virtual servers, both families, of the network
// namespace in which it was opened. Its methods may be called from several
// goroutines; they go to the kernel one after the other, and each waits for an
// answer no longer than Options.Timeout. After ErrNoAnswer the next call connects
// again, in the network namespace of its thread.
type Kernel struct {
	line       *bounded.Line[*handle]
	timeout    time.Duration
	operations atomic.Int64
}

// Open finds IPVS in the kernel, loads its module if it must, and changes nothing
// else. ErrNoModule: there is none; an error that is fs.ErrPermission:
// CAP_NET_ADMIN is missing.
func Open(o Options) (*Kernel, error) {
	k := &Kernel{timeout: o.Timeout}
	if k.timeout <= 0 {
		k.timeout = defaultTimeout
	}
	k.line = bounded.NewLine(k.timeout, func() (*handle, error) { return connect(k.timeout) })
	if _, err := k.Timeouts(); err != nil { // the cheapest question that needs the capability
		k.Close()
		return nil, err
	}
	return k, nil
}

// Close ends the use of the kernel and leaves its table as it is.
func (k *Kernel) Close() { k.line.Close() }

// Operations is the number of writes so far, failed ones included. Adding what
// exists, or updating what is gone, is two.
func (k *Kernel) Operations() int64 { return k.operations.Load() }

// Servers returns all virtual servers of a family, foreign ones included. Somebody
// who adds or deletes servers meanwhile, of whichever family, can make the kernel
// miss some; adding one that exists is no error, so nothing is lost by it.
func (k *Kernel) Servers(f proxier.Family) (map[Key]Server, error) {
	var list []*ipvs.Service
	err := k.do(func(h *handle) (err error) {
		list, err = h.GetServices()
		return err
	})
	if err != nil {
		return nil, &OpError{Op: "list servers", Err: err}
	}
	servers := make(map[Key]Server, len(list))
	for _, s := range list {
		if key := keyOf(s); key.Family == f {
			servers[key] = serverOf(s)
		}
	}
	return servers, nil
}

// Destinations returns those of one virtual server, none if there is no such server.
func (k *Kernel) Destinations(key Key) ([]Counted, error) {
	all, err := k.AllDestinations([]Key{key})
	return all[key], err
}

// AllDestinations returns those of several virtual servers. The kernel is asked for
// each, but faster than by Destinations.
func (k *Kernel) AllDestinations(keys []Key) (map[Key][]Counted, error) {
	all := make(map[Key][]Counted, len(keys))
	err := k.do(func(h *handle) error {
		for _, key := range keys {
			list, err := h.GetDestinations(question(key))
			if err != nil {
				return err
			}
			h.progress.Add(1)
			all[key] = counted(list)
		}
		return nil
	})
	if err != nil {
		return nil, &OpError{Op: "list destinations", Err: err}
	}
	return all, nil
}

// Add adds a virtual server, or updates it if it exists. ErrNoScheduler: the kernel
// does not have its scheduler, and the server is as it was before.
func (k *Kernel) Add(key Key, s Server) error {
	return k.one(Write{Op: AddServer, Key: key, Server: s})
}

// Update changes a virtual server and keeps its connections; one that is gone is
// added. Errors are those of Add.
func (k *Kernel) Update(key Key, s Server) error {
	return k.one(Write{Op: UpdateServer, Key: key, Server: s})
}

// Delete deletes a virtual server with its destinations. One that is gone is no
// error.
func (k *Kernel) Delete(key Key) error { return k.one(Write{Op: DeleteServer, Key: key}) }

// AddDestination adds a destination, or updates it if it exists. ErrNoServer: there
// is no such virtual server.
func (k *Kernel) AddDestination(key Key, d Destination) error {
	return k.one(Write{Op: AddDestination, Key: key, Destination: d})
}

// UpdateDestination changes a destination's weight and keeps its connections; one
// that is gone is added. ErrNoServer: there is no such virtual server.
func (k *Kernel) UpdateDestination(key Key, d Destination) error {
	return k.one(Write{Op: UpdateDestination, Key: key, Destination: d})
}

// DeleteDestination deletes a destination; its weight does not matter. One that is
// gone, or whose server is, is no error.
func (k *Kernel) DeleteDestination(key Key, d Destination) error {
	return k.one(Write{Op: DeleteDestination, Key: key, Destination: d})
}

func (k *Kernel) one(w Write) error {
	if failures := k.Batch([]Write{w}); len(failures) > 0 {
		return failures[0]
	}
	return nil
}

// Batch makes changes in order, many in one system call. One that the kernel refuses
// stops no other. The failures are returned in the order of the writes, each an
// *OpError; one that is ErrNoAnswer or ErrNoModule comes alone, and what of the
// writes is done is not known then.
func (k *Kernel) Batch(writes []Write) []error {
	answers, err := k.send(writes)
	if err != nil {
		return []error{&OpError{Op: "write", Err: err}}
	}
	places, second := again(writes, answers)
	later, err := k.send(second)
	if err != nil {
		return []error{&OpError{Op: "write", Err: err}}
	}
	for i, place := range places {
		answers[place] = later[i]
	}
	var failures []error
	for i, w := range writes {
		if err := w.failure(answers[i]); err != nil {
			failures = append(failures, err)
		}
	}
	return failures
}

// send returns what the kernel, or check before it, said to each write.
func (k *Kernel) send(writes []Write) ([]error, error) {
	answers := make([]error, len(writes))
	var places []int
	for i, w := range writes {
		if answers[i] = w.check(); answers[i] == nil {
			places = append(places, i)
		}
	}
	if len(places) == 0 {
		return answers, nil
	}
	k.operations.Add(int64(len(places)))
	said := make([]error, len(places)) // not answers: after ErrNoAnswer it may still be written
	err := k.do(func(h *handle) error {
		doubt := false
		request := func(b []byte, i int) []byte { return writes[places[i]].append(b, h.family) }
		err := h.socket.Batch(len(places), request, func(i int, err error, _ []byte) {
			said[i] = err
			doubt = doubt || errors.Is(err, unix.ENOENT)
		})
		if err == nil && doubt {
			err = h.confirm(k.timeout)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, place := range places {
		answers[place] = said[i]
	}
	return answers, nil
}

// Timeouts reads the timeouts of the network namespace.
func (k *Kernel) Timeouts() (Timeouts, error) {
	var c *ipvs.Config
	err := k.do(func(h *handle) (err error) {
		c, err = h.GetConfig()
		return err
	})
	if err != nil {
		return Timeouts{}, &OpError{Op: "read timeouts", Err: err}
	}
	return Timeouts{TCP: c.TimeoutTCP, TCPFin: c.TimeoutTCPFin, UDP: c.TimeoutUDP}, nil
}

// SetTimeouts writes the timeouts of the network namespace. 0 leaves a value as it is.
func (k *Kernel) SetTimeouts(t Timeouts) error {
	err := t.check()
	if err == nil {
		k.operations.Add(1)
		c := &ipvs.Config{TimeoutTCP: t.TCP, TimeoutTCPFin: t.TCPFin, TimeoutUDP: t.UDP}
		err = k.do(func(h *handle) error { return h.SetConfig(c) })
	}
	if err != nil {
		return &OpError{Op: "set timeouts", Err: err}
	}
	return nil
}

// do makes one call. ENOENT for a whole call can only mean that IPVS is gone.
func (k *Kernel) do(f func(*handle) error) error {
	return k.line.Call(func(h *handle) error {
		err := f(h)
		switch {
		case errors.Is(err, unix.EPERM):
			return fmt.Errorf("%w: needs CAP_NET_ADMIN", err)
		case errors.Is(err, unix.ENOENT):
			return errors.Join(h.confirm(k.timeout), err)
		}
		return err
	})
}

// handle is a connection to IPVS: the library's, for questions and timeouts, and a
// socket of our own for writes in batches, which the library cannot do. The library
// waits for an answer without end; closing its socket ends the wait.
type handle struct {
	*ipvs.Handle
	socket   *bounded.Socket
	family   uint16 // the number under which IPVS answers
	progress atomic.Int64
}

// connect makes sure that the kernel knows IPVS before it calls the library, which
// asks once in a process and then goes on with what it was told, be it "no".
func connect(timeout time.Duration) (*handle, error) {
	s, err := bounded.Open(unix.NETLINK_GENERIC, timeout)
	if err != nil {
		return nil, err
	}
	family, err := genericFamily(s)
	if errors.Is(err, unix.ENOENT) {
		loaded := modprobe(timeout)
		if family, err = genericFamily(s); err != nil {
			err = errors.Join(ErrNoModule, loaded)
		}
	}
	var library *ipvs.Handle
	if err == nil {
		library, err = ipvs.New("")
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &handle{Handle: library, socket: s, family: family}, nil
}

// Progress counts answers as far as they are known.
func (h *handle) Progress() int64 { return h.progress.Load() + h.socket.Progress() }

// Interrupt makes the library's wait fail.
func (h *handle) Interrupt() { h.Handle.Close() }

// Close closes both sockets.
func (h *handle) Close() {
	h.Handle.Close()
	h.socket.Close()
}

// confirm tells the two meanings of ENOENT apart: something is not there, or all of
// IPVS is not, or not under the number that it had, which the library keeps for ever.
func (h *handle) confirm(timeout time.Duration) error {
	s, err := bounded.Open(unix.NETLINK_GENERIC, timeout)
	if err != nil {
		return err
	}
	defer s.Close()
	family, err := genericFamily(s)
	if errors.Is(err, unix.ENOENT) || err == nil && family != h.family {
		return fmt.Errorf("%w: it was unloaded since this program started; start it again", ErrNoModule)
	}
	return err
}

// genericFamily asks for the number under which IPVS answers. Linux 5.11 and newer
// load the module for it.
func genericFamily(s *bounded.Socket) (id uint16, err error) {
	request := bounded.Request(unix.GENL_ID_CTRL, 0, unix.CTRL_CMD_GETFAMILY, version, 0, 0)
	request = bounded.Text(request, unix.CTRL_ATTR_FAMILY_NAME, "IPVS")
	err = s.Ask(request, func() {}, func(data []byte) error {
		for typ, value := range bounded.Attributes(data[min(unix.GENL_HDRLEN, len(data)):]) {
			if typ == unix.CTRL_ATTR_FAMILY_ID {
				id = bounded.Uint16(value)
			}
		}
		return nil
	})
	return id, err
}

func modprobe(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "modprobe", "ip_vs").CombinedOutput()
	if err != nil {
		return fmt.Errorf("modprobe ip_vs: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// From our values to the library's and back.

// question names a server to the library.
func question(key Key) *ipvs.Service {
	s := &ipvs.Service{
		AddressFamily: unix.AF_INET,
		Protocol:      uint16(key.Protocol),
		Port:          key.Addr.Port(),
		FWMark:        key.Mark,
	}
	if key.Addr.IsValid() {
		s.Address = net.IP(key.Addr.Addr().AsSlice())
	}
	if key.Family == proxier.IPv6 {
		s.AddressFamily = unix.AF_INET6
	}
	return s
}

func keyOf(s *ipvs.Service) Key {
	key := Key{Family: proxier.IPv4, Mark: s.FWMark}
	if s.AddressFamily == unix.AF_INET6 {
		key.Family = proxier.IPv6
	}
	if addr, ok := netip.AddrFromSlice(s.Address); ok && s.FWMark == 0 {
		key.Protocol, key.Addr = proxier.Protocol(s.Protocol), netip.AddrPortFrom(addr, s.Port)
	}
	return key
}

func serverOf(s *ipvs.Service) Server {
	out := Server{Scheduler: s.SchedName, Flags: Flags(s.Flags &^ (flagPersistent | flagHashed))}
	if s.Flags&flagPersistent == 0 {
		return out
	}
	out.Persistence = time.Duration(s.Timeout) * time.Second
	whole := uint32(wholeIPv4)
	if s.AddressFamily == unix.AF_INET6 {
		whole = wholeIPv6
	}
	out.odd = s.Timeout == 0 || s.Netmask != whole
	return out
}

func counted(list []*ipvs.Destination) []Counted {
	out := make([]Counted, len(list))
	for i, d := range list {
		addr, _ := netip.AddrFromSlice(d.Address)
		out[i] = Counted{
			Destination: Destination{
				Addr:   netip.AddrPortFrom(addr, d.Port),
				Weight: d.Weight,
				odd: d.ConnectionFlags&ipvs.ConnectionFlagFwdMask != ipvs.ConnectionFlagMasq ||
					d.UpperThreshold != 0 || d.LowerThreshold != 0,
			},
			Active:   d.ActiveConnections,
			Inactive: d.InactiveConnections,
		}
	}
	return out
}
