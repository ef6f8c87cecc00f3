package dummy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/ipvs/bounded"
	"switchyard/proxier"
)

const (
	defaultName    = "kube-ipvs0"
	defaultTimeout = 5 * time.Second
)

// Options are those of Open.
type Options struct {
	// Name is the device's; "": kube-ipvs0.
	Name string
	// Timeout bounds the wait for one answer of the kernel. 0: 5 s.
	Timeout time.Duration
}

// Kernel is the device in the network namespace in which it was opened. Both
// families share the device; each may have a Kernel of its own. Its methods may be
// called from several goroutines; they go to the kernel one after the other, and
// each waits no longer than Options.Timeout for an answer. After ErrNoAnswer the
// next call connects again, in the network namespace of its thread.
type Kernel struct {
	name       string
	line       *bounded.Line[*bounded.Socket]
	watch      *bounded.Subscription
	operations atomic.Int64

	mu      sync.Mutex
	index   uint32                       // of the device; 0: not known
	left    map[proxier.Family]addresses // as read and changed last; a family that was never read is missing
	suspect bool                         // something was heard that has not been looked at
}

type addresses map[netip.Addr]bool

// Open begins to watch the device and writes nothing.
func Open(o Options) (*Kernel, error) {
	if o.Name == "" {
		o.Name = defaultName
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	watch, err := bounded.Subscribe(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR)
	if err != nil {
		return nil, &OpError{Op: "watch", Device: o.Name, Err: err}
	}
	open := func() (*bounded.Socket, error) { return bounded.Open(unix.NETLINK_ROUTE, o.Timeout) }
	return &Kernel{
		name: o.Name, line: bounded.NewLine(o.Timeout, open), watch: watch,
		left: map[proxier.Family]addresses{},
	}, nil
}

// Close ends the use of the kernel and leaves the device as it is.
func (k *Kernel) Close() {
	k.line.Close()
	k.watch.Close()
}

// Operations is the number of messages that wrote so far, failed ones included.
func (k *Kernel) Operations() int64 { return k.operations.Load() }

// Ensure makes the device if it is not there and reports whether it did. It stays
// down: its addresses are local all the same, and other programs that look for the
// node's addresses leave it out. ErrForeign: the name belongs to another kind of
// device. ErrNoModule: the kernel has no dummy devices.
func (k *Kernel) Ensure() (created bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d, err := k.find()
	if errors.Is(err, ErrNoDevice) {
		err = k.write(newLink(k.name))
		created = err == nil
		if created || errors.Is(err, unix.EEXIST) { // the other family may be as far
			d, err = k.find()
		}
	}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		err = fmt.Errorf("%w: %w", ErrNoModule, err)
	case err == nil && d.kind != "dummy":
		err = fmt.Errorf("%w: its kind is %q", ErrForeign, d.kind)
	}
	if err != nil {
		return false, k.failed("create", err)
	}
	k.index = d.index
	return created, nil
}

// Delete deletes the device with its addresses. One that is gone is no error.
// ErrForeign: the name belongs to another kind of device, which is left alone.
func (k *Kernel) Delete() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	d, err := k.find()
	if err == nil && d.kind != "dummy" {
		err = fmt.Errorf("%w: its kind is %q", ErrForeign, d.kind)
	}
	if err == nil {
		err = k.write(delLink(d.index))
	}
	if errors.Is(err, ErrNoDevice) {
		err = nil
	}
	if err == nil {
		k.index = 0
		clear(k.left)
	}
	return k.failed("delete", err)
}

