package contest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/ipvs/dummy"
	"switchyard/ipvs/ipset"
	"switchyard/ipvs/vs"
	"switchyard/proxier"
	"switchyard/test/bench/load"
)

// bareFile is in the environment of the process that makes the bare calls: the
// benchmark's own binary, so that the calls have an account of their own. It names the
// file with what to write.
const bareFile = "PROXYBENCH_BARE"

// bare is the floor of IPVS mode: the same addresses, sets and virtual servers, added
// by netlink in as few calls as there can be. Nothing is decided and no rule written.
type bare struct {
	stage   Stage
	account *account
	done    chan struct{}
	err     error // valid once done is closed
	pods    [][]netip.Addr
	doors   doors         // for changes; zero until the first
	cpu     time.Duration // of changes
}

// calls are what one process writes, or has to read.
type calls struct {
	Read    bool
	Begin   bool // the sets and the device are not there yet
	Servers []bareServer
}

// bareServer is a virtual server whose destinations come and go.
type bareServer struct {
	VIP       netip.AddrPort
	New       bool
	Add, Gone []netip.Addr
}

func openBare(c Contestant, s Stage) (*bare, error) {
	a, err := newAccount(c.Name)
	if err != nil {
		return nil, err
	}
	return &bare{stage: s, account: a}, nil
}

// Start writes everything; a second start reads everything.
func (b *bare) Start(context.Context, Settings) error {
	b.account.begin()
	if b.done != nil {
		return b.run(calls{Read: true})
	}
	all := calls{Begin: true}
	for i := range b.stage.Load.Services {
		b.pods = append(b.pods, b.stage.Load.Pods(i))
		all.Servers = append(all.Servers, bareServer{VIP: load.VIP(i), New: true, Add: b.pods[i]})
	}
	b.done = make(chan struct{})
	go func() {
		defer close(b.done)
		b.err = b.run(all)
	}()
	return nil
}

// Changed writes the destinations of service i that are not as they stand. A program
// that watches does not start anew for each change: the calls are this process's, which
// does nothing else meanwhile, and so is their CPU time.
func (b *bare) Changed(_ context.Context, i int) (time.Time, error) {
	change := bareServer{VIP: load.VIP(i)}
	was := map[netip.Addr]bool{}
	for _, a := range b.pods[i] {
		was[a] = true
	}
	b.pods[i] = b.stage.Load.Pods(i)
	for _, a := range b.pods[i] {
		if !was[a] {
			change.Add = append(change.Add, a)
		}
		delete(was, a)
	}
	for a := range was {
		change.Gone = append(change.Gone, a)
	}
	if b.doors == (doors{}) {
		err := b.stage.Street.Node.Do(func() (err error) {
			b.doors, err = openDoors()
			return err
		})
		if err != nil {
			return time.Time{}, err
		}
	}
	begin, before := time.Now(), ownCPU()
	err := calls{Servers: []bareServer{change}}.make(b.doors)
	b.cpu += ownCPU() - before
	return begin, err
}

// ownCPU is what this process has used so far.
func ownCPU() time.Duration {
	var used unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &used) // it cannot fail
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// run has a process of its own make calls.
func (b *bare) run(c calls) error {
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	path := filepath.Join(b.stage.Dir, "calls.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := b.stage.command(self)
	cmd.Env = append(cmd.Env, bareFile+"="+path)
	cmd.Stderr = &bytes.Buffer{}
	b.account.admit(cmd, syscall.SysProcAttr{})
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make bare calls: %w", err)
	}
	return finish(cmd)
}

// Ended is nil: there is nothing that should keep running.
func (b *bare) Ended() error {
	select {
	case <-b.done:
		return b.err
	default:
		return nil
	}
}

// Stop waits until the calls are made.
func (b *bare) Stop(syscall.Signal) error {
	if b.done != nil {
		<-b.done
		return b.err
	}
	return nil
}

// Tally is empty: no program of the kernel's is started.
func (b *bare) Tally() (t Tally, err error) { return t, nil }

// Usage is that of all calls.
func (b *bare) Usage() Usage {
	u := b.account.usage()
	u.CPU += b.cpu
	return u
}

// Close gives up the account.
func (b *bare) Close() error {
	b.doors.close()
	return errors.Join(b.Stop(0), b.account.close())
}

