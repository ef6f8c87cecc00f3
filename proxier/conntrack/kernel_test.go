package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"switchyard/proxier"
	"switchyard/test/netlab"
)

// recorder writes entries into the kernel's table.
type recorder struct {
	*socket
	batch   []byte
	pending int
}

func newRecorder(t testing.TB) *recorder {
	t.Helper()
	s, err := open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return &recorder{socket: s}
}

func (r *recorder) add(t testing.TB, f Flow, zone uint16) {
	t.Helper()
	b := header(0, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, proxier.FamilyOf(f.Src.Addr()))
	b = attribute(b, ctaTupleOrig|unix.NLA_F_NESTED, tupleOf(f.Protocol, f.Src, f.Dst))
	b = attribute(b, ctaTupleReply|unix.NLA_F_NESTED, tupleOf(f.Protocol, f.ReplySrc, f.ReplyDst))
	const ctaTimeout, minutes = 7, 10
	b = attribute(b, ctaTimeout, binary.BigEndian.AppendUint32(nil, minutes*60))
	if zone != 0 {
		b = attribute(b, ctaZone, binary.BigEndian.AppendUint16(nil, zone))
	}
	r.batch = append(r.batch, finish(b)...)
	if r.pending++; r.pending == deleteBatch {
		r.flush(t)
	}
}

func (r *recorder) flush(t testing.TB) {
	t.Helper()
	if err := r.send(r.batch); err != nil {
		t.Fatal(err)
	}
	for r.batch = r.batch[:0]; r.pending > 0; {
		answer, err := r.receive()
		if err != nil {
			t.Fatal(err)
		}
		for m := range messages(answer) {
			r.pending--
			if err := m.errno(); err != nil {
				t.Fatal("record a flow: ", err)
			}
		}
	}
}

func tupleOf(protocol proxier.Protocol, from, to netip.AddrPort) []byte {
	src, dst := uint16(ctaIPv4Src), uint16(ctaIPv4Dst)
	if from.Addr().Is6() {
		src, dst = ctaIPv6Src, ctaIPv6Dst
	}
	ip := attribute(attribute(nil, src, from.Addr().AsSlice()), dst, to.Addr().AsSlice())
	proto := attribute(nil, ctaProtoNum, []byte{byte(protocol)})
	proto = attribute(proto, ctaProtoSrcPort, binary.BigEndian.AppendUint16(nil, from.Port()))
	proto = attribute(proto, ctaProtoDstPort, binary.BigEndian.AppendUint16(nil, to.Port()))
	b := attribute(nil, ctaTupleIP|unix.NLA_F_NESTED, ip)
	return attribute(b, ctaTupleProto|unix.NLA_F_NESTED, proto)
}

// recorded are the flows in the kernel's table, read by somebody else's parser,
// which leaves the ports of SCTP at 0.
func recorded(t testing.TB, family proxier.Family) []Flow {
	t.Helper()
	af := netlink.InetFamily(unix.AF_INET)
	if family == proxier.IPv6 {
		af = unix.AF_INET6
	}
	list, err := netlink.ConntrackTableList(netlink.ConntrackTable, af)
	if err != nil {
		t.Fatal(err)
	}
	end := func(ip net.IP, port uint16) netip.AddrPort {
		addr, _ := netip.AddrFromSlice(ip)
		return netip.AddrPortFrom(addr, port)
	}
	var flows []Flow
	for _, e := range list {
		flows = append(flows, Flow{
			Protocol: proxier.Protocol(e.Forward.Protocol),
			Src:      end(e.Forward.SrcIP, e.Forward.SrcPort), Dst: end(e.Forward.DstIP, e.Forward.DstPort),
			ReplySrc: end(e.Reverse.SrcIP, e.Reverse.SrcPort), ReplyDst: end(e.Reverse.DstIP, e.Reverse.DstPort),
		})
	}
	return flows
}

func compareFlows(a, b Flow) int { return a.Src.Compare(b.Src) }

