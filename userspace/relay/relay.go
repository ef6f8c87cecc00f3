package relay

import (
	"errors"
	"fmt"
	"net/netip"
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
}

// Relay carries the connections of one IP family. Add, Settle and Close are called
// from one goroutine at a time.
type Relay struct {
	family     proxier.Family
	port       uint16
	mark       int
	perService int64
	ns         *namespace
	table      table
	store      store
	names      interfaceNames

	tcp       *conn
	udp       *datagrams
	post      *succession
	listening sync.WaitGroup
	closing   atomic.Bool
	retired   sync.Once
	swept     chan struct{} // closed: no more

	last     *proxier.State
	started  bool
	replaced []*version // whose frontends may lead nowhere soon

	mu       sync.Mutex
	services map[Key]*service
	current  map[Key]*version
	links    map[*link]struct{}
	taken    int           // connections accepted and not over: links, and those that want to be
	left     chan struct{} // one of them has ended
}

// Open takes the port over from the process that has it, or opens it. Connections
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
		perService: int64(o.PerService),
		table:      table{places: map[destination]place{}},
		store:      store{pipes: make(pipes, maxSpare)},
		services:   map[Key]*service{}, current: map[Key]*version{},
		links: map[*link]struct{}{}, left: make(chan struct{}, 1), swept: make(chan struct{}),
	}
	if r.perService == 0 {
		r.perService = min(1<<16, connectionsOf(files)/2)
	}
	inherited, err := r.openListeners()
	if err != nil {
		r.release()
		return nil, "", fmt.Errorf("open relay: %w", err)
	}
	from := ""
	if inherited {
		from = ", taken over from the process before"
	}
	about = fmt.Sprintf("relay on port %d%s; %d open files, %d connections a service", o.Port, from, files, r.perService)
	return r, about, nil
}

// connectionsOf is how many connections fit into a number of open files: two for
// each, and some for all else.
func connectionsOf(files uint64) int64 { return max(64, (int64(files)-1024)/2) }

func (r *Relay) openListeners() (inherited bool, err error) {
	r.post, err = openSuccession(r.family, r.port)
	if err != nil {
		return false, err
	}
	if r.tcp, r.udp, err = r.post.inherit(r); err != nil || r.tcp != nil {
		return r.tcp != nil, err
	}
	if r.tcp, err = listenTCP(r.family, r.port); err != nil {
		return false, err
	}
	r.udp, err = listenUDP(r)
	return false, err
}

// release closes what Open opened.
func (r *Relay) release() {
	if r.tcp != nil {
		r.tcp.close()
	}
	if r.udp != nil {
		r.udp.close()
	}
	if r.post != nil {
		r.post.close()
	}
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
		key := keyOf(was, is)
		r.mu.Lock()
		old, s := r.current[key], r.services[key]
		if s == nil {
			s = &service{flows: map[*flow]struct{}{}}
			r.services[key] = s
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
		r.current[key] = next
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

func keyOf(was, is *proxier.Service) Key {
	if is == nil {
		is = was
	}
	return Key{is.Name, is.Protocol}
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
		key := Key{v.spec.Name, v.spec.Protocol}
		r.mu.Lock()
		if s := r.services[key]; s != nil {
			gone = append(gone, s)
			if r.current[key] == nil {
				delete(r.services, key)
				delete(r.current, key)
			}
		}
		r.mu.Unlock()
	}
	r.replaced = nil
	r.udp.review(gone)
	if !r.started {
		r.started = true
		r.listening.Add(1)
		go r.acceptTCP(r.tcp)
		go r.sweepUntil(r.swept)
		r.udp.start()
		r.post.succeed(r)
	}
}

// Stats are the counters of every service port that the relay knows.
func (r *Relay) Stats() map[Key]Counters {
	r.mu.Lock()
	defer r.mu.Unlock()
	stats := make(map[Key]Counters, len(r.services))
	for key, s := range r.services {
		stats[key] = s.counters.snapshot()
	}
	return stats
}

// Close ends the relay. TCP connections may go on for the time of drain, and as long
// as no other process has taken the port over new ones are taken; what is left then
// gets a reset. UDP flows end at once.
func (r *Relay) Close(drain time.Duration) error {
	start := time.Now()
	r.waitForLinks(drain)
	r.retire()
	// What was accepted last may have come after the last look.
	r.waitForLinks(max(0, drain-time.Since(start)))
	r.mu.Lock()
	for l := range r.links {
		l.cut()
	}
	r.mu.Unlock()
	r.waitForLinks(time.Second)
	r.store.closing.flush()
	r.udp.close()
	r.post.close()
	r.ns.close()
	if n := r.takenCount(); n > 0 {
		return fmt.Errorf("close relay: %w", errors.New("connections do not end"))
	}
	return nil
}

// retire stops listening; it returns when nothing more is accepted. The listeners stay
// open in a process that took them over.
func (r *Relay) retire() {
	r.retired.Do(func() {
		r.closing.Store(true)
		close(r.swept)
		r.tcp.wake()
		r.udp.stop()
		r.listening.Wait()
		r.tcp.close()
	})
}

func (r *Relay) isClosing() bool { return r.closing.Load() }

// waitForLinks waits until no connection is left, or the time is over.
func (r *Relay) waitForLinks(limit time.Duration) {
	timeout := time.After(limit)
	for r.takenCount() > 0 {
		select {
		case <-timeout:
			return
		case <-r.left:
		}
	}
}

func (r *Relay) takenCount() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.taken
}

// take counts a connection that was accepted. One that is on its way to its endpoint
// is waited for as one that has it.
func (r *Relay) take() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken++
}

func (r *Relay) drop() {
	r.mu.Lock()
	r.taken--
	r.mu.Unlock()
	select {
	case r.left <- struct{}{}:
	default:
	}
}

func (r *Relay) enter(l *link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.links[l] = struct{}{}
}

func (r *Relay) leave(l *link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.links, l)
}

// interfaceOf is the name of the interface by which a connection came in; "" where no
// decision asks for it.
func (r *Relay) interfaceOf(fd int) string {
	if !r.table.asksInterfaces() {
		return ""
	}
	return r.names.of(r.ns, incomingInterface(fd, r.family))
}

// packet is what a Frontend is asked about.
func packet(p proxier.Protocol, client netip.Addr, asked netip.AddrPort, in string) proxier.Packet {
	return proxier.Packet{Protocol: p, Src: client, Dst: asked, In: in}
}
