package relay

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

// maxDatagram is more than any UDP datagram holds.
const maxDatagram = 1 << 16

// maxFlows bounds the flows of all services: each has a socket.
const maxFlows = 1 << 16

// datagrams is the UDP side of a relay.
type datagrams struct {
	relay   *Relay
	conn    *net.UDPConn
	ask     *asker
	refusal *refuser
	flows   flows
	buffers sync.Pool // of *[maxDatagram]byte
	stopped chan struct{}
	once    sync.Once
}

func newDatagrams(r *Relay, c *net.UDPConn) (*datagrams, error) {
	d := &datagrams{relay: r, conn: c, stopped: make(chan struct{}),
		flows: flows{byKey: map[flowKey]*flow{}, most: int(min(maxFlows, r.perService))}}
	d.buffers.New = func() any { return new([maxDatagram]byte) }
	var err error
	if d.ask, err = newAsker(r.family); err != nil {
		_ = c.Close()
		return nil, err
	}
	d.refusal = newRefuser(r.family)
	return d, nil
}

// start begins to read, and to end flows that are silent.
func (d *datagrams) start() {
	d.relay.listening.Add(2)
	go d.receive()
	go d.sweep()
}

// stop ends the reading. Answers still go to clients.
func (d *datagrams) stop() {
	d.once.Do(func() { close(d.stopped) })
	_ = d.conn.SetReadDeadline(time.Unix(1, 0))
}

func (d *datagrams) close() {
	d.stop()
	for _, f := range d.flows.all() {
		d.end(f)
	}
	d.ask.close()
	d.refusal.close()
	_ = d.conn.Close()
}

func (d *datagrams) sweep() {
	defer d.relay.listening.Done()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-d.stopped:
			return
		case now := <-tick.C:
			for _, f := range d.flows.expired(now) {
				d.closeFlow(f)
			}
		}
	}
}

// receive reads what clients send. It allocates for a new flow only.
func (d *datagrams) receive() {
	defer d.relay.listening.Done()
	buf, control := make([]byte, maxDatagram), make([]byte, 128)
	for {
		n, c, _, client, err := d.conn.ReadMsgUDPAddrPort(buf, control)
		if err != nil {
			if d.relay.isClosing() {
				return
			}
			continue // of a datagram that was sent before, or memory
		}
		local, iface := destinationIn(control[:c], d.relay.family)
		if local.IsValid() {
			d.pass(flowKey{client, local}, iface, buf[:n])
		}
	}
}

// pass sends a client's datagram on to its endpoint. A flow whose socket is of no use
// any more, because somebody destroyed it or the address that it sends from left the
// node, is followed by a new one, which gets the datagram.
func (d *datagrams) pass(k flowKey, iface int, b []byte) {
	now := time.Now()
	f := d.current(k, now)
	if f != nil && d.forward(f, now, b) {
		return
	}
	if f = d.begin(k, iface, now); f != nil {
		_ = d.forward(f, now, b) // if that socket is useless as well, the datagram is lost
	}
}

// current is the client's flow, nil if there is none or the client means another
// address by now.
func (d *datagrams) current(k flowKey, now time.Time) *flow {
	f := d.flows.get(k)
	if f == nil || now.UnixNano()-f.last.Load() <= int64(askAgain) {
		return f
	}
	if asked, err := d.ask.original(k, d.relay.port); err != nil || asked != f.asked {
		d.end(f)
		return nil
	}
	return f
}

// forward sends a datagram by a flow. false: the flow's socket is dead, and the flow has
// ended.
func (d *datagrams) forward(f *flow, now time.Time, b []byte) bool {
	f.last.Store(now.UnixNano())
	f.out = b
	if err := f.conn.raw.Write(f.sender); err != nil {
		return true // the endpoint's end of it was seen just now, and the client told
	}
	switch {
	case f.sendErr == nil:
		f.service.counters.received.Add(int64(len(b)))
	case isEndpointsFault(f.sendErr):
		d.refuse(f)
	case !passes(f.sendErr):
		d.end(f)
		return false
	}
	return true
}

// begin makes the flow of a client's first datagram, nil if it is not to be sent on.
func (d *datagrams) begin(k flowKey, iface int, now time.Time) *flow {
	asked, err := d.ask.original(k, d.relay.port)
	if err != nil {
		return nil // nobody was asked: it was sent to the relay's own port, or conntrack is full
	}
	p := packet(proxier.UDP, k.client.Addr(), asked, d.interfaceName(iface))
	at, fate := d.relay.table.decide(p)
	if fate.Verdict != proxier.Forward {
		if fate.Verdict == proxier.Reject {
			d.refusal.refuse(k, d.relay.port)
		}
		return nil
	}
	s := at.service
	s.counters.connections.Add(1)
	if s.counters.active.Add(1) > d.relay.perService {
		s.counters.refused.Add(1)
		s.counters.active.Add(-1)
		return nil
	}
	f := &flow{key: k, asked: asked, in: p.In, service: s, began: now.UnixNano(),
		source: sourceOf(k.local), owner: d}
	if !d.connect(f, &request{at: at, fate: fate, client: k.client, asked: asked}, now) {
		s.counters.failed.Add(1)
		s.counters.active.Add(-1)
		return nil
	}
	return f
}

