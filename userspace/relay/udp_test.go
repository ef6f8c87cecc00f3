package relay

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

// TestNoAllocationPerDatagram counts both ways of a flow that exists.
func TestNoAllocationPerDatagram(t *testing.T) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	r := &Relay{family: proxier.IPv4, perService: 10}
	listener, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDatagrams(r, listener)
	if err != nil {
		t.Fatal(err)
	}
	r.udp = d
	defer d.close()
	f := &flow{
		key:     flowKey{client.LocalAddr().(*net.UDPAddr).AddrPort(), netip.MustParseAddr("127.0.0.1")},
		service: &service{flows: map[*flow]struct{}{}}, endpoint: &endpoint{},
		source: sourceOf(netip.MustParseAddr("127.0.0.1")), owner: d, began: time.Now().UnixNano(),
	}
	if f.conn, err = r.connectFlow(server.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("the mark needs NET_ADMIN: ", err)
		}
		t.Fatal(err)
	}
	f.last.Store(time.Now().UnixNano())
	d.flows.put(f, time.Now())
	f.prepare()
	buf, in := []byte("question"), make([]byte, 100)
	var from netip.AddrPort
	up := testing.AllocsPerRun(1000, func() {
		d.pass(f.key, 0, buf)
		_, from, _ = server.ReadFromUDPAddrPort(in)
	})
	answer := []byte("answer")
	down := testing.AllocsPerRun(1000, func() {
		_, _ = server.WriteToUDPAddrPort(answer, from)
		for n := f.service.counters.sent.Load(); n == f.service.counters.sent.Load(); {
			f.relay(0)
		}
		_, _, _ = client.ReadFromUDPAddrPort(in)
	})
	if up != 0 || down != 0 {
		t.Errorf("%v allocations for a datagram to the endpoint, %v for one to the client", up, down)
	}
	if c := f.service.counters.snapshot(); c.Received < 8000 || c.Sent < 6000 {
		t.Errorf("%+v", c)
	}
}

// TestIdle holds when a silent flow ends.
func TestIdle(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, test := range []struct {
		name     string
		answered bool
		last     time.Duration // of its packets, after the start
		ends     time.Duration // after the start
	}{
		{"a question", false, 0, 31 * time.Second},
		{"a question and its answer", true, time.Second, 31 * time.Second},
		{"a stream", true, 10 * time.Second, 131 * time.Second},
		{"questions without an answer", false, 50 * time.Second, 81 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			fl := flows{byKey: map[flowKey]*flow{}, most: 10}
			f := &flow{began: start.UnixNano()}
			f.last.Store(start.UnixNano())
			fl.put(f, start)
			f.answered.Store(test.answered)
			for s := time.Duration(1); ; s++ {
				now := start.Add(s * time.Second)
				if now.Sub(start) <= test.last {
					f.last.Store(now.UnixNano())
				}
				if len(fl.expired(now)) == 0 {
					continue
				}
				if got := now.Sub(start); got != test.ends {
					t.Errorf("ended after %s, want %s", got, test.ends)
				}
				break
			}
		})
	}
}

// TestFlowsAreBounded holds that a new flow takes the place of the one that would end
// first.
func TestFlowsAreBounded(t *testing.T) {
	fl := flows{byKey: map[flowKey]*flow{}, most: 2}
	now := time.Unix(1000, 0)
	var out []*flow
	list := make([]*flow, 5)
	for i := range list {
		list[i] = &flow{key: flowKey{client: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(i))}, began: now.UnixNano()}
		list[i].last.Store(now.UnixNano())
		if o := fl.put(list[i], now); o != nil {
			out = append(out, o)
		}
		now = now.Add(time.Second)
	}
	if len(out) != 3 || out[0] != list[0] || out[2] != list[2] || len(fl.byKey) != 2 {
		t.Errorf("%d made room, %d are left", len(out), len(fl.byKey))
	}
}