func TestCleanDeletesExactlyTheStale(t *testing.T) {
	netlab.Alone(t)
	rows := []struct {
		flow  string
		stale bool
	}{
		{"udp client:1 vip:53 pod1:53", true},
		{"udp client:2 vip:53 pod2:53", false},
		{"udp client:3 vip:53 vip:53", true},
		{"udp client:4 node:30053 pod1:53", true},
		{"udp client:5 node:30053 pod2:53", false},
		{"udp client:6 faraway:30053 pod1:53", false},
		{"udp client:7 ext:53 pod1:53", true},
		{"udp client:8 ext:53 pod3:53", false},
		{"tcp client:9 vip:53 pod1:53", false},
		{"udp client:10 pod1:53 pod1:53", false},
		{"sctp client:11 vip:36412 pod1:36412", true},
		{"sctp client:12 vip:36412 pod2:36412", false},
	}
	r := newRecorder(t)
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		var want []Flow
		deletions := 0
		for _, row := range rows {
			f := flow(family, row.flow)
			r.add(t, f, 0)
			if row.stale {
				deletions++
				continue
			}
			if f.Protocol == proxier.SCTP {
				for _, end := range []*netip.AddrPort{&f.Src, &f.Dst, &f.ReplySrc, &f.ReplyDst} {
					*end = netip.AddrPortFrom(end.Addr(), 0)
				}
			}
			want = append(want, f)
		}
		r.flush(t)
		last := state(family, []string{dns, "sctp sig vip:36412 > pod1:36412"}, "any")
		next := state(family, []string{"udp dns vip:53 port:30053 > pod2:53", "sctp sig vip:36412 > pod2:36412"}, "any")
		n, err := Clean(t.Context(), family, Plan(last, next))
		if err != nil || n != deletions {
			t.Errorf("%s: deleted %d, %v; want %d", family, n, err, deletions)
		}
		got := recorded(t, family)
		slices.SortFunc(got, compareFlows)
		slices.SortFunc(want, compareFlows)
		if !slices.Equal(got, want) {
			t.Errorf("%s: left are\n%v, want\n%v", family, got, want)
		}
		if n, err := Clean(t.Context(), family, Plan(last, next)); n != 0 || err != nil {
			t.Errorf("%s: again: deleted %d, %v", family, n, err)
		}
	}
}

// Entries of the same tuple in two zones are two flows.
func TestCleanNamesTheZone(t *testing.T) {
	netlab.Alone(t)
	r := newRecorder(t)
	stale, right := flow(proxier.IPv4, "udp client:1 vip:53 pod1:53"), flow(proxier.IPv4, "udp client:1 vip:53 pod2:53")
	r.add(t, right, 0)
	r.add(t, stale, 7)
	r.flush(t)
	n, err := Clean(t.Context(), proxier.IPv4, Plan(nil, udp("udp dns vip:53 > pod2:53")))
	if left := recorded(t, proxier.IPv4); err != nil || n != 1 || !slices.Equal(left, []Flow{right}) {
		t.Errorf("deleted %d, %v; left are %v, want %v", n, err, left, right)
	}
}

// A flow that took the place of a stale one between the reading and the deletion
// is not deleted for it.
func TestDeleterSparesTheSuccessor(t *testing.T) {
	netlab.Alone(t)
	r := newRecorder(t)
	f := flow(proxier.IPv4, "udp client:1 vip:53 pod1:53")
	r.add(t, f, 0)
	r.flush(t)
	d := &deleter{socket: r.socket, family: proxier.IPv4}
	other := binary.BigEndian.AppendUint32(nil, 0xdeadbeef)
	e := entry{original: tupleOf(f.Protocol, f.Src, f.Dst), id: other}
	if err := errors.Join(d.delete(e), d.flush()); err != nil || d.deleted != 0 {
		t.Errorf("deleted %d, %v", d.deleted, err)
	}
	e.id = nil
	if err := errors.Join(d.delete(e), d.flush()); err != nil || d.deleted != 1 {
		t.Errorf("the same without id: deleted %d, %v; want 1", d.deleted, err)
	}
}

// The kernel is asked for one protocol, not for all.
func TestKernelFilters(t *testing.T) {
	netlab.Alone(t)
	r := newRecorder(t)
	for i, protocol := range []string{"tcp", "udp", "tcp"} {
		r.add(t, flow(proxier.IPv4, fmt.Sprintf("%s client:%d vip:53 pod1:53", protocol, i+1)), 0)
	}
	r.flush(t)
	s := newRecorder(t).socket
	if err := s.send(dumpRequest(query{proxier.IPv4, proxier.UDP})); err != nil {
		t.Fatal(err)
	}
	entries := 0
	for done := false; !done; {
		answer, err := s.receive()
		if err != nil {
			t.Fatal(err)
		}
		for m := range messages(answer) {
			if done = m.typ == unix.NLMSG_DONE || m.typ == unix.NLMSG_ERROR; done {
				if err := m.errno(); err != nil {
					t.Fatal(err)
				}
				break
			}
			entries++
		}
	}
	if entries != 1 {
		t.Errorf("the kernel sent %d entries, want the one of UDP (needs Linux 5.8)", entries)
	}
}