// connect gives the flow an endpoint and its socket, and enters it.
func (d *datagrams) connect(f *flow, q *request, now time.Time) bool {
	pool := q.at.version.pool(&q.fate)
	var tried []*endpoint
	for len(tried) < maxTries && f.conn == nil {
		ep := f.service.pick(q, pool, pick{now, tried})
		if ep == nil {
			return false
		}
		tried = append(tried, ep)
		var err error
		if f.conn, err = d.relay.connectFlow(ep.addr); err != nil { // no route to it
			f.service.counters.retries.Add(1)
			continue
		}
		f.endpoint = ep
	}
	if f.conn == nil {
		return false
	}
	f.prepare()
	f.service.keep(q, f.endpoint, now)
	f.endpoint.active.Add(1)
	f.last.Store(now.UnixNano())
	f.service.mu.Lock()
	f.service.flows[f] = struct{}{}
	f.service.mu.Unlock()
	if out := d.flows.put(f, now); out != nil {
		d.closeFlow(out)
	}
	go f.answer()
	return true
}

func (d *datagrams) interfaceName(index int) string {
	if !d.relay.table.asksInterfaces() {
		return ""
	}
	return d.relay.names.of(d.relay.ns, index)
}

// answer sends what the endpoint sends to the client, from the address that the
// client's packets are led to: conntrack makes it the one that was asked.
func (f *flow) answer() {
	_ = f.conn.raw.Read(f.relay)
}

// relay reads until there is nothing; true ends the reading.
func (f *flow) relay(uintptr) bool {
	buf, _ := f.owner.buffers.Get().(*[maxDatagram]byte)
	defer f.owner.buffers.Put(buf)
	for {
		n, err := f.conn.read(buf[:])
		switch {
		case err == unix.EAGAIN:
			return false
		case isEndpointsFault(err):
			f.owner.refuse(f)
			return true
		case err != nil && !passes(err):
			f.owner.end(f)
			return true
		case err != nil:
			continue
		}
		f.last.Store(time.Now().UnixNano())
		f.answered.Store(true)
		f.service.counters.sent.Add(int64(n))
		_, _, _ = f.owner.conn.WriteMsgUDPAddrPort(buf[:n], f.source, f.key.client)
	}
}

// passes tells what is wrong with one datagram, or for a moment, from what makes a UDP
// socket useless.
func passes(err error) bool {
	return slices.ContainsFunc([]error{
		unix.EAGAIN, unix.EINTR, unix.EMSGSIZE, unix.ENOBUFS, unix.ENOMEM, unix.EPERM, unix.EACCES, unix.EPROTO, unix.ENOPROTOOPT,
	}, func(e error) bool { return errors.Is(err, e) })
}

// refuse ends a flow whose endpoint is not there, and tells the client.
func (d *datagrams) refuse(f *flow) {
	f.endpoint.shun(time.Now())
	if !f.answered.Load() {
		f.service.counters.failed.Add(1)
	}
	d.refusal.refuse(f.key, d.relay.port)
	d.end(f)
}

// end ends a flow at once, if it has not ended.
func (d *datagrams) end(f *flow) {
	if d.flows.remove(f) {
		d.closeFlow(f)
	}
}

func (d *datagrams) closeFlow(f *flow) {
	f.service.mu.Lock()
	delete(f.service.flows, f)
	f.service.mu.Unlock()
	f.endpoint.active.Add(-1)
	f.service.counters.active.Add(-1)
	f.conn.close()
}

// review ends the flows of services that may not stay where they are: the endpoint is
// gone, or the address is another's.
func (d *datagrams) review(services []*service) {
	for _, s := range services {
		s.mu.Lock()
		var list []*flow
		for f := range s.flows {
			list = append(list, f)
		}
		s.mu.Unlock()
		for _, f := range list {
			p := packet(proxier.UDP, f.key.client.Addr(), f.asked, f.in)
			at, fate := d.relay.table.decide(p)
			if at.service != s || !at.version.serves(&fate, f.endpoint.addr) {
				d.end(f)
			}
		}
	}
}

// destinationIn reads from a control message which address of the node a datagram was
// sent to, and the interface by which it came in.
func destinationIn(control []byte, f proxier.Family) (netip.Addr, int) {
	for len(control) >= unix.SizeofCmsghdr {
		size, level, kind := controlHeader(control)
		if size < unix.SizeofCmsghdr || size > len(control) {
			break
		}
		b := control[unix.SizeofCmsghdr:size]
		switch {
		case f == proxier.IPv4 && level == unix.SOL_IP && kind == unix.IP_PKTINFO && len(b) >= 12:
			return netip.AddrFrom4([4]byte(b[8:12])), int(native32(b))
		case f == proxier.IPv6 && level == unix.SOL_IPV6 && kind == unix.IPV6_PKTINFO && len(b) >= 20:
			return netip.AddrFrom16([16]byte(b[:16])), int(native32(b[16:]))
		}
		control = control[min(len(control), unix.CmsgSpace(size-unix.SizeofCmsghdr)):]
	}
	return netip.Addr{}, 0
}
