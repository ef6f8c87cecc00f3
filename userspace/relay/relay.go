package relay

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"switchyard/proxier"
)

// Port is where the relay listens, on TCP and on UDP, in both families.
const Port = 10247

// Options are what a Relay needs to know.
type Options struct {
	Family  proxier.Family
	Port    uint16
	MarkBit int // 0..31: the bit of the mark of the relay's own packets
	// PerService bounds the connections of one service port; 0: what the limit of
	// open files allows, at most 65,536.
	PerService int
	// Warn takes lines for the log; nil: nobody listens.
	Warn func(text string, args ...any)
	// Keeper is the command that starts a keeper of the sockets; none: they end with
	// the process, unless a keeper is there.
	Keeper []string
}

// Relay carries the connections of one IP family. Add, Settle and Close are called
// from one goroutine at a time.
type Relay struct {
	family     proxier.Family
	port       uint16
	mark       int
	perService int64
	most       int64 // connections of all services
	patience   patience
	warn       func(text string, args ...any)
	ns         *namespace
	table      table
	names      interfaceNames

	tcp       socket
	udp       *datagrams
	post      *succession
	workers   []*worker
	working   sync.WaitGroup
	listening sync.WaitGroup
	closing   atomic.Bool
	retired   sync.Once

	last     *proxier.State
	started  bool
	replaced []*version // whose frontends may lead nowhere soon

	mu       sync.Mutex
	services map[key]*service
	current  map[key]*version

	taken atomic.Int64  // connections accepted and not over
	left  chan struct{} // the last of them has ended
}

// Open takes the sockets that are kept of the process before, or opens them. Connections
// wait there until Settle is called for the first time. The sockets belong to the
// network namespace of the calling thread. about is a line for the log.
func Open(o Options) (r *Relay, about string, err error) {
	files, err := raiseFileLimit()
	if err != nil {
		return nil, "", fmt.Errorf("open relay: %w", err)
	}
	ns, err := ownNamespace()
	if err != nil {
		return nil, "", fmt.Errorf("open relay: %w", err)
	}
	r = &Relay{
		family: o.Family, port: o.Port, mark: 1 << o.MarkBit, ns: ns,
		perService: int64(o.PerService), most: connectionsOf(files), patience: usual(), warn: o.Warn,
		tcp:   none,
		table: table{places: map[destination]place{}}, left: make(chan struct{}, 1),
		services: map[key]*service{}, current: map[key]*version{},
	}
	if r.perService == 0 {
		r.perService = min(1<<16, r.most/2)
	}
	if r.warn == nil {
		r.warn = func(string, ...any) {}
	}
	r.post = &succession{relay: r, command: o.Keeper}
	inherited, err := r.openListeners()
	if err != nil {
		r.release()
		return nil, "", fmt.Errorf("open relay: %w", err)
	}
	from := ""
	if inherited {
		from = ", with the sockets of the process before"
	}
	about = fmt.Sprintf("relay on port %d%s; %d open files, %d connections a service", o.Port, from, files, r.perService)
	return r, about, nil
}

// connectionsOf is how many connections fit into a number of open files: two for
// each, and some for all else.
func connectionsOf(files uint64) int64 { return max(64, (int64(files)-1024)/2) }

func (r *Relay) openListeners() (inherited bool, err error) {
	if r.tcp, r.udp, err = r.post.inherit(); err != nil || r.tcp != none {
		return r.tcp != none, err
	}
	if r.tcp, err = listenTCP(r.family, r.port); err != nil {
		return false, err
	}
	r.udp, err = listenUDP(r)
	return false, err
}

// maxWorkers is enough to fill the network of any node.
const maxWorkers = 8

// work starts the workers.
func (r *Relay) work() {
	for range min(runtime.GOMAXPROCS(0), maxWorkers) {
		w, err := newWorker(r)
		if err != nil {
			r.warn("connections are carried by fewer workers", "workers", len(r.workers), "error", err)
			return
		}
		r.workers = append(r.workers, w)
		r.listening.Add(1)
		r.working.Go(w.run)
	}
}

// release closes what Open opened.
func (r *Relay) release() {
	if r.tcp != none {
		r.tcp.close()
	}
	if r.udp != nil {
		r.udp.close()
	}
	r.post.close()
	r.ns.close()
}