// Addresses returns the addresses of one family that the device has, sorted,
// whoever gave them; none if there is no device. Link-local addresses, which the
// kernel gives by itself to a device that is up, are left out.
func (k *Kernel) Addresses(f proxier.Family) ([]netip.Addr, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	found, err := k.read(f)
	if err != nil {
		return nil, k.failed("list addresses", err)
	}
	k.left[f] = found
	list := make([]netip.Addr, 0, len(found))
	for addr := range found {
		list = append(list, addr)
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return list, nil
}

// Change adds and deletes addresses, each by itself (/32 or /128), without a search
// for duplicates. One that is there already, or gone already, is no error. One in
// both lists is added. ErrNoDevice: there is no device.
func (k *Kernel) Change(add, del []netip.Addr) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(add)+len(del) == 0 {
		return nil
	}
	if k.index == 0 {
		d, err := k.find()
		if err != nil {
			return k.failed("change addresses", err)
		}
		k.index = d.index
	}
	added := make(addresses, len(add))
	for _, addr := range add {
		added[addr] = true
	}
	del = slices.DeleteFunc(slices.Clone(del), func(addr netip.Addr) bool { return added[addr] })
	err := k.add(add)
	if err == nil {
		err = k.del(del)
	}
	if errors.Is(err, ErrNoDevice) {
		k.index = 0
	}
	return k.failed("change addresses", err)
}

func (k *Kernel) add(list []netip.Addr) error {
	requests := make([][]byte, len(list))
	for i, addr := range list {
		requests[i] = newAddress(k.index, addr)
		k.note(addr, true)
	}
	_, err := k.send(requests, unix.EEXIST)
	return at(list, err)
}

// del looks for the length of an address that is not there by itself.
func (k *Kernel) del(list []netip.Addr) error {
	requests := make([][]byte, len(list))
	for i, addr := range list {
		requests[i] = delAddress(k.index, netip.PrefixFrom(addr, addr.BitLen()))
		k.note(addr, false)
	}
	refused, err := k.send(requests, unix.EADDRNOTAVAIL)
	odd := pick(list, refused)
	if err != nil || !slices.ContainsFunc(odd, netip.Addr.Is6) {
		return at(list, err)
	}
	prefixes, err := k.prefixes(proxier.IPv6)
	if err != nil {
		return err
	}
	prefixes = slices.DeleteFunc(prefixes, func(p netip.Prefix) bool { return !slices.Contains(odd, p.Addr()) })
	requests = requests[:0]
	for _, p := range prefixes {
		requests = append(requests, delAddress(k.index, p))
	}
	_, err = k.send(requests, unix.EADDRNOTAVAIL)
	return err
}

func (k *Kernel) note(addr netip.Addr, there bool) {
	left := k.left[proxier.FamilyOf(addr)]
	switch {
	case left == nil:
	case there:
		left[addr] = true
	default:
		delete(left, addr)
	}
}

// Drifted says what is no longer as Addresses found it and Change left it, "" if
// nothing. It costs one system call as long as nobody touches the device, and a
// list of its addresses once after each Change.
func (k *Kernel) Drifted() (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	lost, err := k.watch.Pending(func(typ uint16, data []byte) {
		k.suspect = k.suspect || k.concerns(typ, data)
	})
	if err != nil {
		return "", k.failed("watch", err)
	}
	k.suspect = k.suspect || lost
	if !k.suspect || len(k.left) == 0 {
		return "", nil
	}
	text, err := k.compare()
	if err != nil {
		return "", k.failed("look for changes", err)
	}
	k.suspect = text != ""
	return text, nil
}

// concerns reports whether a change may be one of the device. Struct ifinfomsg and
// struct ifaddrmsg have the index at the same place.
func (k *Kernel) concerns(typ uint16, data []byte) bool {
	switch typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return len(data) >= 8 && (k.index == 0 || bounded.Uint32(data[4:]) == k.index)
	}
	return false
}