// Bare makes the calls of a floor if this process was started for that. It returns the
// exit status, and whether it was.
func Bare() (status int, ok bool) {
	path := os.Getenv(bareFile)
	if path == "" {
		return 0, false
	}
	var c calls
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err == nil {
		err = c.inside()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	return 0, true
}

// inside makes the calls in the namespace that the process was started in.
func (c calls) inside() error {
	d, err := openDoors()
	if err != nil {
		return err
	}
	defer d.close()
	return c.make(d)
}

// The sets that a ClusterIP is in, as IPVS mode has them.
var (
	heldSet    = ipset.Set{Name: "KUBE-IPVS-IPS", Type: ipset.HashIP, Family: proxier.IPv4}
	clusterSet = ipset.Set{Name: "KUBE-CLUSTER-IP", Type: ipset.HashIPPort, Family: proxier.IPv4}
	hairpinSet = ipset.Set{Name: "KUBE-LOOP-BACK", Type: ipset.HashIPPortIP, Family: proxier.IPv4}
)

// doors are the ways to the kernel of one network namespace.
type doors struct {
	servers *vs.Kernel
	sets    *ipset.Kernel
	device  *dummy.Kernel
}

func openDoors() (d doors, err error) {
	if d.servers, err = vs.Open(vs.Options{}); err == nil {
		d.sets, err = ipset.Open(ipset.Options{})
	}
	if err == nil {
		d.device, err = dummy.Open(dummy.Options{})
	}
	if err != nil {
		d.close()
	}
	return d, err
}

func (d doors) close() {
	if d.servers != nil {
		d.servers.Close()
	}
	if d.sets != nil {
		d.sets.Close()
	}
	if d.device != nil {
		d.device.Close()
	}
}

func (c calls) make(d doors) error {
	if c.Read {
		return d.readAll()
	}
	if c.Begin {
		_, err := d.device.Ensure()
		err = errors.Join(err, d.sets.Create(heldSet), d.sets.Create(clusterSet), d.sets.Create(hairpinSet))
		if err != nil {
			return err
		}
	}
	w := c.writes()
	errs := []error{
		change(d.sets, hairpinSet, w.hairpins, w.unpaired),
		change(d.sets, clusterSet, w.clusterIPs, nil), change(d.sets, heldSet, w.held, nil),
	}
	errs = append(errs, d.servers.Batch(w.servers)...)
	if len(w.addrs) > 0 {
		errs = append(errs, d.device.Change(w.addrs, nil))
	}
	return errors.Join(errs...)
}

// change asks nothing of the kernel if there is nothing to change.
func change(sets *ipset.Kernel, s ipset.Set, add, del []ipset.Entry) error {
	if len(add)+len(del) == 0 {
		return nil
	}
	return sets.Change(s.Name, add, del)
}

func (d doors) readAll() error {
	table, err := d.servers.Servers(proxier.IPv4)
	var keys []vs.Key
	for key := range table {
		keys = append(keys, key)
	}
	_, err2 := d.servers.AllDestinations(keys)
	_, err3 := d.device.Addresses(proxier.IPv4)
	errs := []error{err, err2, err3}
	for _, s := range []ipset.Set{heldSet, clusterSet, hairpinSet} {
		_, err := d.sets.Entries(s.Name)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// writes are calls as the kernel takes them.
type writes struct {
	servers                              []vs.Write
	addrs                                []netip.Addr
	hairpins, unpaired, clusterIPs, held []ipset.Entry
}

func (c calls) writes() (w writes) {
	for _, s := range c.Servers {
		key := vs.At(proxier.TCP, s.VIP)
		if s.New {
			w.servers = append(w.servers, vs.Write{Op: vs.AddServer, Key: key, Server: vs.Server{Scheduler: "rr"}})
			w.addrs = append(w.addrs, s.VIP.Addr())
			w.held = append(w.held, ipset.Entry{Addr: s.VIP.Addr()})
			w.clusterIPs = append(w.clusterIPs, ipset.Entry{Addr: s.VIP.Addr(), Protocol: proxier.TCP, Port: s.VIP.Port()})
		}
		for _, a := range s.Add {
			w.servers = append(w.servers, destination(vs.AddDestination, key, a))
			w.hairpins = append(w.hairpins, hairpin(a))
		}
		for _, a := range s.Gone {
			w.servers = append(w.servers, destination(vs.DeleteDestination, key, a))
			w.unpaired = append(w.unpaired, hairpin(a))
		}
	}
	return w
}

func destination(op vs.Op, key vs.Key, pod netip.Addr) vs.Write {
	return vs.Write{Op: op, Key: key, Destination: vs.Destination{Addr: netip.AddrPortFrom(pod, load.PodPort), Weight: 1}}
}

func hairpin(pod netip.Addr) ipset.Entry {
	return ipset.Entry{Addr: pod, Protocol: proxier.TCP, Port: load.PodPort, Addr2: pod}
}
