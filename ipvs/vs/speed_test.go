package vs_test

import (
	"encoding/binary"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/moby/ipvs"
	"golang.org/x/sys/unix"

	"switchyard/ipvs/bounded"
	"switchyard/ipvs/vs"
	"switchyard/proxier"
)

// How long 1,000 servers of 10 destinations take, by this package and by bare
// messages: each sent alone and answered, or many sent at once. Each way has a
// network namespace of its own: the kernel keeps what was deleted for two minutes
// and looks through all of it at each destination that is added.
func testAddSpeed(t *testing.T) {
	writes := table()
	first := time.Duration(0)
	for _, way := range []struct {
		name string
		fill func(*testing.T, *bare)
	}{
		{"bare, pipelined", func(t *testing.T, b *bare) { b.write(t, 1<<20) }},
		{"Batch", func(t *testing.T, b *bare) { inBatches(t, b.kernel, writes) }},
		{"bare, one by one", func(t *testing.T, b *bare) { b.write(t, 1) }},
		{"Add and AddDestination", func(t *testing.T, b *bare) { oneByOne(t, b.kernel, writes) }},
		{"library, one by one", func(t *testing.T, b *bare) { byLibrary(t, b.library) }},
	} {
		t.Run(way.name, func(t *testing.T) {
			took := timed(t, way.fill)
			if first == 0 {
				first = took
			}
			t.Logf("1,000 servers × 10 destinations: %s, %.2f × the first", took, float64(took)/float64(first))
		})
	}
}

// bare are the ways into the kernel.
type bare struct {
	kernel  *vs.Kernel
	library *ipvs.Handle
	socket  *bounded.Socket
	family  uint16
}

// timed measures the better of two times that an empty table is filled.
func timed(t *testing.T, fill func(*testing.T, *bare)) (best time.Duration) {
	for i := range 2 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			b := open(t)
			done := make(chan struct{})
			start := time.Now()
			go func() { // which has no thread of its own, unlike the test
				defer close(done)
				fill(t, b)
			}()
			<-done
			if took := time.Since(start); best == 0 || took < best {
				best = took
			}
			all, err := b.kernel.Servers(proxier.IPv4)
			if err != nil || len(all) != 1000 {
				t.Fatalf("%d servers, %v", len(all), err)
			}
			for key := range all {
				if list, err := b.kernel.Destinations(key); err != nil || len(list) != 10 {
					t.Fatalf("%s has %v, %v", key, list, err)
				}
				break // any of them
			}
		})
	}
	return best
}

func open(t *testing.T) *bare {
	b := &bare{kernel: alone(t)}
	var err error
	b.library, err = ipvs.New("")
	must(t, err)
	t.Cleanup(b.library.Close)
	b.socket, err = bounded.Open(unix.NETLINK_GENERIC, 5*time.Second)
	must(t, err)
	t.Cleanup(b.socket.Close)
	b.family = ipvsFamily(t, b.socket)
	return b
}

// table is what is written.
func table() (writes []vs.Write) {
	for i := range 1000 {
		key := vs.At(proxier.TCP, netip.AddrPortFrom(vip(i), 80))
		writes = append(writes, vs.Write{Op: vs.AddServer, Key: key, Server: vs.Server{Scheduler: "rr"}})
		for j := range 10 {
			d := vs.Destination{Addr: netip.AddrPortFrom(pod(i, j), 8080), Weight: 1}
			writes = append(writes, vs.Write{Op: vs.AddDestination, Key: key, Destination: d})
		}
	}
	return writes
}

func inBatches(t *testing.T, k *vs.Kernel, writes []vs.Write) {
	for _, err := range k.Batch(writes) {
		t.Fatal(err)
	}
}

func oneByOne(t *testing.T, k *vs.Kernel, writes []vs.Write) {
	for _, w := range writes {
		for _, err := range k.Batch([]vs.Write{w}) {
			t.Fatal(err)
		}
	}
}

// byLibrary is the library's way, which waits for each answer, too.
func byLibrary(t *testing.T, h *ipvs.Handle) {
	for i := range 1000 {
		s := &ipvs.Service{
			AddressFamily: unix.AF_INET, Protocol: unix.IPPROTO_TCP, Address: net.IP(vip(i).AsSlice()),
			Port: 80, SchedName: "rr", Netmask: 0xffffffff,
		}
		must(t, h.NewService(s))
		for j := range 10 {
			must(t, h.NewDestination(s, &ipvs.Destination{Address: net.IP(pod(i, j).AsSlice()), Port: 8080, Weight: 1}))
		}
	}
}