func (k *Kernel) compare() (string, error) {
	switch d, err := k.find(); {
	case errors.Is(err, ErrNoDevice):
		return "device " + k.name + " is gone", nil
	case err != nil:
		return "", err
	case k.index != 0 && d.index != k.index:
		return "device " + k.name + " is another one", nil
	}
	var found []string
	for _, f := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		if k.left[f] == nil {
			continue
		}
		now, err := k.read(f)
		if err != nil {
			return "", err
		}
		found = append(found, missing(k.left[f], now, "%d addresses of "+k.name+" are gone, %s among them")...)
		found = append(found, missing(now, k.left[f], "%d foreign addresses are on "+k.name+", %s among them")...)
	}
	return strings.Join(found, "; "), nil
}

// missing says how many addresses of one list are not in the other, and names the
// lowest.
func missing(from, in addresses, format string) []string {
	var gone []netip.Addr
	for addr := range from {
		if !in[addr] {
			gone = append(gone, addr)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return []string{fmt.Sprintf(format, len(gone), slices.MinFunc(gone, netip.Addr.Compare))}
}

func (k *Kernel) read(f proxier.Family) (addresses, error) {
	d, err := k.find()
	if errors.Is(err, ErrNoDevice) {
		return addresses{}, nil
	}
	if err != nil {
		return nil, err
	}
	k.index = d.index
	prefixes, err := k.prefixes(f)
	found := make(addresses, len(prefixes))
	for _, p := range prefixes {
		found[p.Addr()] = true
	}
	return found, err
}

// prefixes are the addresses that the device has, without link-local ones.
func (k *Kernel) prefixes(f proxier.Family) ([]netip.Prefix, error) {
	var list []netip.Prefix
	index := k.index
	err := k.ask(getAddresses(index, f), func() { list = nil }, func(data []byte) {
		if p, i := parseAddress(data); i == index && p.IsValid() && !p.Addr().IsLinkLocalUnicast() {
			list = append(list, p)
		}
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

func (k *Kernel) find() (device, error) {
	var d device
	err := k.ask(getLink(k.name), func() {}, func(data []byte) { d = parseLink(data) })
	if err != nil {
		return device{}, err
	}
	return d, nil
}

func (k *Kernel) ask(question []byte, start func(), item func([]byte)) error {
	return explain(k.line.Call(func(s *bounded.Socket) error {
		return s.Ask(question, start, func(data []byte) error {
			item(data)
			return nil
		})
	}))
}

func (k *Kernel) write(request []byte) error {
	_, err := k.send([][]byte{request})
	var r *refusal
	if errors.As(err, &r) {
		return r.error
	}
	return err
}

// refusal is the kernel's error for one request of several.
type refusal struct {
	place int
	error
}

func (r *refusal) Unwrap() error { return r.error }

// send sends requests and returns the places of those that failed in the way that
// is expected, and the first of all other errors, a *refusal if it is of one request.
func (k *Kernel) send(requests [][]byte, expected ...unix.Errno) ([]int, error) {
	if len(requests) == 0 {
		return nil, nil
	}
	k.operations.Add(int64(len(requests)))
	var refused []int
	var first *refusal
	err := k.line.Call(func(s *bounded.Socket) error {
		request := func(b []byte, i int) []byte { return append(b, requests[i]...) }
		return s.Batch(len(requests), request, func(i int, err error, _ []byte) {
			errno, _ := err.(unix.Errno)
			switch {
			case err == nil:
			case slices.Contains(expected, errno):
				refused = append(refused, i)
			case first == nil:
				first = &refusal{i, explain(err)}
			}
		})
	})
	if err != nil {
		return nil, explain(err)
	}
	if first != nil {
		return refused, first
	}
	return refused, nil
}

// at names the address that was refused.
func at(list []netip.Addr, err error) error {
	var r *refusal
	if errors.As(err, &r) && r.place < len(list) {
		return fmt.Errorf("%s: %w", list[r.place], r.error)
	}
	return err
}

func pick(list []netip.Addr, places []int) []netip.Addr {
	picked := make([]netip.Addr, len(places))
	for i, p := range places {
		picked[i] = list[p]
	}
	return picked
}

func (k *Kernel) failed(op string, err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: op, Device: k.name, Err: err}
}
