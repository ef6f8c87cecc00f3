package dummy

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"switchyard/ipvs/bounded"
	"switchyard/proxier"
)

func TestAKernelThatSaysNothing(t *testing.T) {
	mute, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(mute[1])
	const timeout = 20 * time.Millisecond
	k, err := Open(Options{Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	k.line = bounded.NewLine(timeout, func() (*bounded.Socket, error) {
		fd, err := unix.Dup(mute[0])
		if err != nil {
			return nil, err
		}
		return bounded.Attach(fd, timeout)
	})
	for name, call := range map[string]func() error{
		"ensure":    func() error { _, err := k.Ensure(); return err },
		"addresses": func() error { _, err := k.Addresses(proxier.IPv6); return err },
		"change":    func() error { return k.Change([]netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil) },
		"delete":    func() error { return k.Delete() },
	} {
		start := time.Now()
		if err := call(); !errors.Is(err, ErrNoAnswer) || time.Since(start) > 5*time.Second {
			t.Errorf("%s: %v after %s", name, err, time.Since(start))
		}
	}
}