// Add makes the relay know all that a State has, beside what it knows. It returns
// what of the services' wishes cannot be met.
func (r *Relay) Add(want *proxier.State) []proxier.Note {
	last := r.last
	if last == nil {
		last = &proxier.State{}
	}
	r.table.setNode(&want.Node)
	var changed []*service
	proxier.EachChange(last.Services, want.Services, false, func(was, is *proxier.Service) {
		k := keyOf(was, is)
		r.mu.Lock()
		old, s := r.current[k], r.services[k]
		if s == nil {
			s = &service{flows: map[*flow]struct{}{}}
			r.services[k] = s
		}
		r.mu.Unlock()
		if old != nil {
			r.replaced = append(r.replaced, old)
		}
		var next *version
		if is != nil {
			next = s.update(is)
			r.table.put(s, next)
			changed = append(changed, s)
		}
		r.mu.Lock()
		r.current[k] = next
		r.mu.Unlock()
	})
	if r.last != nil && !sameNodePorts(&last.Node, &want.Node) {
		changed = r.all()
	}
	r.last = want
	r.udp.review(changed)
	var notes []proxier.Note
	for _, s := range want.Services {
		notes = append(notes, notesOn(s)...)
	}
	return notes
}

func keyOf(was, is *proxier.Service) key {
	if is == nil {
		is = was
	}
	return key{is.Name, is.Protocol}
}

func sameNodePorts(a, b *proxier.Node) bool {
	return slices.Equal(a.Local, b.Local) && slices.Equal(a.NodePorts.Addrs, b.NodePorts.Addrs) &&
		a.NodePorts.Any == b.NodePorts.Any && a.NodePorts.Localhost == b.NodePorts.Localhost
}

func (r *Relay) all() []*service {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*service
	for _, s := range r.services {
		list = append(list, s)
	}
	return list
}

// Settle is called when the rules lead to what the State of the last Add has, and to
// nothing else: the relay forgets the rest. The first call starts it.
func (r *Relay) Settle() {
	var gone []*service
	for _, v := range r.replaced {
		r.table.drop(v)
		k := key{v.spec.Name, v.spec.Protocol}
		r.mu.Lock()
		if s := r.services[k]; s != nil {
			gone = append(gone, s)
			if r.current[k] == nil {
				delete(r.services, k)
				delete(r.current, k)
			}
		}
		r.mu.Unlock()
	}
	r.replaced = nil
	r.udp.review(gone)
	if !r.started {
		r.started = true
		if err := r.ns.do(func() error { _, err := LetPortsClash(); return err }); err != nil {
			r.warn("the kernel stays as it is", "error", err)
		}
		r.work()
		r.udp.start()
		r.post.serve()
	}
}

// Traffic is what every service port that the relay knows has carried.
func (r *Relay) Traffic() []proxier.Traffic {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]proxier.Traffic, 0, len(r.services))
	for key, s := range r.services {
		t := s.counters.snapshot()
		t.Service, t.Protocol = key.name, key.protocol
		all = append(all, t)
	}
	return all
}

// Close ends the relay. TCP connections may go on for the time of drain, and as long
// as no other process has taken the port over new ones are taken, but for the last
// moments; what is left then gets a reset. UDP flows end at once.
func (r *Relay) Close(drain time.Duration) error {
	start := time.Now()
	r.waitForLinks(drain - min(drain/2, r.patience.goodbye))
	r.retire()
	r.waitForLinks(drain - time.Since(start))
	for _, w := range r.workers {
		w.cutAll.Store(true)
		w.poller.wake()
	}
	r.working.Wait()
	r.udp.close()
	r.post.close()
	r.ns.close()
	return nil
}

// retire stops listening; it returns when nothing more is accepted. The listeners stay
// open with the keeper, or a process that took them over.
func (r *Relay) retire() {
	r.retired.Do(func() {
		r.closing.Store(true)
		for _, w := range r.workers {
			w.stopAccepting.Store(true)
			w.poller.wake()
		}
		r.udp.stop()
		r.listening.Wait()
		r.tcp.close()
	})
}

func (r *Relay) isClosing() bool { return r.closing.Load() }

// waitForLinks waits until no connection is left, or the time is over.
func (r *Relay) waitForLinks(limit time.Duration) {
	timeout := time.After(limit)
	for r.taken.Load() > 0 {
		select {
		case <-timeout:
			return
		case <-r.left:
		}
	}
}

// drop counts a connection out.
func (r *Relay) drop() {
	if r.taken.Add(-1) > 0 {
		return
	}
	select {
	case r.left <- struct{}{}:
	default:
	}
}

// interfaceOf is the name of the interface by which a connection came in; "" where no
// decision asks for it.
func (r *Relay) interfaceOf(s socket) string {
	if !r.table.asksInterfaces() {
		return ""
	}
	return r.names.of(r.ns, incomingInterface(int(s), r.family))
}

// packet is what a Frontend is asked about.
func packet(p proxier.Protocol, client netip.Addr, asked netip.AddrPort, in string) proxier.Packet {
	return proxier.Packet{Protocol: p, Src: client, Dst: asked, In: in}
}
