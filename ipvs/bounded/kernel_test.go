package bounded_test

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/ipvs/bounded"
)

// pair is a Socket and the other end, at which the test is the kernel.
func pair(t *testing.T) (*bounded.Socket, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	s, err := bounded.Attach(fds[0], 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); _ = unix.Close(fds[1]) })
	return s, fds[1]
}

// say sends a message as the kernel does.
func say(t *testing.T, kernel int, typ, flags uint16, seq uint32, data ...byte) {
	t.Helper()
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(data)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = append(b, 0, 0, 0, 0)
	if _, err := unix.Write(kernel, append(b, data...)); err != nil {
		t.Fatal(err)
	}
}

func errno(e unix.Errno) []byte { return binary.NativeEndian.AppendUint32(nil, -uint32(e)) }

func request(b []byte, _ int) []byte { return bounded.Begin(b, 77, 0, 1, 2, 3, 4) }

func TestAKernelThatSaysNothing(t *testing.T) {
	s, _ := pair(t)
	for what, call := range map[string]func() error{
		"batch": func() error { return s.Batch(3, request, func(int, error, []byte) { t.Error("answered") }) },
		"question": func() error {
			return s.Ask(request(nil, 0), func() {}, func([]byte) error { t.Error("answered"); return nil })
		},
	} {
		start := time.Now()
		if err := call(); !errors.Is(err, bounded.ErrNoAnswer) || time.Since(start) > 5*time.Second {
			t.Errorf("%s: %v after %s", what, err, time.Since(start))
		}
	}
}

func TestBatchTellsWhatBecameOfEach(t *testing.T) {
	s, kernel := pair(t)
	say(t, kernel, unix.NLMSG_ERROR, 0, 99, errno(unix.EPERM)...) // to somebody else's question
	say(t, kernel, unix.NLMSG_ERROR, 0, 2, errno(unix.EEXIST)...)
	say(t, kernel, unix.NLMSG_ERROR, 0, 1, errno(0)...)
	say(t, kernel, unix.NLMSG_ERROR, 0, 3, append(errno(unix.ENOENT), 5, 6)...)
	got := make([]error, 3)
	var tail []byte
	err := s.Batch(3, request, func(i int, err error, rest []byte) {
		got[i] = err
		tail = append(tail, rest...)
	})
	if want := []error{nil, unix.EEXIST, unix.ENOENT}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if !slices.Equal(tail, []byte{5, 6}) {
		t.Errorf("rest %v", tail)
	}
	sent := make([]byte, 1<<10)
	n, err := unix.Read(kernel, sent)
	if err != nil || n != 3*20 {
		t.Fatalf("sent %d bytes, %v; want three messages of 20 at once", n, err)
	}
	for i := range 3 {
		m := sent[i*20:]
		if binary.NativeEndian.Uint32(m) != 20 || binary.NativeEndian.Uint32(m[8:]) != uint32(i+1) ||
			binary.NativeEndian.Uint16(m[6:]) != unix.NLM_F_REQUEST|unix.NLM_F_ACK {
			t.Errorf("message %d: % x", i, m[:20])
		}
	}
}

func TestAnswersThatAreMissing(t *testing.T) {
	s, kernel := pair(t)
	say(t, kernel, unix.NLMSG_ERROR, 0, 1, errno(0)...)
	answers := 0
	err := s.Batch(2, request, func(int, error, []byte) { answers++ })
	if !errors.Is(err, bounded.ErrNoAnswer) || answers != 1 {
		t.Errorf("%v after %d answers", err, answers)
	}
}

func TestAListThatOthersChange(t *testing.T) {
	s, kernel := pair(t)
	say(t, kernel, 77, unix.NLM_F_MULTI, 1, 1)
	say(t, kernel, 77, unix.NLM_F_MULTI|unix.NLM_F_DUMP_INTR, 1, 2)
	say(t, kernel, unix.NLMSG_DONE, unix.NLM_F_MULTI, 1, errno(0)...)
	say(t, kernel, 77, unix.NLM_F_MULTI, 2, 3)
	say(t, kernel, unix.NLMSG_DONE, unix.NLM_F_MULTI, 2, errno(0)...)
	var got []byte
	err := s.Ask(request(nil, 0), func() { got = nil }, func(data []byte) error {
		got = append(got, data...)
		return nil
	})
	if err != nil || !slices.Equal(got, []byte{3}) {
		t.Errorf("%v, %v; want the second list", got, err)
	}
}

func TestAListThatAlwaysChanges(t *testing.T) {
	s, kernel := pair(t)
	for seq := range uint32(9) {
		say(t, kernel, unix.NLMSG_DONE, unix.NLM_F_MULTI|unix.NLM_F_DUMP_INTR, seq+1, errno(0)...)
	}
	tries := 0
	err := s.Ask(request(nil, 0), func() { tries++ }, func([]byte) error { return nil })
	if !errors.Is(err, bounded.ErrInterrupted) || tries != 5 {
		t.Errorf("%v after %d tries", err, tries)
	}
}

func TestQuestionsThatFail(t *testing.T) {
	s, kernel := pair(t)
	say(t, kernel, unix.NLMSG_ERROR, 0, 1, errno(unix.EINVAL)...)
	if err := s.Ask(request(nil, 0), func() {}, func([]byte) error { return nil }); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
	wrong := errors.New("wrong")
	say(t, kernel, 77, unix.NLM_F_MULTI, 2, 1)
	say(t, kernel, 77, unix.NLM_F_MULTI, 2, 2)
	say(t, kernel, unix.NLMSG_DONE, unix.NLM_F_MULTI, 2, errno(0)...)
	items := 0
	err := s.Ask(request(nil, 0), func() {}, func([]byte) error { items++; return wrong })
	if !errors.Is(err, wrong) || items != 1 {
		t.Errorf("%v after %d items", err, items)
	}
}
