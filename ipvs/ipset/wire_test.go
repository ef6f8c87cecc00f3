package ipset

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/ipvs/bounded"
	"switchyard/proxier"
)

func TestNets(t *testing.T) {
	for _, c := range []struct{ net, want []string }{
		{[]string{"10.0.0.0/8"}, []string{"10.0.0.0/8"}},
		{[]string{"10.1.2.3/8"}, []string{"10.0.0.0/8"}},
		{[]string{"0.0.0.0/0"}, []string{"0.0.0.0/1", "128.0.0.0/1"}},
		{[]string{"::/0"}, []string{"::/1", "8000::/1"}},
	} {
		var got []string
		for _, p := range Nets(netip.MustParsePrefix(c.net[0])) {
			got = append(got, p.String())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.net, got, c.want)
		}
	}
}

func TestLarger(t *testing.T) {
	for _, c := range []struct {
		maxElem, elements uint32
		more              int
		want              uint32
	}{
		{65536, 65536, 1, 131072},
		{65536, 65536, 65537, 262144},
		{100, 100, 1, 200},
		{0, 0, 1, 2},
		{1 << 21, 1 << 21, 1, 1 << 22},
		{1 << 21, 1 << 21, 1 << 30, 1 << 22},
		{1 << 23, 1 << 23, 1, 1 << 23},
	} {
		if got := larger(c.maxElem, c.elements, c.more); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

func TestTemporaryNamesFitAndDiffer(t *testing.T) {
	a, b := Temporary("KUBE-LOAD-BALANCER-SOURCE-CIDR"), Temporary("KUBE-LOAD-BALANCER-SOURCE-IP")
	if a == b || checkName(a) != nil || checkName(b) != nil {
		t.Errorf("%s, %s", a, b)
	}
}

// A message holds at most 200 entries, each with its place.
func TestChangesAreCutIntoMessages(t *testing.T) {
	s := Set{Name: "S", Type: HashIPPortNet, Family: proxier.IPv6, SKBInfo: true}
	entries := make([]Entry, 401)
	for i := range entries {
		entries[i] = Entry{
			Addr: netip.MustParseAddr("fd00::1"), Protocol: proxier.TCP, Port: uint16(i),
			Net: netip.MustParsePrefix("fd00::/64"), Mark: 1,
		}
	}
	messages := changes(cmdAdd, s, entries)
	if len(messages) != 3 || len(messages[0]) > 32<<10 {
		t.Errorf("%d messages, the first of %d bytes", len(messages), len(messages[0]))
	}
	if got := part(entries, 2); !slices.Equal(got, entries[400:]) {
		t.Errorf("the last message has %d entries", len(got))
	}
}

// What the kernel refuses is named; what found no room is kept for another try.
func TestRefusals(t *testing.T) {
	entries := []Entry{{Port: 1}, {Port: 2}, {Port: 3}}
	line := func(n byte) []byte { // an answer that repeats the request with a line number
		b := make([]byte, unix.NLMSG_HDRLEN+nfgenmsgLen)
		return bounded.Attribute(b, attrLine, 0, 0, 0, n)
	}
	for _, c := range []struct {
		err  error
		rest []byte
		left []Entry
		want string
	}{
		{errFull, line(1), entries[1:], ""},
		{errFull, nil, entries, ""},
		{errFull, line(9), entries, ""},
		{errInvalidCIDR, line(2), nil, "entry 3: the network's length is not possible: errno 4104"},
		{unix.ENOENT, nil, nil, "no such set: no such file or directory"},
	} {
		var o outcome
		o.refused(entries, c.err, c.rest)
		text := ""
		if o.err != nil {
			text = o.err.Error()
		}
		if !slices.Equal(o.left, c.left) || text != c.want {
			t.Errorf("%v: left %v, %q; want %q", c.err, o.left, text, c.want)
		}
	}
}

func TestAKernelThatSaysNothing(t *testing.T) {
	mute, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(mute[1])
	opened := 0
	k := newKernel(20*time.Millisecond, func() (*bounded.Socket, error) {
		opened++
		fd, err := unix.Dup(mute[0])
		if err != nil {
			return nil, err
		}
		return bounded.Attach(fd, 20*time.Millisecond)
	})
	defer k.Close()
	set := Set{Name: "S", Type: HashIP, Family: proxier.IPv4}
	for name, call := range map[string]func() error{
		"sets":    func() error { _, err := k.Sets(); return err },
		"entries": func() error { _, err := k.Entries("S"); return err },
		"create":  func() error { return k.Create(set) },
		"change":  func() error { return k.Change("S", []Entry{{Addr: netip.MustParseAddr("10.0.0.1")}}, nil) },
		"flush":   func() error { return k.Flush("S") },
		"destroy": func() error { return k.Destroy("S") },
	} {
		start := time.Now()
		if err := call(); !errors.Is(err, ErrNoAnswer) || time.Since(start) > 5*time.Second {
			t.Errorf("%s: %v after %s", name, err, time.Since(start))
		}
	}
	if opened != 6 {
		t.Errorf("%d connections for 6 calls", opened)
	}
}
