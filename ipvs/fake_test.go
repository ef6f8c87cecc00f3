package ipvs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"unsafe"

	"switchyard/iptables/ruleset"
	"switchyard/ipvs/dummy"
	"switchyard/ipvs/ipset"
	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

// fakeKernel is what the backend stands on, in memory, for one family.
type fakeKernel struct {
	servers map[vs.Key]*fakeServer
	sets    map[string]*fakeSet
	device  bool
	addrs   map[netip.Addr]bool
	chains  map[chainID][]string
	sysctl  map[string]string

	noScheduler map[string]bool
	writes      int64
	log         []string              // every write, as "add server TCP 10.0.0.1:80"
	fault       func(op string) error // asked before every call
	stamp       uint32
}

type fakeServer struct {
	vs.Server
	pool map[netip.AddrPort]vs.Counted
}

type fakeSet struct {
	ipset.Set
	entries map[ipset.Entry]bool
}

func newFake() *fakeKernel {
	k := &fakeKernel{
		servers: map[vs.Key]*fakeServer{}, sets: map[string]*fakeSet{}, addrs: map[netip.Addr]bool{},
		chains: map[chainID][]string{}, noScheduler: map[string]bool{},
		sysctl: map[string]string{
			"net/ipv4/vs/conntrack": "0", "net/ipv4/vs/expire_nodest_conn": "0",
			"net/ipv4/vs/expire_quiescent_template": "0", "net/ipv4/vs/conn_reuse_mode": "1",
		},
	}
	for table, names := range map[string][]string{
		"mangle": {"PREROUTING", "OUTPUT"}, "nat": {"PREROUTING", "OUTPUT", "POSTROUTING"}, "filter": {"INPUT", "FORWARD", "OUTPUT"},
	} {
		for _, name := range names {
			k.chains[chainID{table, name}] = []string{"-p tcp -m tcp --dport 22 -j ACCEPT"}
		}
	}
	return k
}

// backend is a backend as after a start of the process.
func (k *fakeKernel) backend(family proxier.Family) *Backend {
	return &Backend{
		family: family, config: Config{MasqueradeBit: 14, RandomFully: true, Scheduler: "rr"},
		servers: fakeServers{k}, sets: fakeSets{k}, device: fakeDevice{k}, rules: fakeRules{k},
		hasher: ruleset.NewHasher(), tuner: fakeSysctls{k}, log: slog.New(slog.DiscardHandler),
		since: map[vs.Key]leavings{},
	}
}

func (k *fakeKernel) ask(op string) error {
	if k.fault != nil {
		return k.fault(op)
	}
	return nil
}

func (k *fakeKernel) write(op string, args ...any) error {
	for _, a := range args {
		op += " " + fmt.Sprint(a)
	}
	k.writes++
	err := k.ask(op)
	if err == nil {
		k.log = append(k.log, op)
	}
	return err
}

