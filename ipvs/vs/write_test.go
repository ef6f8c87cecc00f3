package vs

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/moby/ipvs"
	"golang.org/x/sys/unix"

	"switchyard/ipvs/bounded"
	"switchyard/proxier"
)

// What an answer of the kernel to each operation leads to: another operation, no
// error, or one that means something.
func TestAnswers(t *testing.T) {
	unknown := errors.New("anything else")
	for _, c := range []struct {
		op      Op
		answer  unix.Errno
		instead Op
		means   error // nil: none; unknown: an error that means no more than its errno
	}{
		{AddServer, 0, 0, nil},
		{AddServer, unix.EEXIST, UpdateServer, unknown},
		{AddServer, unix.ENOENT, 0, ErrNoScheduler},
		{AddServer, unix.ENOMEM, 0, unknown},
		{UpdateServer, unix.ESRCH, AddServer, unknown},
		{UpdateServer, unix.ENOENT, 0, ErrNoScheduler},
		{DeleteServer, unix.ESRCH, 0, nil},
		{DeleteServer, unix.EPERM, 0, os.ErrPermission},
		{AddDestination, unix.EEXIST, UpdateDestination, unknown},
		{AddDestination, unix.ESRCH, 0, ErrNoServer},
		{AddDestination, unix.EINVAL, 0, unknown},
		{UpdateDestination, unix.ENOENT, AddDestination, unknown},
		{UpdateDestination, unix.ESRCH, 0, ErrNoServer},
		{DeleteDestination, unix.ENOENT, 0, nil},
		{DeleteDestination, unix.ESRCH, 0, nil},
		{DeleteDestination, unix.EINVAL, 0, unknown},
	} {
		var answer error
		if c.answer != 0 {
			answer = c.answer
		}
		w := Write{Op: c.op}
		if op := w.otherwise(answer); op != max(c.instead, c.op) && op != c.instead {
			t.Errorf("%s, %v: then %s, want %s", c.op, answer, op, c.instead)
		}
		err := w.failure(answer)
		switch {
		case c.means == nil && err != nil,
			c.means == unknown && !errors.Is(err, c.answer),
			c.means != nil && c.means != unknown && !(errors.Is(err, c.means) && errors.Is(err, c.answer)):
			t.Errorf("%s, %v: %v, want %v", c.op, answer, err, c.means)
		}
	}
}

func TestAgain(t *testing.T) {
	one := At(proxier.TCP, netip.MustParseAddrPort("172.30.0.1:80"))
	two := At(proxier.TCP, netip.MustParseAddrPort("172.30.0.2:80"))
	writes := []Write{
		{Op: UpdateServer, Key: one}, {Op: AddDestination, Key: one}, {Op: UpdateDestination, Key: one},
		{Op: DeleteDestination, Key: one}, {Op: AddDestination, Key: two}, {Op: AddServer, Key: two},
	}
	gone := unix.ESRCH
	places, second := again(writes, []error{gone, gone, gone, gone, gone, nil})
	var ops []Op
	for _, w := range second {
		ops = append(ops, w.Op)
	}
	// The destinations of the server that is gone follow it; that of the second
	// server came before it and stays a failure.
	if !slices.Equal(ops, []Op{AddServer, AddDestination, UpdateDestination, DeleteDestination}) ||
		!slices.Equal(places, []int{0, 1, 2, 3}) {
		t.Errorf("%v at %v", ops, places)
	}
}

// A kernel that says nothing ends every call in time, and the table is known to be
// unknown.
func TestAKernelThatSaysNothing(t *testing.T) {
	mute, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(mute[1])
	const timeout = 20 * time.Millisecond
	opened := 0
	k := &Kernel{timeout: timeout, line: bounded.NewLine(timeout, func() (*handle, error) {
		opened++
		fd, err := unix.Dup(mute[0])
		if err != nil {
			return nil, err
		}
		s, err := bounded.Attach(fd, timeout)
		return &handle{Handle: &ipvs.Handle{}, socket: s}, err
	})}
	defer k.Close()
	key := At(proxier.TCP, netip.MustParseAddrPort("172.30.0.1:80"))
	for try := range 3 {
		start := time.Now()
		if err := k.Add(key, Server{Scheduler: "rr"}); !errors.Is(err, ErrNoAnswer) || time.Since(start) > 5*time.Second {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		if opened != try+1 {
			t.Errorf("%d connections after %d calls", opened, try+1)
		}
	}
	if n := k.Operations(); n != 3 {
		t.Errorf("%d writes", n)
	}
}