func vip(i int) netip.Addr { return netip.AddrFrom4([4]byte{172, 30, byte(i >> 8), byte(i)}) }
func pod(i, j int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(100 + j), byte(i >> 8), byte(i)})
}

func ipvsFamily(t *testing.T, s *bounded.Socket) (family uint16) {
	request := bounded.Request(unix.GENL_ID_CTRL, 0, unix.CTRL_CMD_GETFAMILY, 1, 0, 0)
	must(t, s.Ask(bounded.Text(request, unix.CTRL_ATTR_FAMILY_NAME, "IPVS"), func() {}, func(data []byte) error {
		for typ, value := range bounded.Attributes(data[4:]) {
			if typ == unix.CTRL_ATTR_FAMILY_ID {
				family = bounded.Uint16(value)
			}
		}
		return nil
	}))
	return family
}

// write writes the same by messages of its own, n at once.
func (b *bare) write(t *testing.T, n int) {
	var all [][]byte
	for i := range 1000 {
		all = append(all, bareServer(b.family, 1, i))
		for j := range 10 {
			all = append(all, bareDestination(bareServer(b.family, 5, i), pod(i, j)))
		}
	}
	for part := range slices.Chunk(all, n) {
		request := func(buf []byte, i int) []byte { return append(buf, part[i]...) }
		must(t, b.socket.Batch(len(part), request, func(i int, err error, _ []byte) { must(t, err) }))
	}
}

func bareServer(family uint16, cmd byte, i int) []byte {
	return bounded.Nested(bounded.Request(family, 0, cmd, 1, 0, 0), 1, func(b []byte) []byte {
		b = bounded.Attribute(b, 1, binary.NativeEndian.AppendUint16(nil, unix.AF_INET)...)
		b = bounded.Attribute(b, 2, binary.NativeEndian.AppendUint16(nil, unix.IPPROTO_TCP)...)
		b = bounded.Attribute(b, 3, vip(i).AsSlice()...)
		b = bounded.Attribute(b, 4, 0, 80)
		b = bounded.Text(b, 6, "rr")
		b = bounded.Attribute(b, 7, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff)
		b = bounded.Attribute(b, 8, 0, 0, 0, 0)
		return bounded.Attribute(b, 9, 0xff, 0xff, 0xff, 0xff)
	})
}

func bareDestination(b []byte, addr netip.Addr) []byte {
	return bounded.Nested(b, 2, func(b []byte) []byte {
		b = bounded.Attribute(b, 1, addr.AsSlice()...)
		b = bounded.Attribute(b, 2, 0x1f, 0x90)
		b = bounded.Attribute(b, 3, 0, 0, 0, 0)
		b = bounded.Attribute(b, 4, binary.NativeEndian.AppendUint32(nil, 1)...)
		b = bounded.Attribute(b, 5, 0, 0, 0, 0)
		return bounded.Attribute(b, 6, 0, 0, 0, 0)
	})
}

// How long it takes to look at 5,000 servers.
func testReadSpeed(t *testing.T) {
	k := alone(t)
	var writes []vs.Write
	for i := range 5000 {
		key := vs.At(proxier.TCP, netip.AddrPortFrom(vip(i), 80))
		d := vs.Destination{Addr: netip.AddrPortFrom(pod(i, 0), 8080), Weight: 1}
		writes = append(writes, vs.Write{Op: vs.AddServer, Key: key, Server: vs.Server{Scheduler: "rr"}},
			vs.Write{Op: vs.AddDestination, Key: key, Destination: d})
	}
	for _, err := range k.Batch(writes) {
		t.Fatal(err)
	}
	start := time.Now()
	all, err := k.Servers(proxier.IPv4)
	must(t, err)
	t.Logf("%d servers read in %s", len(all), time.Since(start))
	start = time.Now()
	lists, err := k.AllDestinations(slices.Collect(maps.Keys(all)))
	must(t, err)
	t.Logf("destinations of %d servers read in %s", len(lists), time.Since(start))
	start = time.Now()
	for i := range 100 {
		_, err := k.Destinations(vs.At(proxier.TCP, netip.AddrPortFrom(vip(i), 80)))
		must(t, err)
	}
	t.Logf("destinations of one server read in %s", time.Since(start)/100)
}