func TestCleanStopsWithItsContext(t *testing.T) {
	netlab.Alone(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Clean(ctx, proxier.IPv4, Plan(nil, udp(dns))); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
	if n, err := Clean(ctx, proxier.IPv4, nil); n != 0 || err != nil {
		t.Errorf("empty policy: %d, %v", n, err)
	}
}

// One socket with a fixed source port sends to a Service of the real kernel.
func TestRealPackets(t *testing.T) {
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		netlab.Alone(t)
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"client", "pod1", "pod2", "vip"} {
			bits := family.Bits()
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: place(family, name).AsSlice(), Mask: net.CIDRMask(bits, bits)}, Flags: unix.IFA_F_NODAD}
			if err := netlink.AddrAdd(lo, addr); err != nil {
				t.Fatal(name, err)
			}
		}
		pods := map[string]*net.UDPConn{}
		for _, name := range []string{"pod1", "pod2"} {
			pods[name] = listen(t, at(family, name+":53"))
		}
		client := listen(t, at(family, "client:4000"))
		reach := func(why string, want string) {
			t.Helper()
			if _, err := client.WriteToUDPAddrPort([]byte("?"), at(family, "vip:53")); err != nil {
				t.Error(family, why, err)
			}
			for name, pod := range pods {
				_ = pod.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
				_, _, err := pod.ReadFromUDPAddrPort(make([]byte, 8))
				if (err == nil) != (name == want) {
					t.Errorf("%s: %s: reached %s: %v, want %q", family, why, name, err == nil, want)
				}
			}
		}
		clean := func(last, next *proxier.State, want int) {
			t.Helper()
			if n, err := Clean(t.Context(), family, Plan(last, next)); n != want || err != nil {
				t.Errorf("%s: deleted %d, %v; want %d", family, n, err, want)
			}
		}
		one := state(family, []string{"udp dns vip:53 > pod1:53"})
		two := state(family, []string{"udp dns vip:53 > pod2:53"})

		unreached := at(family, "vip:53")
		passer := listen(t, unreached) // takes what nobody translates
		dnat(t, family, "-A", "lo-none")
		passes(t, client, passer, unreached)
		dnat(t, family, "-A", "pod1")
		reach("after the first packet the rules come too late", "")
		clean(state(family, nil), one, 1)
		passer.Close()
		reach("cleaned", "pod1")
		dnat(t, family, "-D", "pod1")
		dnat(t, family, "-A", "pod2")
		reach("endpoint replaced, entry kept", "pod1")
		clean(one, two, 1)
		reach("cleaned", "pod2")
		clean(nil, two, 0)
		reach("restart of the proxy", "pod2")
	}
}

// passes sends until one packet has gone all the way untranslated. A fresh namespace can
// lose the first, and a lost packet leaves no entry.
func passes(t *testing.T, client, passer *net.UDPConn, to netip.AddrPort) {
	t.Helper()
	for range 20 {
		if _, err := client.WriteToUDPAddrPort([]byte("?"), to); err != nil {
			t.Error("no rules:", err)
		}
		_ = passer.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, _, err := passer.ReadFromUDPAddrPort(make([]byte, 8)); err == nil {
			return
		}
	}
	t.Error("no rules: no packet reached the address itself")
}

// dnat adds or deletes the rule that sends vip:53 to a pod; "lo-none" is a rule
// for nobody, so that the kernel tracks flows.
func dnat(t *testing.T, family proxier.Family, operation, pod string) {
	t.Helper()
	tool := map[proxier.Family]string{proxier.IPv4: "iptables", proxier.IPv6: "ip6tables"}[family]
	to, port := "pod1", "9"
	if pod != "lo-none" {
		to, port = pod, "53"
	}
	cmd := exec.Command(tool, "-w", "-t", "nat", operation, "OUTPUT", "-p", "udp", "-d", place(family, "vip").String(),
		"--dport", port, "-j", "DNAT", "--to-destination", at(family, to+":53").String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

func listen(t *testing.T, addr netip.AddrPort) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// A tenth of a large table is stale.
func BenchmarkClean(b *testing.B) {
	const flows = 200_000
	netlab.Alone(b)
	r := newRecorder(b)
	p := Plan(nil, udp("udp dns vip:53 > pod2:53"))
	for b.Loop() {
		b.StopTimer()
		for i := range flows {
			f := flow(proxier.IPv4, "udp client:1 vip:53 pod2:53")
			if i%10 == 0 {
				f = flow(proxier.IPv4, "udp client:1 vip:53 pod1:53")
			}
			src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 4000)
			f.Src, f.ReplyDst = src, src
			r.add(b, f, 0)
		}
		r.flush(b)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		b.StartTimer()
		n, err := Clean(b.Context(), proxier.IPv4, p)
		b.StopTimer()
		runtime.ReadMemStats(&after)
		if n != flows/10 || err != nil {
			b.Fatalf("deleted %d, %v", n, err)
		}
		b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/1e6, "MB/pass")
		if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