// String is all that it holds, sorted: two kernels that hold the same print the same.
func (k *fakeKernel) String() string {
	var lines []string
	for key, s := range k.servers {
		lines = append(lines, fmt.Sprintf("server %s %s", key, s.Server))
		for _, d := range s.pool {
			lines = append(lines, fmt.Sprintf("server %s -> %s weight %d", key, d.Addr, d.Weight))
		}
	}
	for name, s := range k.sets {
		lines = append(lines, "set "+name)
		for e := range s.entries {
			lines = append(lines, fmt.Sprintf("set %s %s", name, e))
		}
	}
	for a := range k.addrs {
		lines = append(lines, "address "+a.String())
	}
	for id, rules := range k.chains {
		lines = append(lines, fmt.Sprintf("chain %s %s\n%s", id.table, id.name, strings.Join(rules, "\n")))
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

type fakeServers struct{ *fakeKernel }

func (k fakeServers) Servers(f proxier.Family) (map[vs.Key]vs.Server, error) {
	out := map[vs.Key]vs.Server{}
	for key, s := range k.servers {
		if key.Family == f {
			out[key] = s.Server
		}
	}
	return out, k.ask("list servers")
}

func (k fakeServers) Destinations(key vs.Key) ([]vs.Counted, error) {
	if err := k.ask("list destinations " + key.String()); err != nil || k.servers[key] == nil {
		return nil, err
	}
	return slices.Collect(maps.Values(k.servers[key].pool)), nil
}

func (k fakeServers) put(op string, key vs.Key, s vs.Server) error {
	if err := k.write(op, key, s); err != nil {
		return err
	}
	if k.noScheduler[s.Scheduler] {
		return fmt.Errorf("%w: %s", vs.ErrNoScheduler, s.Scheduler)
	}
	if k.servers[key] == nil {
		k.servers[key] = &fakeServer{pool: map[netip.AddrPort]vs.Counted{}}
	}
	k.servers[key].Server = s
	return nil
}

func (k fakeServers) Add(key vs.Key, s vs.Server) error    { return k.put("add server", key, s) }
func (k fakeServers) Update(key vs.Key, s vs.Server) error { return k.put("update server", key, s) }

func (k fakeServers) Delete(key vs.Key) error {
	err := k.write("delete server", key)
	if err == nil {
		delete(k.servers, key)
	}
	return err
}

func (k fakeServers) putDestination(op string, key vs.Key, d vs.Destination) error {
	if err := k.write(op, key, d.Addr, d.Weight); err != nil {
		return err
	}
	s := k.servers[key]
	if s == nil {
		return vs.ErrNoServer
	}
	counted := s.pool[d.Addr]
	counted.Destination = d
	s.pool[d.Addr] = counted
	return nil
}

func (k fakeServers) AddDestination(key vs.Key, d vs.Destination) error {
	return k.putDestination("add destination", key, d)
}

func (k fakeServers) UpdateDestination(key vs.Key, d vs.Destination) error {
	return k.putDestination("update destination", key, d)
}

func (k fakeServers) DeleteDestination(key vs.Key, d vs.Destination) error {
	err := k.write("delete destination", key, d.Addr)
	if s := k.servers[key]; err == nil && s != nil {
		delete(s.pool, d.Addr)
	}
	return err
}

// Batch makes changes in order, as the kernel does.
func (k fakeServers) Batch(writes []vs.Write) []error {
	if err := k.ask("batch"); err != nil {
		return []error{&vs.OpError{Op: "write", Err: err}}
	}
	var errs []error
	for _, w := range writes {
		err := k.one(w)
		if errors.Is(err, vs.ErrNoAnswer) {
			return []error{&vs.OpError{Op: "write", Err: err}}
		}
		if err != nil {
			errs = append(errs, &vs.OpError{Op: w.Op.String(), Key: w.Key, Destination: w.Destination, Err: err})
		}
	}
	return errs
}

func (k fakeServers) one(w vs.Write) error {
	switch w.Op {
	case vs.AddServer:
		return k.Add(w.Key, w.Server)
	case vs.UpdateServer:
		return k.Update(w.Key, w.Server)
	case vs.DeleteServer:
		return k.Delete(w.Key)
	case vs.AddDestination:
		return k.AddDestination(w.Key, w.Destination)
	case vs.UpdateDestination:
		return k.UpdateDestination(w.Key, w.Destination)
	}
	return k.DeleteDestination(w.Key, w.Destination)
}

func (k fakeServers) Timeouts() (vs.Timeouts, error)  { return vs.Timeouts{}, nil }
func (k fakeServers) SetTimeouts(t vs.Timeouts) error { return k.write("set timeouts", t) }
func (k fakeServers) Operations() int64               { return k.writes }
func (k fakeServers) Close()                          {}

type fakeSets struct{ *fakeKernel }

func (k fakeSets) Sets() ([]ipset.Set, error) {
	var out []ipset.Set
	for _, s := range k.sets {
		out = append(out, s.Set)
	}
	return out, k.ask("list sets")
}

func (k fakeSets) Entries(name string) ([]ipset.Entry, error) {
	if err := k.ask("list set " + name); err != nil {
		return nil, err
	}
	if k.sets[name] == nil {
		return nil, ipset.ErrNoSet
	}
	return slices.Collect(maps.Keys(k.sets[name].entries)), nil
}

func (k fakeSets) Create(s ipset.Set) error {
	if is := k.sets[s.Name]; is != nil {
		if is.Type != s.Type {
			return ipset.ErrForeign
		}
		return nil
	}
	err := k.write("create set", s.Name)
	if err == nil {
		k.sets[s.Name] = &fakeSet{s, map[ipset.Entry]bool{}}
	}
	return err
}

func (k fakeSets) Change(name string, add, del []ipset.Entry) error {
	if err := k.write("change set", name, add, del); err != nil {
		return err
	}
	s := k.sets[name]
	if s == nil {
		return ipset.ErrNoSet
	}
	for _, e := range del {
		delete(s.entries, e)
	}
	for _, e := range add {
		s.entries[e] = true
	}
	return nil
}

func (k fakeSets) Destroy(name string) error {
	err := k.write("destroy set", name)
	if err == nil {
		delete(k.sets, name)
	}
	return err
}

func (k fakeSets) Operations() int64 { return 0 } // fakeServers counts all
func (k fakeSets) Close()            {}

type fakeDevice struct{ *fakeKernel }

func (k fakeDevice) Ensure() (bool, error) {
	if k.device {
		return false, k.ask("ensure device")
	}
	err := k.write("make device")
	k.fakeKernel.device = err == nil
	return err == nil, err
}

func (k fakeDevice) Addresses(f proxier.Family) ([]netip.Addr, error) {
	return slices.SortedFunc(maps.Keys(k.addrs), netip.Addr.Compare), k.ask("list addresses")
}

func (k fakeDevice) Change(add, del []netip.Addr) error {
	if err := k.write("change addresses", add, del); err != nil {
		return err
	}
	if !k.device {
		return dummy.ErrNoDevice
	}
	for _, a := range del {
		delete(k.addrs, a)
	}
	for _, a := range add {
		k.addrs[a] = true
	}
	return nil
}

func (k fakeDevice) Drifted() (string, error) {
	if !k.device {
		return "the device is gone", nil
	}
	return "", nil
}

func (k fakeDevice) Operations() int64 { return 0 }
func (k fakeDevice) Close()            {}

type fakeRules struct{ *fakeKernel }

func (k fakeRules) Save(_ context.Context, table string) ([]byte, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", table)
	for id := range k.chains {
		if id.table == table {
			fmt.Fprintf(&b, ":%s - [0:0]\n", id.name)
		}
	}
	for id, rules := range k.chains {
		for _, r := range rules {
			if id.table == table {
				fmt.Fprintf(&b, "-A %s %s\n", id.name, r)
			}
		}
	}
	b.WriteString("COMMIT\n")
	return []byte(b.String()), k.ask("save " + table)
}

func (k fakeRules) Restore(_ context.Context, input []byte) error {
	if err := k.write("restore"); err != nil {
		return err
	}
	k.fakeKernel.stamp++
	table := ""
	for line := range strings.Lines(string(input)) {
		line = strings.TrimSpace(line)
		name, rule, _ := strings.Cut(strings.TrimPrefix(line, "-A "), " ")
		switch {
		case line[0] == '*':
			table = line[1:]
		case line[0] == ':':
			k.chains[chainID{table, strings.Fields(line[1:])[0]}] = nil
		case strings.HasPrefix(line, "-A "):
			k.chains[chainID{table, name}] = append(k.chains[chainID{table, name}], rule)
		}
	}
	return nil
}

func (k fakeRules) EnsureJump(j ruleset.Jump) (bool, error) {
	text := ruleset.ParseRule(strings.Join(append(slices.Clone(j.Match), "-j", j.To), " "))
	text.Comment = j.Comment
	id := chainID{j.Table, j.From}
	if slices.Contains(k.chains[id], text.String()) {
		return false, nil
	}
	if err := k.ask("ensure jump " + j.String()); err != nil {
		return false, err
	}
	k.fakeKernel.stamp++
	k.chains[id] = append([]string{text.String()}, k.chains[id]...)
	return true, nil
}

func (k fakeRules) Stamp() (s ruleset.Stamp, err error) {
	*(*uint32)(unsafe.Pointer(&s)) = k.stamp
	return s, nil
}

type fakeSysctls struct{ *fakeKernel }

func (k fakeSysctls) read(name string) (string, error) {
	v, ok := k.sysctl[name]
	if !ok {
		return "", fmt.Errorf("read sysctl %s: no such file", name)
	}
	return v, nil
}

func (k fakeSysctls) write(name, value string) error {
	k.sysctl[name] = value
	return nil
}

func (k fakeSysctls) version() (string, error) { return "6.1.0-13-amd64", nil }
