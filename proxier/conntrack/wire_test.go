package conntrack

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"switchyard/proxier"
)

func TestInterruptedPassesAreRepeated(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		results []error
		deleted int // one a pass
		err     error
	}{
		"complete":         {[]error{nil}, 1, nil},
		"interrupted once": {[]error{errAgain, nil}, 2, nil},
		"always":           {[]error{errAgain, errAgain, errAgain, errAgain, errAgain, nil}, 5, errAgain},
		"broken":           {[]error{errAgain, broken, nil}, 2, broken},
	} {
		i := 0
		deleted, err := repeat(func() (int, error) {
			i++
			return 1, c.results[i-1]
		})
		if deleted != c.deleted || !errors.Is(err, c.err) {
			t.Errorf("%s: deleted %d, %v; want %d, %v", name, deleted, err, c.deleted, c.err)
		}
	}
}

func TestEndOfDump(t *testing.T) {
	done := func(n int32) message {
		return message{typ: unix.NLMSG_DONE, data: []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}}
	}
	for name, c := range map[string]struct {
		end         message
		interrupted bool
		want        error
	}{
		"complete":                {done(0), false, nil},
		"no payload":              {message{typ: unix.NLMSG_DONE}, false, nil},
		"marked as inconsistent":  {done(0), true, errAgain},
		"ended by a signal":       {done(-int32(unix.EINTR)), false, errAgain},
		"not allowed":             {done(-int32(unix.EPERM)), false, unix.EPERM},
		"conntrack is not loaded": {done(-int32(unix.EINVAL)), false, unix.EINVAL},
	} {
		if err := dumpEnd(c.end, c.interrupted); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// What the kernel sends may be cut anywhere and say anything.
func FuzzParse(f *testing.F) {
	for _, family := range []proxier.Family{proxier.IPv4, proxier.IPv6} {
		fl := flow(family, "udp client:4000 vip:53 pod1:53")
		b := []byte{byte(family), 0, 0, 0}
		b = attribute(b, ctaTupleOrig|unix.NLA_F_NESTED, tupleOf(fl.Protocol, fl.Src, fl.Dst))
		b = attribute(b, ctaTupleReply|unix.NLA_F_NESTED, tupleOf(fl.Protocol, fl.ReplySrc, fl.ReplyDst))
		if e, ok := parse(b, query{family, proxier.UDP}); !ok || e.flow != fl {
			f.Errorf("%v, %v, want %v", e.flow, ok, fl)
		}
		for n := range b {
			f.Add(b[:n])
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for m := range messages(b) {
			_ = m.errno()
			parse(m.data, query{proxier.IPv4, proxier.UDP})
		}
		e, ok := parse(b, query{proxier.IPv4, proxier.UDP})
		if ok && (e.flow.Protocol != proxier.UDP || !e.flow.Src.Addr().Is4() || !e.flow.ReplySrc.Addr().Is4()) {
			t.Errorf("parsed %v", e.flow)
		}
	})
}
